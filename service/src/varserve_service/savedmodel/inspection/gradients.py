"""Gradients that a model defines itself: taken where it was saved with them, else refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import ops

from varserve_service.core.errors import Reason, RequestError

from .plan import Plan, Step


def custom_gradient(name: str) -> Any | None:
    """The gradient that is registered under a name, None where there is none."""
    try:
        return ops.gradient_registry.lookup(name)
    except LookupError:
        return None


def check_custom_gradients(function: str, plans: Iterable[Plan], saved: Collection[str]) -> None:
    """Refuse when an operation has a gradient of its own that the model was saved without.

    TensorFlow would take the operation's usual gradient instead, which is another number. `saved`
    are the names of the functions that came with the model: a gradient of the same name that
    another model registered is not this one. Raises RequestError GRADIENT_UNAVAILABLE.
    """
    for plan in plans:
        for step in plan.steps:
            if step.custom_gradient and not _is_of(step.custom_gradient, saved):
                raise RequestError(
                    Reason.GRADIENT_UNAVAILABLE,
                    f"function {function!r}: {step.name} has a custom gradient that the model was "
                    "saved without; save it again with tf.saved_model.SaveOptions("
                    "experimental_custom_gradients=True)",
                    function=function,
                    tensor=step.name,
                )


def _is_of(name: str, saved: Collection[str]) -> bool:
    found = custom_gradient(name)
    if found is None or not name.startswith("CustomGradient-"):
        return found is not None
    # TensorFlow numbers them in each process anew: another model's may have this very name.
    cells = [cell.cell_contents for cell in getattr(found, "__closure__", None) or ()]
    names = [each.name for each in cells if hasattr(each, "name")]
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    return any(each in saved for each in names)


def record_custom(step: Step, inputs: list[Any], outputs: list[Any]) -> None:
    """Let the tape take the operation's own gradient."""
    gradient = custom_gradient(step.custom_gradient)
    assert gradient is not None, "custom gradients are checked before the run"

    def backward(*upstream: Any) -> list[Any]:
        found = gradient(None, *upstream)
        found = list(found) if isinstance(found, list | tuple) else [found]
        return found[-len(inputs) :]

    record.record_operation(step.op, outputs, inputs, backward)


def as_dense(gradient: Any) -> tf.Tensor | None:
    """A gradient as one tensor; what a gather gives is a list of rows."""
    return None if gradient is None else tf.convert_to_tensor(gradient)
