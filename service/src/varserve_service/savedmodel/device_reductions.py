"""What a run of elements comes to, worked out on the device that it is on.

One trace for each dtype serves every value, of any length. Says the same as the core's own
reductions, which is what a value in host memory is reduced by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.reductions import LARGE, SHIFT, SMALL, Counted, Reduced

from .dtypes import SUPPORTED
from .runtime import FlatCall, flat_call

_INFINITY = float("inf")
_LARGEST = float(np.finfo(np.float64).max)
# Integers that float64 does not hold: their bounds are given in their own type.
_WIDE = frozenset({tf.int64, tf.uint64})

_NUMBERS = frozenset(
    tf.as_dtype(name) for name in SUPPORTED if name != "string" and not name.startswith("float8")
)

_calls: dict[tuple[str, tf.DType], FlatCall] = {}
_tracing = threading.Lock()


def prepare(dtype: tf.DType) -> None:
    """Trace what values of this dtype are reduced by, so that no call need wait for it."""
    if dtype in _NUMBERS:
        for kind in _KINDS:
            _call(kind, dtype)


def reduced_on_device(elements: tf.Tensor) -> Reduced:
    """Reduces a tensor of shape [n]; not of string or float8. Raises tf.errors.OpError."""
    count = int(elements.shape[0])
    if count == 0:
        return Reduced(0)
    found, *bounds = _run("reduce", elements)
    nans, infinities, zeros, low, high, total, squares, spread, exponent = found.numpy().tolist()
    if nans + infinities == count:
        return Reduced(count, int(nans), int(infinities))
    if bounds:
        low, high = (int(each.numpy()) for each in bounds)
    elif elements.dtype.is_integer or elements.dtype.is_bool:
        low, high = int(low), int(high)
    return Reduced(
        count,
        int(nans),
        int(infinities),
        int(zeros),
        low,
        high,
        total,
        squares,
        max(0.0, spread),
        int(exponent),
    )


def counted_on_device(elements: tf.Tensor, edges: np.ndarray[Any, Any]) -> Counted:
    """Counts a tensor of shape [n]; not of string or float8. Raises tf.errors.OpError."""
    with tf.device(elements.backing_device):
        bins, below, above = _run("count", elements, tf.constant(edges, tf.float64))
    return Counted(bins.numpy().astype(np.int64), int(below.numpy()), int(above.numpy()))


def _run(kind: str, elements: tf.Tensor, *more: tf.Tensor) -> Any:
    call = _call(kind, elements.dtype)
    with tf.device(elements.backing_device):
        return call([elements, *more])


def _call(kind: str, dtype: tf.DType) -> FlatCall:
    key = (kind, dtype)
    with _tracing:
        if key not in _calls:
            _calls[key] = flat_call(_KINDS[kind](dtype).get_concrete_function())
        return _calls[key]


def _numbers(elements: Any) -> Any:
    """What the elements count as, in float64."""
    if not elements.dtype.is_complex:
        return tf.cast(elements, tf.float64)
    wide = tf.cast(elements, tf.complex128)
    real, imag = tf.math.real(wide), tf.math.imag(wide)
    modulus = tf.abs(wide)
    finite = tf.math.is_finite(real) & tf.math.is_finite(imag)
    modulus = tf.where(finite, tf.minimum(modulus, _LARGEST), _INFINITY)
    return tf.where(tf.math.is_nan(real) | tf.math.is_nan(imag), real + imag, modulus)


def _how_many(condition: Any) -> Any:
    return tf.reduce_sum(tf.cast(condition, tf.float64))


def _reduce(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([None], dtype)])
    def reduce(elements: Any) -> Any:
        numbers = _numbers(elements)
        finite = tf.math.is_finite(numbers)
        nans = _how_many(tf.math.is_nan(numbers))
        count = _how_many(finite)
        infinities = _how_many(~finite) - nans
        zeros = _how_many(tf.equal(numbers, 0.0))
        low = tf.reduce_min(tf.where(finite, numbers, _INFINITY))
        high = tf.reduce_max(tf.where(finite, numbers, -_INFINITY))
        largest = tf.maximum(tf.abs(low), tf.abs(high))
        plain = tf.equal(largest, 0.0) | ((largest > SMALL) & (largest < LARGE))
        up = tf.constant(float(SHIFT), tf.float64)
        exponent = tf.where(plain, tf.zeros_like(up), tf.where(largest >= LARGE, up, -up))
        factor = tf.where(
            plain,
            tf.ones_like(up),
            tf.where(
                largest >= LARGE,
                tf.constant(2.0**-SHIFT, tf.float64),
                tf.constant(2.0**SHIFT, tf.float64),
            ),
        )
        scaled = tf.where(finite, numbers, 0.0) * factor
        total = tf.reduce_sum(scaled)
        squares = tf.reduce_sum(scaled * scaled)
        away = tf.where(finite, scaled - tf.math.divide_no_nan(total, count), 0.0)
        left = tf.reduce_sum(away)
        spread = tf.reduce_sum(away * away) - tf.math.divide_no_nan(left * left, count)
        found = [nans, infinities, zeros, low, high, total, squares, spread, exponent]
        bounds = [tf.reduce_min(elements), tf.reduce_max(elements)] if dtype in _WIDE else []
        return [tf.stack(found), *bounds]

    return reduce


def _count(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([None], dtype), tf.TensorSpec([None], tf.float64)])
    def count(elements: Any, edges: Any) -> Any:
        numbers = _numbers(elements)
        inside = (numbers >= edges[0]) & (numbers <= edges[-1])
        below = _how_many((numbers < edges[0]) & (numbers > -_INFINITY))
        above = _how_many((numbers > edges[-1]) & (numbers < _INFINITY))
        bins = tf.size(edges) - 1
        index = tf.searchsorted(edges, numbers, side="right") - 1
        index = tf.clip_by_value(index, 0, bins - 1)
        # float64 holds a count exactly, and has kernels everywhere.
        counts = tf.math.unsorted_segment_sum(tf.cast(inside, tf.float64), index, bins)
        return [counts, below, above]

    return count


_KINDS: dict[str, Callable[[tf.DType], Any]] = {"reduce": _reduce, "count": _count}
