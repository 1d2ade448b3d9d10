"""One variable of a loaded model: reading, staging, combining and writing its value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.buffers import aligned_copy, aligned_empty
from varserve_service.core.arrays.differences import differing_rows
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices, index_of, region_shape
from varserve_service.core.arrays.sealed import memory_of
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Operation, OwnedValue, Value, VariableSpec

from . import casts, device_reductions
from .casts import CastValue
from .displaced import displaced
from .owned import OwnedTensor, blank, is_alone, staged
from .placement import is_host
from .values import (
    NO_KERNEL,
    OUT_OF_MEMORY,
    RegionValue,
    TensorValue,
    as_tensor,
    cut,
    host_array,
    put_rows,
    slice_bounds,
    to_tensor,
)
from .variable_access import compiled

_FLOAT8 = frozenset({"float8_e5m2", "float8_e4m3fn"})
# Those whose rows TensorFlow reads and writes in place on a GPU, by indices of 64 bits.
_IN_PLACE_ON_DEVICE = frozenset(
    {
        *("float16", "bfloat16", "float32", "float64"),
        *("int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64"),
    }
)


class SavedVariable:
    """Implements the core's Variable over a tf.Variable.

    `sparse` says that the model's own functions gather or scatter it. Such a variable holds its
    memory alone (TensorFlow's copy-on-read mode), so that its rows can be read and written in
    place. Every other variable is only ever replaced as a whole: one write in place would make
    each later read a copy.

    The value of such a variable may be in sealed memory, which other processes have too. It is kept
    here as well: as long as TensorFlow sees a second reference, it writes to other memory.
    """

    def __init__(self, variable: tf.Variable, spec: VariableSpec, *, sparse: bool) -> None:
        self._variable = variable
        self._handle = variable.handle
        self._spec = spec
        # Not the backing device: the handle itself is always in host memory.
        self._device = variable.handle.device
        self._dtype = tf.as_dtype(spec.dtype)
        supported = is_host(self._device) or spec.dtype in _IN_PLACE_ON_DEVICE
        self._in_place = sparse and supported and spec.dtype not in _FLOAT8
        self._initialized = False
        self._sealed: TensorValue | None = None
        kinds = ("read", "assign", "gather", "scatter", "assign_slices")
        used = kinds if self._in_place else kinds[:2]
        self._access = {kind: compiled(kind, self._dtype, self._device) for kind in used}
        casts.prepare(spec.dtype)
        if not is_host(self._device):
            device_reductions.prepare(self._dtype)

    @property
    def spec(self) -> VariableSpec:
        return self._spec

    @property
    def handle(self) -> tf.Tensor:
        """The scalar resource tensor by which TensorFlow's operations know the variable."""
        return self._handle

    @property
    def kept_as(self) -> tuple[tf.DType, str]:
        """Its dtype, and its device as TensorFlow names it."""
        return self._dtype, self._device

    @property
    def writes_in_place(self) -> bool:
        return self._in_place

    def is_initialized(self) -> bool:
        # No operation takes a variable's value away again.
        if not self._initialized:
            self._initialized = bool(tf.raw_ops.VarIsInitializedOp(resource=self._handle))
        return self._initialized

    def shape(self) -> tuple[int, ...]:
        static = self._spec.shape
        if static is not None and None not in static:
            return tuple(size for size in static if size is not None)
        if self._in_place:
            shape = tf.raw_ops.VariableShape(input=self._handle, out_type=tf.int64)
            return tuple(int(size) for size in shape.numpy())
        return tuple(self._whole().shape.as_list())

    def read(self, region: Region | None = None) -> Value:
        try:
            if region is not None and self._in_place:
                return self._read_in_place(region)
            whole = self._whole()
        except OUT_OF_MEMORY as error:  # One that is accessed sparsely is copied.
            name = self._spec.name
            raise OutOfMemory(f"no memory to read variable {name!r}", variable=name) from error
        if region is None:
            return self.value_of(whole)
        return RegionValue(whole, region, variable=self._spec.name)

    def value_of(self, whole: tf.Tensor) -> TensorValue:
        """The Value of what the variable was found to hold."""
        value, sealed = TensorValue(whole), self._sealed
        if sealed is not None:
            if value.address == sealed.address:
                return sealed
            self._sealed = None  # a function has written it
        return value

    def holds(self, value: Value) -> None:
        """Take note that a whole value was written."""
        sealed = isinstance(value, TensorValue) and value.sealed is not None and not self._in_place
        self._sealed = value if sealed else None  # type: ignore[assignment]

    def _whole(self) -> tf.Tensor:
        (tensor,) = self._access["read"](self._handle)
        return tensor

    def _set(self, whole: tf.Tensor) -> None:
        self._access["assign"](self._handle, whole)

    def _gathered(self, indices: tf.Tensor) -> tf.Tensor:
        (rows,) = self._access["gather"](self._handle, indices)
        return rows

    def _read_in_place(self, region: Region) -> Value:
        """Gather no more rows than the region touches, and keep no more of them than it has."""
        if isinstance(region, Rows):
            indices = tf.constant(region.indices, tf.int64)
            return TensorValue(self._gathered(indices))
        shape = self.shape()
        if not shape:
            return TensorValue(self._whole())
        begin, end, strides = slice_bounds(region, shape)
        rows = self._gathered(tf.range(begin[0], end[0], strides[0], dtype=tf.int64))
        inner = Slices((Slice(), *region.dimensions[1:]))
        found = tuple(rows.shape.as_list())
        if region_shape(inner, found, variable=self._spec.name) == found:
            return TensorValue(rows)
        return cut(rows, inner, own=True)

    def part(self, whole: Value, region: Region) -> Value:
        try:
            return cut(as_tensor(whole, self._device), region, own=True)
        except OUT_OF_MEMORY as error:
            raise self._out_of_memory() from error

    def cast(self, value: Value, dtype: str) -> Value:
        return CastValue(value, dtype, self._device)

    def blank(self, shape: Sequence[int]) -> np.ndarray[Any, Any]:
        if self._in_place and is_host(self._device):
            return blank(shape, self._dtype)
        return aligned_empty(tuple(shape), self._dtype.as_numpy_dtype)

    def stage(self, array: np.ndarray[Any, Any]) -> Value:
        own = staged(array)
        if own is not None:
            return own
        tensor = to_tensor(array, self._device)
        return TensorValue(tensor, memory_of(array) if is_host(self._device) else None)

    def combine(self, operation: Operation, base: Value, operand: Value) -> Value:
        if operation is Operation.SET:
            return operand
        add = operation is Operation.ADD
        try:
            if self._spec.dtype in _FLOAT8:
                # TensorFlow has no arithmetic for them; numpy's goes by way of float32.
                left, right = base.numpy(), operand.numpy()
                return self.stage(np.asarray(left + right if add else left - right))
            x, y = as_tensor(base, self._device), as_tensor(operand, self._device)
            with tf.device(self._device):
                op = tf.raw_ops.AddV2 if add else tf.raw_ops.Sub
                return TensorValue(op(x=x, y=y))
        except OUT_OF_MEMORY as error:
            raise self._out_of_memory() from error

    def overlay(self, base: Value, value: Value, region: Region) -> Value:
        try:
            return TensorValue(self._overlay(as_tensor(base, self._device), value, region))
        except OUT_OF_MEMORY as error:
            raise self._out_of_memory() from error

    def _overlay(self, base: tf.Tensor, value: Value, region: Region) -> tf.Tensor:
        if not is_host(base.backing_device):
            try:
                with tf.device(base.backing_device):
                    return self._overlay_on_device(base, as_tensor(value, self._device), region)
            except NO_KERNEL:
                pass  # For this dtype, on this device: by way of the host.
        old = host_array(base)
        new = aligned_copy(old)
        new[index_of(region)] = value.numpy()
        return to_tensor(new, self._device)

    def _overlay_on_device(self, base: tf.Tensor, value: tf.Tensor, region: Region) -> tf.Tensor:
        if isinstance(region, Rows):
            return put_rows(base, region.indices, value)
        begin, end, strides = slice_bounds(region, tuple(base.shape.as_list()))
        return tf.raw_ops.TensorStridedSliceUpdate(
            input=base, begin=begin, end=end, strides=strides, value=value
        )

    def write(self, value: Value, region: Region | None = None) -> None:
        try:
            if region is None:
                self._set(as_tensor(value, self._device))
                self._initialized = True
                self.holds(value)
            elif self._in_place and self.shape():
                self._write_in_place(as_tensor(value, self._device), region)
            else:
                self._set(self._overlay(self._whole(), value, region))
                self._sealed = None
        except OUT_OF_MEMORY as error:
            raise self._out_of_memory() from error

    def is_alone(self, value: Value) -> bool:
        return is_alone(value)

    def own(self, value: Value) -> OwnedTensor:
        if isinstance(value, OwnedTensor) and value.is_alone:
            return value
        try:
            tensor = as_tensor(value, self._device)
            try:
                with tf.device(self._device):
                    return OwnedTensor(tf.raw_ops.DeepCopy(x=tensor))
            except NO_KERNEL:  # For this dtype, on this device: by way of the host.
                return OwnedTensor(to_tensor(aligned_copy(value.numpy()), self._device))
        except OUT_OF_MEMORY as error:
            raise self._out_of_memory() from error

    def own_with(self, owned: OwnedValue, value: Value, region: Region) -> OwnedTensor:
        assert isinstance(owned, OwnedTensor)
        if is_host(self._device):
            owned.put(region, value.numpy())
            return owned
        return self.own(self.overlay(owned, value, region))

    def swap(self, owned: OwnedValue) -> Value:
        assert isinstance(owned, OwnedTensor)
        with tf.device(self._device):
            previous = self._alias()
            tf.raw_ops.AssignVariableOp(resource=self._handle, value=owned.take())
        return displaced(previous)

    def _alias(self) -> tf.Tensor:
        """What the variable holds, not a copy of it."""
        # Else TensorFlow copies both what is read here and what is assigned after it, since
        # functions gather from the variable. The next of them switches this on again, and copies
        # nothing as long as nobody else holds the tensor.
        tf.raw_ops.DisableCopyOnRead(resource=self._handle)
        return tf.raw_ops.ReadVariableOp(resource=self._handle, dtype=self._dtype)

    def differing_rows(self, whole: Value) -> np.ndarray[Any, Any] | None:
        if not is_host(self._device) or self._dtype == tf.string:
            return None
        present = host_array(self._alias())
        if not present.shape or present.shape != whole.shape:
            return None
        return differing_rows(present, whole.numpy())

    def _write_in_place(self, value: tf.Tensor, region: Region) -> None:
        if math.prod(value.shape.as_list()) == 0:
            return
        if isinstance(region, Rows):
            indices = tf.constant(region.indices, tf.int64)
            self._access["scatter"](self._handle, indices, value)
            return
        bounds = slice_bounds(region, self.shape())
        begin, end, strides = (tf.constant(bound, tf.int64) for bound in bounds)
        self._access["assign_slices"](self._handle, begin, end, strides, value)

    def _out_of_memory(self) -> OutOfMemory:
        name = self._spec.name
        return OutOfMemory(f"no memory for a new value of variable {name!r}", variable=name)
