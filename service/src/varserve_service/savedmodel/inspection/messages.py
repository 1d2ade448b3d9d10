"""What a run says: printed lines and failed checks, as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_SHOWN_ELEMENTS = 100
_SHOWN_CHARACTERS = 10_000


def printed(tensor: tf.Tensor) -> str:
    """The text that a print was given."""
    return str(tensor.numpy().decode(errors="replace"))


def legacy_printed(message: str, shown: Sequence[tf.Tensor]) -> str:
    """The text of a print of TensorFlow 1: a message and tensors in brackets."""
    return message + "".join(f"[{text}]" for text in map(part, shown))


def part(tensor: tf.Tensor) -> str:
    """A tensor as a message shows it: strings as they are, numbers as numpy writes them."""
    array = np.asarray(tensor.numpy())
    if array.dtype.kind in "OS":
        strings = [str(each.decode(errors="replace")) for each in array.reshape(-1).tolist()]
        text = " ".join(strings[:_SHOWN_ELEMENTS])
    else:
        text = np.array2string(array, threshold=_SHOWN_ELEMENTS)
    return text[:_SHOWN_CHARACTERS]
