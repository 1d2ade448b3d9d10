"""Values in files: safetensors to and from; .npz, Keras' files, checkpoints and SavedModels from.

Needs neither TensorFlow nor Keras. Knows variables by their specs, and nothing of the service.
"""

from .choosing import choose, values_of
from .opening import open_stored
from .stored_tensors import Stored, StoredTensor, is_copy, unusable

__all__ = [
    "Stored",
    "StoredTensor",
    "choose",
    "is_copy",
    "open_stored",
    "unusable",
    "values_of",
]
