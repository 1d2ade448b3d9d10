"""Values on the wire: numpy arrays to and from the contract's Tensor and its body form.

Owns what a dtype is called in numpy, on the wire and in bytes. Knows numpy, ml_dtypes and the
generated messages; knows nothing of gRPC, and nothing of client or service.

Strings are numpy object arrays whose elements are `bytes`. Every other dtype is a numpy dtype;
bfloat16 and the float8 types are those of ml_dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from varserve.v1 import tensor_pb2

if TYPE_CHECKING:
    import numpy.typing as npt

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

MAX_RANK = 254
"""TensorFlow's own limit on the number of dimensions (TensorShape)."""

# numpy and TensorFlow count bytes in an int64; the widest element has 16 of them.
MAX_ELEMENTS = (2**63 - 1) // 16


_STRINGS_AT_ONCE = 4096


class TensorError(ValueError):
    """A value is not one that the contract carries. `reason` is the name of an ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


STRING = "string"

DTYPES: tuple[str, ...] = (
    *("float32", "float64", "int32", "uint8", "int16", "int8", "complex64", "int64", "bool"),
    *("bfloat16", "uint16", "complex128", "float16", "uint32", "uint64"),
    *("float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz"),
    STRING,
)
"""Every dtype that the contract carries, by the name numpy, ml_dtypes and TensorFlow share."""

_OF_ML_DTYPES = frozenset(name for name in DTYPES if name.startswith(("bfloat", "float8")))


class _NumpyDtypes(dict[str, np.dtype[Any]]):
    """By name. Most programs have none of ml_dtypes: it is imported for the first of its own."""

    def __missing__(self, name: str) -> np.dtype[Any]:
        if name not in _OF_ML_DTYPES:
            raise KeyError(name)
        import ml_dtypes

        self.update((each, np.dtype(getattr(ml_dtypes, each))) for each in _OF_ML_DTYPES)
        return self[name]


_NUMPY = _NumpyDtypes(
    (name, np.dtype(name)) for name in DTYPES if name not in {STRING, *_OF_ML_DTYPES}
)

_TO_WIRE: dict[str, tensor_pb2.DataType] = {
    name: tensor_pb2.DataType.Value(f"DATA_TYPE_{name.upper()}") for name in DTYPES
}
_FROM_WIRE: dict[int, str] = {int(number): name for name, number in _TO_WIRE.items()}

# Numbers of TensorFlow's enum that the contract leaves out, so that a refusal can name them.
_UNSUPPORTED: dict[int, str] = {
    11: "qint8",
    12: "quint8",
    13: "qint32",
    15: "qint16",
    16: "quint16",
    20: "resource",
    21: "variant",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
    33: "float4_e2m1fn",
}


def dtype_name(dtype: npt.DTypeLike) -> str:
    """The contract's name of a numpy dtype; the kinds O, S and U are `string`.

    Raises TensorError DTYPE_UNSUPPORTED for a dtype that the contract does not carry.
    """
    return _dtype_name(dtype if isinstance(dtype, np.dtype) else given_dtype(dtype))


def given_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The numpy dtype that a caller means; names of ml_dtypes are known. Raises TypeError."""
    if isinstance(dtype, str) and dtype in _OF_ML_DTYPES:
        return _NUMPY[dtype]
    return np.dtype(dtype)


# numpy takes microseconds to put a dtype's name together.
@lru_cache(maxsize=256)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "OSU" or dtype.kind == "T":
        return STRING
    name = dtype.newbyteorder("=").name
    if name not in DTYPES:
        raise TensorError(
            "DTYPE_UNSUPPORTED",
            f"dtype {name} cannot be sent; expected one of {', '.join(DTYPES)}",
        )
    return name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a contract name; `string` is object. Raises TensorError for another."""
    if name == STRING:
        return np.dtype(object)
    try:
        return _NUMPY[name]
    except KeyError:
        raise TensorError(
            "DTYPE_UNSUPPORTED", f"dtype {name!r} is unknown; expected one of {', '.join(DTYPES)}"
        ) from None


def wire_dtype(name: str) -> tensor_pb2.DataType:
    """The contract's number of a dtype name. Raises TensorError DTYPE_UNSUPPORTED."""
    try:
        return _TO_WIRE[name]
    except KeyError:
        raise TensorError(
            "DTYPE_UNSUPPORTED", f"dtype {name!r} is unknown; expected one of {', '.join(DTYPES)}"
        ) from None


def from_wire_dtype(number: int) -> str:
    """The name of a DataType number. Raises TensorError DTYPE_UNSUPPORTED, by name where known."""
    name = _FROM_WIRE.get(number)
    if name is None:
        called = _UNSUPPORTED.get(number, f"number {number}" if number else "unspecified")
        raise TensorError(
            "DTYPE_UNSUPPORTED",
            f"dtype {called} is not carried; expected one of {', '.join(DTYPES)}",
        )
    return name


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of a shape that came from the wire, without trusting it.

    Raises TensorError SHAPE_MISMATCH for a negative size, too many dimensions, or more elements
    than an int64 counts.
    """
    if len(shape) > MAX_RANK:
        raise TensorError(
            "SHAPE_MISMATCH",
            f"shape has {len(shape)} dimensions; expected at most {MAX_RANK}",
        )
    if shape and min(shape) < 0:
        raise TensorError(
            "SHAPE_MISMATCH", f"shape {_brief(shape)} has a negative size; expected none"
        )
    count = math.prod(shape)
    # Checked without zeros too: [0, 2**62, 2**62] has no elements, yet TensorFlow refuses it.
    if (count or math.prod(filter(None, shape))) > MAX_ELEMENTS:
        raise TensorError(
            "SHAPE_MISMATCH",
            f"shape {_brief(shape)} has too many elements; expected at most {MAX_ELEMENTS}",
        )
    return count


def _brief(shape: Sequence[int]) -> str:
    shown = ", ".join(str(size) for size in shape[:8])
    return f"[{shown}{', ...' if len(shape) > 8 else ''}]"


def as_array(value: npt.ArrayLike, dtype: str | None = None) -> Array:
    """A numpy array that is ready to be sent: contract dtype, native byte order, C-contiguous.

    `dtype` names what the receiver has. Python numbers and sequences, which carry no dtype of
    their own, take it when it can hold them; arrays are never cast. Arrays of other libraries, the
    bfloat16 and float8 tensors of PyTorch among them, and buffers such as `array.array` are taken
    bit for bit. Copies only what must change.

    Raises TensorError: DTYPE_UNSUPPORTED, DTYPE_MISMATCH when `dtype` cannot hold the value, or
    SHAPE_MISMATCH when nested sequences have different lengths.
    """
    carries_dtype = True
    if type(value) is not np.ndarray:
        value = _unwrapped(value)
        carries_dtype = hasattr(value, "dtype") or hasattr(value, "__array__")
    if dtype == STRING or (dtype is None and isinstance(value, (str, bytes))):
        return _string_array(value)
    if not carries_dtype and dtype is not None:
        return _from_python(value, dtype)
    array = value if type(value) is np.ndarray else _numpy_array(value)
    name = _dtype_name(array.dtype)
    if name == STRING:
        if dtype is not None:
            raise TensorError(
                "DTYPE_MISMATCH", f"expected dtype {dtype}, found string or Python objects"
            )
        return _string_array(array if carries_dtype else value)
    if dtype is not None and name != dtype:
        raise TensorError(
            "DTYPE_MISMATCH", f"expected dtype {dtype}, found {name}; cast it with .astype first"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _numpy_array(value: npt.ArrayLike) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TensorError("SHAPE_MISMATCH", f"not a tensor: {error}") from None
    except Exception as error:  # of another library's `__array__`
        raise TensorError(
            "DTYPE_UNSUPPORTED", f"{type(value).__name__} gives no numpy array: {error}"
        ) from None
    if array.dtype.kind != "O" or isinstance(value, np.ndarray):
        return array
    if any(isinstance(each, int) and not -(2**63) <= each < 2**64 for each in array.flat):
        raise TensorError("DTYPE_MISMATCH", "an integer of it is beyond what 64 bits hold")
    if array.ndim == 0:
        raise TensorError("DTYPE_MISMATCH", f"expected a tensor, found {type(value).__name__}")
    return array


def _unwrapped(value: Any) -> Any:
    """The numpy array of what numpy itself would change, or refuse, in silence; else the value."""
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise TensorError(
                "DTYPE_MISMATCH",
                f"a masked array has no value for {masked} of its elements; give it .filled(...)",
            )
        return value.data
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        return _from_torch(value)
    if hasattr(value, "dtype") or hasattr(value, "__array__") or isinstance(value, (str, bytes)):
        return value
    if hasattr(value, "__array_interface__") or _is_buffer(value):
        return _numpy_array(value)  # it has a dtype: numpy's own words for it
    return value


def _is_buffer(value: object) -> bool:
    try:
        memoryview(value).release()  # type: ignore[arg-type]
    except (TypeError, BufferError):
        return False
    return True


# Dtypes that PyTorch does not hand to numpy, as integers of their size that it does.
_TORCH_BITS = {
    "torch.bfloat16": ("int16", "bfloat16"),
    "torch.float8_e5m2": ("uint8", "float8_e5m2"),
    "torch.float8_e4m3fn": ("uint8", "float8_e4m3fn"),
    "torch.float8_e5m2fnuz": ("uint8", "float8_e5m2fnuz"),
    "torch.float8_e4m3fnuz": ("uint8", "float8_e4m3fnuz"),
}


def _from_torch(tensor: Any) -> Array:
    import sys

    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        bits = _TORCH_BITS.get(str(tensor.dtype))
        if bits is None:
            array: Array = tensor.numpy()
            return array
        integers: Array = tensor.view(getattr(sys.modules["torch"], bits[0])).numpy()
        return integers.view(_NUMPY[bits[1]])
    except Exception as error:
        raise TensorError(
            "DTYPE_UNSUPPORTED", f"a torch tensor of {tensor.dtype} cannot be sent: {error}"
        ) from None


def _from_python(value: npt.ArrayLike, dtype: str) -> Array:
    target = numpy_dtype(dtype)
    values = _numpy_array(value)
    kind = values.dtype.kind
    if kind in "fO" and target.kind in "iu":
        # Integers beyond int64 are made floats by numpy, or objects.
        exact = np.array(value, dtype=object)
        if all(type(element) is int for element in exact.reshape(-1)):
            values, kind = exact, "i"
    if values.size and kind not in _HOLDS[_kind(dtype)]:
        raise TensorError(
            "DTYPE_MISMATCH", f"expected a value of dtype {dtype}, found one of {values.dtype.name}"
        )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = values.astype(target)
    except OverflowError:
        raise _out_of_range(dtype) from None
    if target.kind in "iu":
        held = np.array_equal(array, values)
    else:
        held = bool(np.all(np.isfinite(array) | ~np.isfinite(values)))
    if values.size and not held:
        raise _out_of_range(dtype)
    return np.ascontiguousarray(array).reshape(values.shape)


def _out_of_range(dtype: str) -> TensorError:
    return TensorError("DTYPE_MISMATCH", f"the value is out of range for dtype {dtype}")


def _kind(dtype: str) -> str:
    kind = numpy_dtype(dtype).kind
    return "f" if kind not in "biufc" else kind


# Which kinds of Python value (numpy's letters) a kind of dtype holds without surprise.
_HOLDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf", "c": "iufc"}


def _string_array(value: npt.ArrayLike) -> Array:
    elements = np.asarray(value) if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    out = np.empty(elements.shape, dtype=object)
    flat = out.reshape(-1)
    for index, element in enumerate(elements.reshape(-1)):
        if isinstance(element, str):
            flat[index] = _utf8(element)
        elif isinstance(element, bytes):
            flat[index] = bytes(element)
        else:
            raise TensorError(
                "DTYPE_MISMATCH",
                f"expected str or bytes in a string tensor, found {type(element).__name__}",
            )
    return out


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise TensorError(
            "DTYPE_MISMATCH",
            f"expected text that UTF-8 can hold, found {text[:80]!r}; send anything else as bytes",
        ) from None


def to_tensor(array: Array) -> tensor_pb2.Tensor:
    """The Tensor message of an array of a contract dtype. Any layout and byte order.

    Raises TensorError DTYPE_UNSUPPORTED or, for an object array with something else than str and
    bytes, DTYPE_MISMATCH.
    """
    array = as_array(array)
    name = _dtype_name(array.dtype)
    if name == STRING:
        strings = array.reshape(-1).tolist()
        return tensor_pb2.Tensor(dtype=_TO_WIRE[name], shape=array.shape, strings=strings)
    return tensor_pb2.Tensor(dtype=_TO_WIRE[name], shape=array.shape, data=array.tobytes())


def from_tensor(tensor: tensor_pb2.Tensor) -> Array:
    """The array of a Tensor message: C-contiguous, owned, writable. Trusts nothing.

    Raises TensorError: DTYPE_UNSUPPORTED, SHAPE_MISMATCH, LENGTH_MISMATCH, and REQUEST_MALFORMED
    for a bool that is neither 0 nor 1. What the shape claims is checked against the bytes that are
    there before anything is allocated.
    """
    name = from_wire_dtype(tensor.dtype)
    check_numpy_rank(tensor.shape)  # before it is copied: a message has room for millions
    shape = tuple(tensor.shape)  # once: a field of a message is slower to look at
    count = element_count(shape)
    if name == STRING:
        if tensor.data:
            raise TensorError("LENGTH_MISMATCH", "a string tensor has bytes in `data`")
        if len(tensor.strings) != count:
            raise TensorError(
                "LENGTH_MISMATCH",
                f"shape {_brief(shape)} needs {count} strings, found {len(tensor.strings)}",
            )
        strings = np.empty(count, dtype=object)
        # In pieces: numpy lets no other thread run while it takes one.
        for start in range(0, count, _STRINGS_AT_ONCE):
            strings[start : start + _STRINGS_AT_ONCE] = tensor.strings[
                start : start + _STRINGS_AT_ONCE
            ]
        return strings.reshape(shape)
    if tensor.strings:
        raise TensorError("LENGTH_MISMATCH", f"a {name} tensor has elements in `strings`")
    dtype = _NUMPY[name]
    data = tensor.data
    if len(data) != count * dtype.itemsize:
        raise TensorError(
            "LENGTH_MISMATCH",
            f"shape {_brief(shape)} of {name} needs {count * dtype.itemsize} bytes, "
            f"found {len(data)}",
        )
    array = np.ndarray(shape, dtype, data).copy()
    check_bool(array)
    return array


# numpy bounds the bytes of an array by 63 bits, those of no elements too; 16 bytes are the largest.
_NUMPY_ELEMENTS = 1 << 59


def check_numpy_rank(shape: Sequence[int]) -> None:
    """Raises TensorError SHAPE_MISMATCH for a shape that no array of numpy has.

    It has at most 64 dimensions, and sizes that an array without elements may not have either; of
    those with elements `element_count` has refused what is too large.
    """
    if len(shape) > 64:
        raise TensorError(
            "SHAPE_MISMATCH", f"shape has {len(shape)} dimensions; expected at most 64"
        )
    if 0 in shape and math.prod(filter(None, shape)) >= _NUMPY_ELEMENTS:
        raise TensorError(
            "SHAPE_MISMATCH", f"shape {_brief(shape)} has larger sizes than an array may have"
        )


def check_bool(array: Array) -> None:
    """Raises TensorError REQUEST_MALFORMED unless every byte of a bool array is 0 or 1.

    Any other byte is undefined behaviour in whoever computes with it.
    """
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise TensorError("REQUEST_MALFORMED", "a bool tensor has a byte that is neither 0 nor 1")


def body_length(array: Array) -> int:
    """Bytes that an array of a contract dtype takes in a body (TensorHeader.byte_length)."""
    if array.dtype.kind != "O":
        return array.nbytes
    return 8 * array.size + sum(len(element) for element in array.reshape(-1))


def to_header(array: Array) -> tensor_pb2.TensorHeader:
    """The TensorHeader of an array that `as_array` made."""
    name = dtype_name(array.dtype)
    return tensor_pb2.TensorHeader(
        dtype=wire_dtype(name), shape=array.shape, byte_length=body_length(array)
    )


def check_header(header: tensor_pb2.TensorHeader) -> tuple[str, tuple[int, ...], int]:
    """Dtype name, shape and byte length of a header, checked against each other.

    Raises TensorError: DTYPE_UNSUPPORTED, SHAPE_MISMATCH, LENGTH_MISMATCH.
    """
    name = from_wire_dtype(header.dtype)
    shape = tuple(header.shape)
    count = element_count(shape)
    check_numpy_rank(shape)
    if name == STRING:
        if header.byte_length < 8 * count or (count == 0 and header.byte_length):
            raise TensorError(
                "LENGTH_MISMATCH",
                f"shape {_brief(shape)} of strings needs at least {8 * count} bytes, "
                f"found {header.byte_length}",
            )
    elif header.byte_length != count * _NUMPY[name].itemsize:
        raise TensorError(
            "LENGTH_MISMATCH",
            f"shape {_brief(shape)} of {name} needs {count * _NUMPY[name].itemsize} bytes, "
            f"found {header.byte_length}",
        )
    return name, shape, header.byte_length


def strings_to_body(array: Array) -> bytes:
    """The body form of a string array: each length as uint64, little-endian; then the bytes."""
    elements: list[bytes] = array.reshape(-1).tolist()
    lengths = np.array([len(element) for element in elements], dtype="<u8")
    return b"".join([lengths.tobytes(), *elements])


def strings_from_body(body: bytes | bytearray | memoryview, shape: tuple[int, ...]) -> Array:
    """The string array of a body form. Raises TensorError LENGTH_MISMATCH."""
    count = element_count(shape)
    view = memoryview(body).cast("B")
    present = len(view) - 8 * count
    if present < 0:
        raise TensorError(
            "LENGTH_MISMATCH",
            f"the lengths of {count} strings need {8 * count} bytes, found {len(view)}",
        )
    lengths = np.frombuffer(view[: 8 * count], dtype="<u8")
    # The sum can wrap in uint64, a single length too large cannot: check both.
    if (count and int(lengths.max()) > present) or sum(lengths.tolist()) != present:
        raise TensorError(
            "LENGTH_MISMATCH", f"the lengths of {count} strings do not add up to {present} bytes"
        )
    ends = np.cumsum(lengths, dtype=np.int64) + 8 * count
    out = np.empty(count, dtype=object)
    start = 8 * count
    for index, end in enumerate(ends.tolist()):
        out[index] = view[start:end].tobytes()
        start = end
    return out.reshape(shape)
