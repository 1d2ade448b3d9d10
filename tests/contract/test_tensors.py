"""The tensor codec: against test vectors made without it, and what it takes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from varserve import tensors
from varserve.tensors import STRING, TensorError, as_array, from_tensor, to_tensor
from varserve.v1 import tensor_pb2

TESTDATA = Path(__file__).resolve().parents[2] / "proto" / "testdata"
DATA = json.loads((TESTDATA / "tensors.json").read_text())
VECTORS: list[dict[str, Any]] = DATA["tensors"]
EACH_VECTOR = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
FIXED = [name for name in tensors.DTYPES if name != STRING]
REFUSED_DTYPES = ["int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float8_e3m4"]


def dtype_of(vector: dict[str, Any]) -> str:
    """The dtype's name in numpy, from its name in the proto and not from the codec's tables."""
    name = tensor_pb2.DataType.Name(vector["dtype"])
    return name.removeprefix("DATA_TYPE_").lower()


def expected(vector: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The array of a vector, from its decimal text."""
    name, values = dtype_of(vector), vector["values"]
    if name == STRING:
        array = np.empty(len(values), object)
        array[:] = [bytes.fromhex(value) for value in values]
    elif name.startswith("complex"):
        array = np.array([complex(*map(float, pair)) for pair in values], name)
    elif "float" in name:
        array = np.array([float(value) for value in values]).astype(np.dtype(name))
    else:
        array = np.array([int(value) for value in values], name)
    return array.reshape(vector["shape"])


def assert_same(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if wanted.dtype.hasobject or wanted.dtype.kind in "biu":
        assert found.tolist() == wanted.tolist()
        return
    wide = complex if wanted.dtype.kind == "c" else float
    np.testing.assert_array_equal(found.astype(wide), wanted.astype(wide))
    np.testing.assert_array_equal(np.signbit(found.real), np.signbit(wanted.real))


def reason(call: Any, *args: Any) -> str:
    with pytest.raises(TensorError) as caught:
        call(*args)
    return caught.value.reason


def test_the_vectors_are_what_their_generator_writes() -> None:
    """The checked-in vectors are not edited by hand, and not forgotten."""
    command = [sys.executable, TESTDATA / "generate.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_there_are_vectors_of_every_dtype_and_every_dtype_has_its_number() -> None:
    """The vectors, the codec and the proto's enum have the same dtypes."""
    numbers = set(tensor_pb2.DataType.values()) - {tensor_pb2.DATA_TYPE_UNSPECIFIED}
    assert {vector["dtype"] for vector in VECTORS} == numbers
    assert {tensors.from_wire_dtype(number) for number in numbers} == set(tensors.DTYPES)
    assert [tensors.from_wire_dtype(tensors.wire_dtype(name)) for name in tensors.DTYPES] == list(
        tensors.DTYPES
    )


@EACH_VECTOR
def test_a_message_is_read_as_the_values_that_it_stands_for(vector: dict[str, Any]) -> None:
    """Reading a vector's bytes gives its dtype, shape and values, in memory of its own."""
    message = tensor_pb2.Tensor.FromString(bytes.fromhex(vector["message"]))
    found = from_tensor(message)
    assert_same(found, expected(vector))
    assert found.flags.writeable
    assert found.flags.c_contiguous


@EACH_VECTOR
def test_values_are_written_as_the_bytes_of_the_vector(vector: dict[str, Any]) -> None:
    """Writing a vector's values gives its message, header and body, byte for byte."""
    if vector["dtype"] == tensor_pb2.DATA_TYPE_STRING:
        array = expected(vector)
        body = tensors.strings_to_body(array)
        assert_same(tensors.strings_from_body(body, array.shape), array)
    else:
        # From the bytes: which of many bit patterns is NaN is not the codec's business.
        dtype = np.dtype(dtype_of(vector))
        array = np.frombuffer(bytes.fromhex(vector["data"]), dtype).reshape(vector["shape"])
        body = array.tobytes()
    header = tensors.to_header(array)
    assert to_tensor(array).SerializeToString(deterministic=True).hex() == vector["message"]
    assert header.SerializeToString(deterministic=True).hex() == vector["header"]
    assert body.hex() == vector["body"]
    assert tensors.check_header(header) == (dtype_of(vector), array.shape, len(body))
    assert tensors.body_length(array) == len(body)


def laid_out(array: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The same array in every other layout that numpy has for it."""
    layouts = {}
    if array.dtype.kind in "iufc" and array.dtype.itemsize > 1:
        layouts["big-endian"] = array.astype(array.dtype.newbyteorder(">"))
    if array.ndim:
        layouts["every other"] = np.repeat(array, 2, axis=0)[::2]
        layouts["reversed"] = array[::-1].copy()[::-1]
        layouts["column-major"] = np.asfortranarray(array)
        layouts["read-only"] = np.broadcast_to(array, array.shape)
    return layouts


@EACH_VECTOR
def test_any_layout_is_written_as_the_same_bytes(vector: dict[str, Any]) -> None:
    """Byte order, strides and memory order of an array do not show on the wire."""
    array = from_tensor(tensor_pb2.Tensor.FromString(bytes.fromhex(vector["message"])))
    written = to_tensor(array).SerializeToString(deterministic=True)
    for layout, other in laid_out(array).items():
        assert to_tensor(other).SerializeToString(deterministic=True) == written, layout
        ready = as_array(other)
        assert (ready.flags.c_contiguous, ready.dtype.isnative) == (True, True), layout


def test_the_layouts_under_test_are_not_the_plain_one() -> None:
    """The test of layouts has arrays whose bytes or strides really differ."""
    array = np.arange(1, 7, dtype=np.int16).reshape(2, 3)
    layouts = laid_out(array)
    assert layouts["big-endian"].tobytes() != array.tobytes()
    assert not any(layouts[n].flags.c_contiguous for n in ("every other", "reversed"))
    assert not layouts["column-major"].flags.c_contiguous


@pytest.mark.parametrize("bad", DATA["refused"], ids=lambda bad: bad["name"])
def test_what_must_be_refused_is_refused_for_its_reason(bad: dict[str, str]) -> None:
    """Every message of the vectors that is not a tensor has the reason that stands beside it."""
    message = tensor_pb2.Tensor.FromString(bytes.fromhex(bad["message"]))
    assert reason(from_tensor, message) == bad["reason"]
    with pytest.raises(TensorError) as caught:
        from_tensor(message)
    if bad["name"].startswith("dtype "):
        assert bad["name"].removeprefix("dtype ") in caught.value.message


@pytest.mark.parametrize(
    ("header", "expected_reason"),
    [
        ({"dtype": 1, "shape": [2], "byte_length": 7}, "LENGTH_MISMATCH"),
        ({"dtype": 1, "shape": [2], "byte_length": 9}, "LENGTH_MISMATCH"),
        ({"dtype": 1, "shape": [0], "byte_length": 1}, "LENGTH_MISMATCH"),
        ({"dtype": 1, "shape": [], "byte_length": -4}, "LENGTH_MISMATCH"),
        ({"dtype": 1, "shape": [-1], "byte_length": 4}, "SHAPE_MISMATCH"),
        ({"dtype": 1, "shape": [2**31, 2**31], "byte_length": 2**62}, "SHAPE_MISMATCH"),
        ({"dtype": 1, "shape": [0, 2**62]}, "SHAPE_MISMATCH"),
        ({"dtype": 1, "shape": [1] * 65, "byte_length": 4}, "SHAPE_MISMATCH"),
        ({"dtype": 7, "shape": [1] * 65, "byte_length": 8}, "SHAPE_MISMATCH"),
        ({"dtype": 7, "shape": [2], "byte_length": 15}, "LENGTH_MISMATCH"),
        ({"dtype": 7, "shape": [0], "byte_length": 1}, "LENGTH_MISMATCH"),
        ({"dtype": 7, "shape": [], "byte_length": -1}, "LENGTH_MISMATCH"),
        ({"dtype": 29, "shape": [2], "byte_length": 1}, "DTYPE_UNSUPPORTED"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    header: dict[str, Any], expected_reason: str
) -> None:
    """Dtype, shape and length of a header are held against each other."""
    assert reason(tensors.check_header, tensor_pb2.TensorHeader(**header)) == expected_reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 15,
        (5).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"abc",
        (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"abc",
        (2**64 - 1).to_bytes(8, "little") + (4).to_bytes(8, "little") + b"abc",  # wraps to 3
        (2**63).to_bytes(8, "little") * 2,
    ],
)
def test_a_body_of_strings_whose_lengths_are_wrong_is_refused(body: bytes) -> None:
    """Lengths that do not add up to the bytes that are there are refused, also when they wrap."""
    assert reason(tensors.strings_from_body, body, (2,)) == "LENGTH_MISMATCH"


def test_a_body_of_strings_is_read_from_any_buffer() -> None:
    """Bytes, a bytearray and the memory of an array are all read, with or without elements."""
    body = tensors.strings_to_body(as_array([b"a", b""], STRING))
    for buffer in (body, bytearray(body), np.frombuffer(body, np.uint8).data):
        assert tensors.strings_from_body(buffer, (2,)).tolist() == [b"a", b""]
    for shape in [(0,), (2, 0)]:
        assert tensors.strings_from_body(np.empty(0, np.uint8).data, shape).shape == shape


@pytest.mark.parametrize("name", REFUSED_DTYPES)
def test_a_numpy_dtype_that_is_not_carried_is_refused_by_name(name: str) -> None:
    """Types below a byte, and float8 types beside the five, are named in their refusal."""
    array = np.zeros(2, getattr(ml_dtypes, name))
    with pytest.raises(TensorError, match=name) as caught:
        to_tensor(array)
    assert caught.value.reason == "DTYPE_UNSUPPORTED"


@pytest.mark.parametrize(
    "dtype", ["datetime64[s]", "timedelta64[s]", "V4", [("a", "f4")], np.longdouble]
)
def test_other_numpy_dtypes_are_refused(dtype: Any) -> None:
    """Dates, raw memory, structures and long doubles are refused, never reinterpreted."""
    assert reason(as_array, np.zeros(2, dtype)) == "DTYPE_UNSUPPORTED"


@pytest.mark.parametrize("call", [tensors.numpy_dtype, tensors.wire_dtype])
def test_an_unknown_name_is_refused(call: Any) -> None:
    """A dtype name that the contract does not have is an error, not a guess."""
    assert reason(call, "float7") == "DTYPE_UNSUPPORTED"


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [
        (1, "float32", [1.0]),
        (1.5, "bfloat16", [1.5]),
        ([1, 2], "int8", [1, 2]),
        ([2**63, 1], "uint64", [2**63, 1]),
        (2**64 - 1, "uint64", [2**64 - 1]),
        (-(2**63), "int64", [-(2**63)]),
        ([[1, 2.5]], "float64", [1, 2.5]),
        ([1, 2j], "complex64", [1, 2j]),
        (True, "bool", [True]),
        ([], "int32", []),
        ([[], []], STRING, []),
        ("é", STRING, ["é".encode()]),
        ("é", None, ["é".encode()]),
        (b"\xff", None, [b"\xff"]),
        ([b"a\0", b"b"], None, [b"a\0", b"b"]),
        (["a", b"b\0"], STRING, [b"a", b"b\0"]),
        (float("inf"), "float16", [float("inf")]),
        (0.1, "float8_e5m2", [0.09375]),
        (1.5, None, [1.5]),
        ([1, 2], None, [1, 2]),
    ],
)
def test_python_values_take_the_dtype_that_is_needed(
    value: Any, dtype: str | None, found: list[Any]
) -> None:
    """Numbers, text and nested lists become the receiver's dtype when it holds them."""
    array = as_array(value, dtype)
    assert array.reshape(-1).tolist() == found
    assert dtype is None or tensors.dtype_name(array.dtype) == dtype


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "dtype", "expected_reason"),
    [
        (1.5, "int32", "DTYPE_MISMATCH"),
        (2.0, "int32", "DTYPE_MISMATCH"),
        (-1, "uint8", "DTYPE_MISMATCH"),
        (256, "uint8", "DTYPE_MISMATCH"),
        (2**64, "uint64", "DTYPE_MISMATCH"),
        ([2**63, 1], "int64", "DTYPE_MISMATCH"),
        (10**400, "float64", "DTYPE_MISMATCH"),
        (1e300, "float32", "DTYPE_MISMATCH"),
        (1000.0, "float8_e4m3fn", "DTYPE_MISMATCH"),
        (1e39j, "complex64", "DTYPE_MISMATCH"),
        (1j, "float32", "DTYPE_MISMATCH"),
        (1, "bool", "DTYPE_MISMATCH"),
        (True, "int32", "DTYPE_MISMATCH"),
        ("1", "int32", "DTYPE_MISMATCH"),
        (b"1.5", "float32", "DTYPE_MISMATCH"),
        (None, "float32", "DTYPE_MISMATCH"),
        (None, None, "DTYPE_MISMATCH"),
        (1, STRING, "DTYPE_MISMATCH"),
        (["a", 1], None, "DTYPE_MISMATCH"),
        (["a", None], STRING, "DTYPE_MISMATCH"),
        ("\ud800", STRING, "DTYPE_MISMATCH"),
        ([[1], [2, 3]], "int32", "SHAPE_MISMATCH"),
        ([[1], [2, 3]], None, "SHAPE_MISMATCH"),
        (2**64, None, "DTYPE_MISMATCH"),
    ],
)
def test_python_values_that_the_dtype_cannot_hold_are_refused(
    value: Any, dtype: str | None, expected_reason: str
) -> None:
    """What would be cut, wrapped, parsed or made infinite is refused, without a warning."""
    assert reason(as_array, value, dtype) == expected_reason


@pytest.mark.parametrize("name", FIXED)
def test_arrays_are_never_cast(name: str) -> None:
    """An array has the dtype that it has: another one is refused, its own is passed through."""
    array = np.zeros(3, np.dtype(name))
    assert as_array(array, name) is array
    for other in tensors.DTYPES:
        if other != name:
            assert reason(as_array, array, other) == "DTYPE_MISMATCH"
    assert reason(as_array, np.zeros((), array.dtype)[()], STRING) == "DTYPE_MISMATCH"


def test_string_arrays_of_every_kind_become_bytes() -> None:
    """Object, bytes, text and variable-width text arrays are all tensors of byte strings."""
    dtypes: list[Any] = [object, "S2", "U2", ">U2", np.dtypes.StringDType()]
    for dtype in dtypes:
        assert as_array(np.array([["a"], ["bc"]]).astype(dtype)).tolist() == [[b"a"], [b"bc"]]
    assert reason(as_array, np.array(["a"]), "float32") == "DTYPE_MISMATCH"
    assert reason(as_array, np.array([1, "a"], object)) == "DTYPE_MISMATCH"


SHAPES = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=150)
@given(name=st.sampled_from(FIXED), shape=SHAPES, data=st.data())
def test_every_bit_pattern_comes_back(name: str, shape: list[int], data: st.DataObject) -> None:
    """Any bytes of any dtype and shape survive the way to the wire and back, bit by bit."""
    dtype = tensors.numpy_dtype(name)
    nbytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = data.draw(st.binary(min_size=nbytes, max_size=nbytes))
    if name == "bool":
        raw = bytes(byte % 2 for byte in raw)
    array = np.frombuffer(raw, dtype).reshape(shape)
    wire = to_tensor(array).SerializeToString()
    back = from_tensor(tensor_pb2.Tensor.FromString(wire))
    assert (back.dtype, back.shape, back.tobytes()) == (dtype, tuple(shape), raw)


@settings(max_examples=150)
@given(elements=st.lists(st.binary(max_size=20), max_size=12), rows=st.sampled_from([1, 2, 3]))
def test_every_string_comes_back(elements: list[bytes], rows: int) -> None:
    """Any byte strings survive both forms, in a message and in a body."""
    array = np.empty(len(elements) // rows * rows, object)
    array[:] = elements[: array.size]
    array = array.reshape(rows, -1)
    back = from_tensor(tensor_pb2.Tensor.FromString(to_tensor(array).SerializeToString()))
    body = tensors.strings_from_body(tensors.strings_to_body(array), array.shape)
    assert back.tolist() == body.tolist() == array.tolist()
