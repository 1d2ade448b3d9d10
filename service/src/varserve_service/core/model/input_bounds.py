"""Bounds that an operator sets for the inputs of functions.

Some kernels end the process for inputs that fit a function's dtypes and shapes: a bound refuses
such a call before TensorFlow sees it. Knows nothing of who sets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Function

from .naming import Directory

BoundsByInput = Mapping[str, "InputBounds"]


@dataclass(frozen=True, slots=True)
class InputBounds:
    """What an input may be; None: anything. Values are bounded where they are real numbers."""

    min_rank: int = 0
    max_rank: int | None = None
    max_elements: int | None = None
    min_value: float | None = None
    max_value: float | None = None

    def problem(self, array: np.ndarray[Any, Any], *, values: bool) -> str | None:
        """What is wrong with an array; `values`: they are there, and not the shape alone."""
        if array.ndim < self.min_rank:
            return f"expected a rank of at least {self.min_rank}, found {array.ndim}"
        if self.max_rank is not None and array.ndim > self.max_rank:
            return f"expected a rank of at most {self.max_rank}, found {array.ndim}"
        if self.max_elements is not None and array.size > self.max_elements:
            return f"expected at most {self.max_elements} elements, found {array.size}"
        if not values or not array.size or array.dtype.kind in "OSUc":
            return None
        if self.min_value is not None and not (smallest := array.min()) >= self.min_value:
            return f"expected values of at least {self.min_value:g}, found {smallest}"
        if self.max_value is not None and not (largest := array.max()) <= self.max_value:
            return f"expected values of at most {self.max_value:g}, found {largest}"
        return None


class FunctionBounds:
    """The bounds of one model, by function and input."""

    def __init__(self, bounds: Mapping[str, BoundsByInput], functions: Directory[Function]) -> None:
        """Raises RequestError for a function or input that the model does not have."""
        self._bounds: dict[str, BoundsByInput] = {}
        for name, by_input in bounds.items():
            spec = functions.find(name).spec
            known = {each.name for overload in spec.overloads for each in overload.inputs}
            for unknown in sorted(by_input.keys() - known):
                raise RequestError(
                    Reason.INPUT_MISMATCH,
                    f"input_bounds of function {spec.name!r}: no input {unknown!r}; expected "
                    f"{', '.join(sorted(known)) or 'none'}",
                    function=spec.name,
                )
            self._bounds[spec.name] = by_input

    def check(
        self, function: str, inputs: Mapping[str, np.ndarray[Any, Any]], *, values: bool = True
    ) -> None:
        """Raises RequestError INPUT_MISMATCH. `function`: as it is listed."""
        for name, bounds in self._bounds.get(function, {}).items():
            array = inputs.get(name)
            problem = None if array is None else bounds.problem(array, values=values)
            if problem is not None:
                raise RequestError(
                    Reason.INPUT_MISMATCH,
                    f"function {function!r}, input {name!r}: {problem}: a bound of this service",
                    function=function,
                )
