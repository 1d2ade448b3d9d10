"""Values in forms and in answers: inputs from JSON, outputs in a few words and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from varserve import Constant, FunctionSpec, Histogram, InputSpec, TensorSpec
from varserve.tensors import Array, as_array, dtype_name
from varserve.web.pages.common import BINS


def inputs_of(spec: FunctionSpec, form: Mapping[str, str]) -> dict[str, Any]:
    """The inputs that a form has, as JSON. Raises ValueError."""
    found: dict[str, Any] = {}
    for name, kinds in spec.inputs.items():
        text = form.get(f"input:{name}", "").strip()
        if not text:
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"input {name}: expected JSON, found {text[:80]!r}: {error}") from None
        found[name] = _input(kinds, value)
    return found


def _input(kinds: tuple[InputSpec, ...], value: Any) -> Any:
    for each in kinds:
        if isinstance(each.kind, Constant) and each.kind.matches(value):
            return value
    for each in kinds:
        if isinstance(each.kind, TensorSpec):
            return as_array(value, dtype_name(each.kind.dtype))
    return value


def shown(value: Array) -> dict[str, Any]:
    """A value in a few words: its first elements, and a picture of all of them."""
    array = np.asarray(value)
    text = np.array2string(array, threshold=40, precision=5, max_line_width=100)
    picture = None
    if array.dtype.kind in "fiub" and array.size > 1:
        floats = array.astype(np.float64).ravel()
        finite = floats[np.isfinite(floats)]
        if finite.size:
            counts, edges = np.histogram(finite, BINS)
            picture = Histogram(counts.astype(np.int64), edges)
    return {
        "text": text,
        "histogram": picture,
        "dtype": dtype_name(array.dtype),
        "shape": array.shape,
    }
