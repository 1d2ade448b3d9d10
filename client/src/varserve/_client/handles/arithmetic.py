"""What a handle of a value does where an array is expected: it reads the value, and is it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from varserve import tensors
from varserve.tensors import Array


class ArrayLike(NDArrayOperatorsMixin):
    """Operators and numpy's functions, on the value that `__array__` reads.

    Each use reads the value once. The results are arrays of this process: what changes the served
    value is said by name, `assign_add` and the like.
    """

    name: Any
    shape: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(each, ArrayLike) for each in options.get("out", ())):
            raise TypeError(
                f"variable {self.name!r}: an operator does not change a served value; "
                "expected assign, assign_add or assign_sub"
            )
        values = [np.asarray(each) if isinstance(each, ArrayLike) else each for each in inputs]
        return getattr(ufunc, method)(*values, **options)

    # Two handles are one key only when they are one object, as tensors of other libraries are.
    __hash__ = object.__hash__

    def __len__(self) -> int:
        shape = self.shape
        if shape is None or (shape and shape[0] is None):
            shape = self.__array__().shape
        if not shape:
            raise TypeError(f"variable {self.name!r} is a scalar and has no length")
        return int(shape[0])

    def __bool__(self) -> bool:
        return bool(self.__array__())

    def __int__(self) -> int:
        return int(self.__array__())

    def __float__(self) -> float:
        return float(self.__array__())

    def __complex__(self) -> complex:
        return complex(self.__array__())

    def __index__(self) -> int:
        value = self.__array__()
        if value.ndim or value.dtype.kind not in "iu":
            raise TypeError(f"variable {self.name!r} is no integer")
        return int(value)

    def __dlpack__(self, **options: Any) -> Any:
        value = self.__array__()
        try:
            return value.__dlpack__(**options)
        except (BufferError, TypeError) as error:
            raise BufferError(
                f"variable {self.name!r}: numpy hands on no {tensors.dtype_name(value.dtype)} by "
                f"DLPack ({error}); read floats with numpy(dtype='float32')"
            ) from None

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the CPU: the value comes over the wire
