"""Builders of SavedModels, by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BUILDERS: dict[str, Callable[[Path], Path]] = {}
"""What `builder` has made available."""

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "complex64",
    "complex128",
    "string",
)
"""Every dtype that a tf.Variable can hold and the contract carries."""


def builder(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Make a builder available by name."""
    BUILDERS[function.__name__] = function
    return function


def build(name: str, root: Path) -> Path:
    """Build `root/name` in this process, which imports TensorFlow; once for each root."""
    folder = root / name
    return folder if folder.is_dir() else BUILDERS[name](folder)


def save(module: Any, folder: Path, signatures: Any = None) -> Path:
    """Save a module, and give its folder."""
    import tensorflow as tf

    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder
