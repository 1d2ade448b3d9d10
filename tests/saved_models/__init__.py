"""Small real SavedModels of every kind that people have, built where they are asked for.

From a test: `build("counter", folder)`, which imports TensorFlow. By hand:
`python -m tests.saved_models counter FOLDER`. Both give `FOLDER/counter`. Each kind of model has a
module.
"""

from . import (
    control_flow,
    graphs,
    inspectable,
    keras,
    modules,
    reference_variables,
    restored,
    signatures,
    tables,
)
from .building import BUILDERS, DTYPES, build, builder

__all__ = [
    "BUILDERS",
    "DTYPES",
    "build",
    "builder",
    "control_flow",
    "graphs",
    "inspectable",
    "keras",
    "modules",
    "reference_variables",
    "restored",
    "signatures",
    "tables",
]
