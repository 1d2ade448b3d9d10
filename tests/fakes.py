"""A loaded model made of numpy arrays, behind the same ports as a real one.

It is as careless as TensorFlow where the core must be careful: an in-place write changes memory
that a reader may hold a reference to, one row after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from varserve.tensors import numpy_dtype
from varserve_service.core.arrays.differences import differing_rows
from varserve_service.core.arrays.reductions import Counted, Reduced, counted, reduced
from varserve_service.core.arrays.regions import Region, Rows
from varserve_service.core.errors import FunctionFailed, OutOfMemory
from varserve_service.core.memory import Room
from varserve_service.core.ports.function_messages import MessageListener
from varserve_service.core.ports.loaded_model import (
    FunctionKind,
    FunctionSpec,
    InputSpec,
    Omission,
    Operation,
    OutputSpec,
    Overload,
    Parameter,
    ParameterKind,
    TensorSpec,
    Value,
    Variable,
    VariableSpec,
)

Array = np.ndarray[Any, Any]


@cache  # numpy puts the name together each time
def dtype_name(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


class FakeValue:
    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def dtype(self) -> str:
        return dtype_name(self.array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        if self.dtype == "string":
            return sum(len(element) for element in self.array.reshape(-1))
        return self.array.nbytes

    def numpy(self) -> Array:
        return self.array

    def buffer(self, start: int, stop: int) -> memoryview:
        return memoryview(np.ascontiguousarray(self.array).reshape(-1).view(np.uint8))[start:stop]

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return reduced(self.array.reshape(-1)[start:stop])

    def count(self, start: int, stop: int, edges: Array) -> Counted:
        return counted(self.array.reshape(-1)[start:stop], edges)


class FakePart(FakeValue):
    """A region that holds the whole that it was cut from."""

    def __init__(self, array: Array, whole: Array) -> None:
        super().__init__(array)
        self.whole = whole


def index_of(region: Region) -> Any:
    return region.indices if isinstance(region, Rows) else region.index()


class FakeVariable:
    """`fail_after` writes, the next one raises OutOfMemory. `in_place` writes as a scatter does."""

    def __init__(
        self,
        name: str,
        array: Array | None,
        *,
        path: str | None = None,
        shape: tuple[int | None, ...] | None = (),
        dtype: str = "float32",
        in_place: bool = False,
    ) -> None:
        if array is not None:
            shape, dtype = array.shape if shape == () else shape, dtype_name(array.dtype)
        self.spec = VariableSpec(name, path or name, dtype, shape, True, "CPU:0")
        self.writes_in_place = in_place
        self.array = array
        self.fail_after: int | None = None
        self.between_rows: Callable[[], None] = lambda: None

    def is_initialized(self) -> bool:
        return self.array is not None

    def shape(self) -> tuple[int, ...]:
        assert self.array is not None
        return self.array.shape

    def read(self, region: Region | None = None) -> Value:
        assert self.array is not None
        if region is None:
            return FakeValue(self.array.copy() if self.writes_in_place else self.array)
        part = self.array[index_of(region)].copy()
        return FakeValue(part) if self.writes_in_place else FakePart(part, self.array)

    def part(self, whole: Value, region: Region) -> Value:
        return FakeValue(whole.numpy()[index_of(region)].copy())

    def cast(self, value: Value, dtype: str) -> Value:
        with np.errstate(over="ignore"):
            return FakeValue(value.numpy().astype(numpy_dtype(dtype)))

    def stage(self, array: Array) -> Value:
        return FakeValue(array)

    def combine(self, operation: Operation, base: Value, operand: Value) -> Value:
        a, b = base.numpy(), operand.numpy()
        return FakeValue(a + b if operation is Operation.ADD else a - b)

    def overlay(self, base: Value, value: Value, region: Region) -> Value:
        whole = base.numpy().copy()
        whole[index_of(region)] = value.numpy()
        return FakeValue(whole)

    def blank(self, shape: Sequence[int]) -> Array:
        return np.empty(shape, numpy_dtype(self.spec.dtype))

    def is_alone(self, value: Value) -> bool:
        return False

    def own(self, value: Value) -> FakeValue:
        return FakeValue(value.numpy().copy())

    def own_with(self, owned: Any, value: Value, region: Region) -> FakeValue:
        return FakeValue(self.overlay(owned, value, region).numpy())

    def differing_rows(self, whole: Value) -> Array | None:
        assert self.array is not None
        if self.array.shape != whole.shape:
            return None
        return differing_rows(np.ascontiguousarray(self.array), whole.numpy())

    def swap(self, owned: Any) -> Value:
        self._fail_if_due()
        previous, self.array = self.array, owned.numpy()
        assert previous is not None
        return FakeValue(previous)

    def _fail_if_due(self) -> None:
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                self.fail_after = None
                raise OutOfMemory(f"no memory for {self.spec.name}")

    def write(self, value: Value, region: Region | None = None) -> None:
        self._fail_if_due()
        if region is None and (self.array is None or not self.writes_in_place):
            self.array = value.numpy()
            return
        assert self.array is not None
        if not self.array.ndim:
            self.array[...] = value.numpy()
            return
        index = slice(None) if region is None else index_of(region)
        first, *inner = (index or (slice(None),)) if isinstance(index, tuple) else (index,)
        rows = np.arange(self.array.shape[0])[first]
        for source, row in enumerate(np.atleast_1d(rows)):
            self.array[(row, *inner)] = value.numpy()[source]
            self.between_rows()


class FakeFunction:
    """A Python callable over named arrays, as a function of one overload."""

    def __init__(
        self,
        name: str,
        call: Callable[..., dict[str, Array]],
        *,
        inputs: Mapping[str, TensorSpec] | None = None,
        outputs: Mapping[str, TensorSpec] | None = None,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
    ) -> None:
        self._call = call
        self.cancelled = threading.Event()
        self.spec = FunctionSpec(
            name,
            name,
            FunctionKind.FUNCTION,
            (
                Overload(
                    tuple(InputSpec(key, spec) for key, spec in (inputs or {}).items()),
                    tuple(OutputSpec(key, spec) for key, spec in (outputs or {}).items()),
                    reads,
                    writes,
                ),
            ),
            tuple(
                Parameter(name, ParameterKind.POSITIONAL)
                for name in dict.fromkeys(key.split("/")[0] for key in inputs or {})
            ),
        )

    def stage(
        self,
        overload: int,
        inputs: Mapping[str, Array],
        on_message: MessageListener | None = None,
    ) -> FakeRun:
        assert overload == 0
        return FakeRun(self, lambda: self._call(**inputs))


class FakeRun:
    """A staged run. To be cancelled, the function's call must look at `cancelled`."""

    def __init__(self, function: FakeFunction, call: Callable[[], dict[str, Array]]) -> None:
        self._function = function
        self._call = call

    def __call__(self) -> dict[str, Value]:
        try:
            return {name: FakeValue(array) for name, array in self._call().items()}
        except ArithmeticError as error:
            raise FunctionFailed(str(error)) from None

    def written_rows(self) -> dict[str, Array]:
        return {}

    def cancel(self) -> None:
        self._function.cancelled.set()


class FakeModel:
    def __init__(
        self,
        variables: list[FakeVariable],
        functions: list[FakeFunction] | None = None,
        name: str = "fake",
        omissions: Sequence[Omission] = (),
    ) -> None:
        self.name = name
        self.version = 1
        self.fingerprint = "fake"
        self.set_at_load: frozenset[str] = frozenset()
        self.device = "CPU:0"
        self.variables = variables
        self.functions = functions or []
        self.omissions = omissions
        self.room: Room | None = None

    def device_memory(self) -> Room | None:
        return self.room

    def read(self, variables: Sequence[Variable]) -> Sequence[Value]:
        return [variable.read() for variable in variables]

    def write(self, values: Sequence[tuple[Variable, Value]]) -> None:
        for variable, value in values:
            variable.write(value)


class Gate:
    """Stops whoever passes until it is opened, and tells when somebody has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60), "the gate was never opened"
