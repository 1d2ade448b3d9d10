"""SavedModels in memory: the only room that imports TensorFlow, behind the core's ports."""

from __future__ import annotations

import os

from .quiet_import import quiet_import

# Before the first import of TensorFlow, which otherwise tells standard error about its CPU flags.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# On processors for which TensorFlow uses oneDNN, it would otherwise keep the memory of every large
# value that a variable ever had, in a pool of its own.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

try:
    with quiet_import():
        import tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ModuleNotFoundError(
        'TensorFlow is not installed: pip install "varserve-service[cpu]", or '
        '"varserve-service[gpu]" on a machine with an NVIDIA GPU',
        name="tensorflow",
    ) from None

from .allowed_operations import check_operations
from .loader import load
from .placement import Placement, configure_devices
from .runtime import graph_functions, prepare_thread
from .saving import save_checkpoint, save_saved_model

__all__ = [
    "Placement",
    "check_operations",
    "configure_devices",
    "graph_functions",
    "load",
    "prepare_thread",
    "save_checkpoint",
    "save_saved_model",
]
