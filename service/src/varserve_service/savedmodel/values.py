"""Tensor values: how an eager tensor, or a part of one, is seen as the core's Value.

Values on the host share the tensor's memory; values on a device are copied part by part.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.buffers import aligned_copy, aligned_empty, is_aligned
from varserve_service.core.arrays.reductions import Counted, Reduced, counted, reduced
from varserve_service.core.arrays.regions import Region, Rows, Slices, region_shape
from varserve_service.core.arrays.sealed import SealedMemory
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.values.host_value import HostValue

from .device_reductions import counted_on_device, reduced_on_device
from .placement import device_name, is_host, on_device
from .runtime import shape_of

# DLPack has no name for bfloat16; TensorFlow bitcasts to it for free. For the float8 types it has
# no bitcast either, so that they are copied.
_CARRIERS = {"bfloat16": np.dtype(np.uint16)}
_COPIED = "float8"

T = TypeVar("T")

OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
"""What TensorFlow raises where there is no memory."""

NO_KERNEL = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.UnimplementedError,
)
"""What TensorFlow raises where a device has no kernel for a dtype."""


def host_array(tensor: tf.Tensor) -> np.ndarray[Any, Any]:
    """A read-only view of a host tensor's memory; a copy of a device's or of strings."""
    array = np.asarray(tensor)
    # Without this an array of bfloat16 is a writable alias of the variable.
    array.flags.writeable = False
    return array


def to_tensor(array: np.ndarray[Any, Any], device: str) -> tf.Tensor:
    """A tensor on `device` of the array's elements; takes the array over where that is safe.

    The memory of a writable, C-contiguous, aligned array becomes the tensor's; anything else is
    copied once. Raises OutOfMemory.
    """
    try:
        with on_device("CPU:0"):
            tensor = _host_tensor(array)
        if is_host(device):
            return tensor
        with on_device(device):
            return tf.identity(tensor)
    except OUT_OF_MEMORY as error:
        raise OutOfMemory(f"no memory for a value of {array.nbytes} bytes") from error


def _host_tensor(array: np.ndarray[Any, Any]) -> tf.Tensor:
    if array.dtype.hasobject:
        return tf.constant(array, tf.string, shape=array.shape)
    dtype, name = _native(array.dtype)
    if name.startswith(_COPIED) or array.size == 0:
        return tf.constant(array, tf.as_dtype(name), shape=array.shape)
    if not (
        array.flags.writeable
        and array.flags.c_contiguous
        and array.dtype.isnative
        and is_aligned(array)
    ):
        copy = aligned_empty(array.shape, dtype)
        np.copyto(copy, array)
        array = copy
    carrier = _CARRIERS.get(name)
    if carrier is None:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    capsule = array.view(carrier).__dlpack__()
    return tf.bitcast(tf.experimental.dlpack.from_dlpack(capsule), tf.as_dtype(name))


# numpy takes microseconds to put a dtype's name together.
@lru_cache(maxsize=256)
def _native(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], str]:
    """The dtype in this machine's byte order, and its name."""
    native = dtype.newbyteorder("=")
    return native, native.name


class TensorValue:
    """A whole eager tensor as a Value.

    `sealed`: the sealed memory that has the same bytes; None where there is none.
    """

    __slots__ = ("_bytes", "_dtype", "_flat", "_nbytes", "_shape", "_tensor", "sealed")

    def __init__(self, tensor: tf.Tensor, sealed: SealedMemory | None = None) -> None:
        self._tensor = tensor
        self.sealed = sealed
        self._bytes: np.ndarray[Any, Any] | None = None
        self._flat: np.ndarray[Any, Any] | None = None
        # TensorFlow puts each of these together anew, and a read asks for them several times.
        dtype = tensor.dtype
        self._dtype = str(dtype.name)
        self._shape = shape_of(tensor)
        self._nbytes = math.prod(self._shape) * int(dtype.size)

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def nbytes(self) -> int:
        if self._dtype == "string" and 0 not in self._shape:
            return sum(len(element) for element in self.numpy().flat)
        return self._nbytes

    @property
    def tensor(self) -> tf.Tensor:
        """The tensor itself, wherever it lives."""
        return self._tensor

    @property
    def address(self) -> int:
        """Where a host tensor's bytes are. Two that are alive at once share it if they are one."""
        return int(host_array(self._tensor).ctypes.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        try:
            return host_array(self._tensor)
        except tf.errors.ResourceExhaustedError as error:
            raise self._no_memory("bring to the host") from error

    def buffer(self, start: int, stop: int) -> memoryview:
        if self.dtype == "string":
            raise TypeError("strings have no buffer of elements")
        if not self._nbytes:  # Of sizes, maybe, that no array of numpy can have.
            return memoryview(b"")
        if not is_host(self._tensor.backing_device):
            return self._device_bytes(start, stop)
        if self._bytes is None:
            self._bytes = host_array(self._tensor).reshape(-1).view(np.uint8)
        return self._bytes.data[start:stop]

    def _device_bytes(self, start: int, stop: int) -> memoryview:
        """Copy whole elements around the bytes from the device, and cut."""
        size = int(self._tensor.dtype.size)
        first, last = start // size, -(-stop // size)
        try:
            data = host_array(self._device_part(first, last)).view(np.uint8)
        except tf.errors.ResourceExhaustedError as error:
            raise self._no_memory("bring to the host") from error
        return data.data[start - first * size : stop - first * size]

    def _no_memory(self, purpose: str) -> OutOfMemory:
        return OutOfMemory(f"no memory on the device to {purpose} a value of {self._nbytes} bytes")

    def _device_part(self, start: int, stop: int) -> tf.Tensor:
        with tf.device(self._tensor.backing_device):
            return tf.reshape(self._tensor, [-1])[start:stop]

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return self._work_out(reduced, lambda part: [reduced_on_device(part)], start, stop)

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return self._work_out(
            lambda part: counted(part, edges),
            lambda part: counted_on_device(part, edges),
            start,
            stop,
        )

    def _work_out(
        self,
        on_host: Callable[[np.ndarray[Any, Any]], T],
        on_device: Callable[[tf.Tensor], T],
        start: int,
        stop: int,
    ) -> T:
        """What a part comes to, worked out where it is. Raises OutOfMemory."""
        if is_host(self._tensor.backing_device):
            return on_host(self._host_part(start, stop))
        try:
            part = self._device_part(start, stop)
            if self.dtype.startswith(_COPIED):  # TensorFlow computes nothing of them.
                return on_host(host_array(part))
            try:
                return on_device(part)
            except NO_KERNEL:  # For this dtype, on this device: by way of the host.
                return on_host(host_array(part))
        except tf.errors.ResourceExhaustedError as error:
            raise self._no_memory("summarize") from error

    def _host_part(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        if self._flat is None:
            self._flat = host_array(self._tensor).reshape(-1)
        return self._flat[start:stop]


class RegionValue:
    """A region of a value: holds the whole and cuts the part out on first use."""

    __slots__ = ("_dtype", "_lock", "_nbytes", "_part", "_region", "_shape", "_variable", "_whole")

    def __init__(self, whole: tf.Tensor, region: Region, *, variable: str) -> None:
        self._whole: tf.Tensor | None = whole
        self._region = region
        self._dtype = str(whole.dtype.name)
        self._variable = variable
        self._shape = region_shape(region, tuple(whole.shape.as_list()), variable=variable)
        self._nbytes = math.prod(self._shape) * int(whole.dtype.size)
        self._part: TensorValue | HostValue | None = None
        self._lock = threading.Lock()

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def nbytes(self) -> int:
        return self.cut().nbytes if self._dtype == "string" else self._nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.cut().numpy()

    def buffer(self, start: int, stop: int) -> memoryview:
        return self.cut().buffer(start, stop)

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return self.cut().reduce(start, stop)

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return self.cut().count(start, stop, edges)

    def cut(self) -> TensorValue | HostValue:
        """The part alone. Raises OutOfMemory."""
        with self._lock:
            if self._part is None:
                try:
                    self._part = cut(self._whole, self._region)
                except OUT_OF_MEMORY as error:
                    name = self._variable
                    raise OutOfMemory(
                        f"no memory for a part of variable {name!r}", variable=name
                    ) from error
                # The whole may be a thousand times the part.
                self._whole = None
            return self._part


def cut(whole: tf.Tensor, region: Region, *, own: bool = False) -> TensorValue | HostValue:
    """The region of a tensor: on the host without a copy where it is contiguous.

    `own`: in memory of its own, so that it does not keep the whole alive.
    """
    if not is_host(whole.backing_device):
        try:
            with tf.device(whole.backing_device):
                return TensorValue(_cut_on_device(whole, region, own=own))
        except NO_KERNEL:
            pass  # For this dtype, on this device: by way of the host.
    array = host_array(whole)
    if isinstance(region, Rows):
        part = np.take(array, region.indices, axis=0)
    else:
        index: Any = (*region.index(), ...)
        view = array[index]
        part = (aligned_copy(view) if own else np.ascontiguousarray(view)).reshape(view.shape)
    part.flags.writeable = False
    return HostValue(part)


def _cut_on_device(whole: tf.Tensor, region: Region, *, own: bool) -> tf.Tensor:
    if isinstance(region, Rows):
        return by_rows(lambda rows: tf.gather(rows, region.indices), whole, kernels=_GATHERED)
    begin, end, strides = slice_bounds(region, tuple(whole.shape.as_list()))
    if not own:
        return tf.raw_ops.StridedSlice(input=whole, begin=begin, end=end, strides=strides)
    # TensorFlow cuts a run of the outermost dimension without a copy: it must not be that.
    return tf.raw_ops.StridedSlice(
        input=tf.expand_dims(whole, 0),
        begin=np.insert(begin, 0, 0),
        end=np.insert(end, 0, 1),
        strides=np.insert(strides, 0, 1),
        shrink_axis_mask=1,
    )


def put_rows(base: tf.Tensor, indices: np.ndarray[Any, Any], rows: tf.Tensor) -> tf.Tensor:
    """`base` with rows of it replaced by others, on the device of both."""

    def put(base: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        return tf.tensor_scatter_nd_update(base, indices[:, np.newaxis], rows)

    return by_rows(put, base, rows, kernels=_SCATTERED)


# Dtypes whose rows TensorFlow gathers, and scatters, on a GPU. It does so with any other on the
# host, after it has brought all of it there.
_GATHERED = frozenset(
    {"bool", "float16", "bfloat16", "float32", "float64", "complex64", "complex128", "int64"}
)
_SCATTERED = frozenset({"float32", "float64", "complex64", "complex128", "int64"})
# How many elements of the others are one of the dtype that their bits can be moved as.
_WORDS = {
    **dict.fromkeys(("int8", "uint8"), (4, tf.float32)),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), (2, tf.float32)),
    "uint32": (1, tf.float32),
    "uint64": (1, tf.int64),
}


def by_rows(
    move: Callable[..., tf.Tensor], *tensors: tf.Tensor, kernels: frozenset[str]
) -> tf.Tensor:
    """What `move` makes of tensors by their rows, whose elements it leaves as they are.

    `kernels`: the dtypes that it moves. Of another it gets the same bits as one of these, where
    rows are whole words of that.
    """
    first = tensors[0]
    count, word = _WORDS.get(first.dtype.name, (0, first.dtype))
    row = tuple(first.shape.as_list()[1:])
    size = math.prod(row)
    if first.dtype.name in kernels or not count or size % count:
        return move(*tensors)
    parts = [size // count] if count == 1 else [size // count, count]
    moved = move(*(tf.bitcast(tf.reshape(each, [each.shape[0], *parts]), word) for each in tensors))
    return tf.reshape(tf.bitcast(moved, first.dtype), [moved.shape[0], *row])


def slice_bounds(
    region: Slices, shape: tuple[int, ...]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Begin, end and stride of each dimension, int64 of shape [rank], as TensorFlow takes them."""
    parts = [s.indices(size) for s, size in zip(region.index(), shape, strict=False)]
    parts += [(0, size, 1) for size in shape[len(parts) :]]
    bounds = np.array(parts, np.int64).reshape(-1, 3)
    return bounds[:, 0].copy(), bounds[:, 1].copy(), bounds[:, 2].copy()


def as_tensor(value: Value, device: str) -> tf.Tensor:
    """The value as a tensor on `device`; its own tensor where it has one. Raises OutOfMemory."""
    if isinstance(value, TensorValue):
        tensor = value.tensor
        if device_name(device) == device_name(tensor.backing_device):
            return tensor
        try:
            with tf.device(device):
                return tf.identity(tensor)
        except OUT_OF_MEMORY as error:
            raise OutOfMemory(f"no memory for a value of {value.nbytes} bytes") from error
    return to_tensor(value.numpy(), device)
