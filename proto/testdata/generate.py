"""Writes tensors.json: what tensors are on the wire, for every implementation to test against.

Knows the standard library and nothing of varserve, so that the bytes are made a second way: numbers
by struct or by hand, messages field by field. `generate.py` writes the file, `generate.py --check`
fails when the file is not what it would write.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tensors.json")

ABOUT = [
    "Test vectors of varserve.v1.Tensor, written by generate.py.",
    "values: the elements in C order, as decimal text; a complex number is [real, imaginary], a",
    "string element is hex. data, strings, message, header, body: hex. message is a serialized",
    "Tensor, header a serialized TensorHeader, body the bytes that the tensor takes in a stream.",
    "refused: serialized Tensors that must not be accepted, and the ErrorReason of their refusal.",
]

NAN, INF = "nan", "inf"

# Bit patterns of the small floats, by hand: smallest and largest, one, minus two, not a number.
BFLOAT16 = {0x0000: "0.0", 0x3F80: "1.0", 0xC000: "-2.0", 0x3E20: "0.15625", 0x7F80: INF} | {
    0xFF80: "-inf",
    0x7FC0: NAN,
    0x7F7F: str((2 - 2**-7) * 2.0**127),
    0x0001: str(2.0**-133),
}
FLOAT8 = {
    "FLOAT8_E5M2": (24, {0x00: 0, 0x3C: 1, 0xC0: -2, 0x7B: 57344, 0x01: 2**-16, 0x7C: INF}),
    "FLOAT8_E4M3FN": (25, {0x00: 0, 0x38: 1, 0xC0: -2, 0x7E: 448, 0x01: 2**-9, 0x7F: NAN}),
    "FLOAT8_E4M3FNUZ": (26, {0x00: 0, 0x40: 1, 0xC8: -2, 0x7F: 240, 0x01: 2**-10, 0x80: NAN}),
    "FLOAT8_E4M3B11FNUZ": (27, {0x00: 0, 0x58: 1, 0xE0: -2, 0x7F: 30, 0x01: 2**-13, 0x80: NAN}),
    "FLOAT8_E5M2FNUZ": (28, {0x00: 0, 0x40: 1, 0xC4: -2, 0x7F: 57344, 0x01: 2**-17, 0x80: NAN}),
}

# Name: number, format of struct.
INTEGERS = {
    "INT8": (6, "b"),
    "INT16": (5, "h"),
    "INT32": (3, "i"),
    "INT64": (9, "q"),
    "UINT8": (4, "B"),
    "UINT16": (17, "H"),
    "UINT32": (22, "I"),
    "UINT64": (23, "Q"),
}
FLOATS = {"FLOAT16": (19, "e"), "FLOAT32": (1, "f"), "FLOAT64": (2, "d")}
COMPLEX = {"COMPLEX64": (8, "f"), "COMPLEX128": (18, "d")}
BOOL, STRING = 10, 7

NOT_CARRIED = {
    "qint8": 11,
    "quint8": 12,
    "qint32": 13,
    "qint16": 15,
    "quint16": 16,
    "resource": 20,
    "variant": 21,
    "int4": 29,
    "uint4": 30,
    "int2": 31,
    "uint2": 32,
    "float4_e2m1fn": 33,
    "number 99": 99,
    "number -1": -1,
    "unspecified": 0,
}


def varint(value: int) -> bytes:
    """A protobuf varint; a negative number as the ten bytes of its two's complement."""
    value %= 2**64
    out = []
    while value >= 0x80:
        out.append(value % 0x80 + 0x80)
        value //= 0x80
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number * 8 + 2) + varint(len(content)) + content


def head(dtype: int, shape: list[int]) -> bytes:
    """Fields 1 and 2 of Tensor and TensorHeader."""
    out = b"\x08" + varint(dtype) if dtype else b""
    return out + (field(2, b"".join(varint(size) for size in shape)) if shape else b"")


def tensor(
    dtype: int, shape: list[int], data: bytes = b"", strings: list[bytes] | None = None
) -> str:
    """A serialized Tensor, in hex."""
    out = head(dtype, shape) + (field(3, data) if data else b"")
    return (out + b"".join(field(4, element) for element in strings or [])).hex()


def vector(
    name: str, number: int, shape: list[int], values: list[Any], data: bytes
) -> dict[str, Any]:
    """A vector of a dtype of fixed size."""
    length = b"\x18" + varint(len(data)) if data else b""
    return {
        "name": name,
        "dtype": number,
        "shape": shape,
        "values": values,
        "data": data.hex(),
        "message": tensor(number, shape, data),
        "header": (head(number, shape) + length).hex(),
        "body": data.hex(),
    }


def string_vector(name: str, shape: list[int], elements: list[bytes]) -> dict[str, Any]:
    """A vector of strings."""
    body = b"".join(struct.pack("<Q", len(element)) for element in elements) + b"".join(elements)
    length = b"\x18" + varint(len(body)) if body else b""
    return {
        "name": name,
        "dtype": STRING,
        "shape": shape,
        "values": [element.hex() for element in elements],
        "strings": [element.hex() for element in elements],
        "message": tensor(STRING, shape, strings=elements),
        "header": (head(STRING, shape) + length).hex(),
        "body": body.hex(),
    }


def shaped(name: str, number: int, elements: list[tuple[Any, bytes]]) -> list[dict[str, Any]]:
    """Some elements as a vector, a matrix, a scalar and without any element."""
    values, data = [value for value, _ in elements], b"".join(piece for _, piece in elements)
    return [
        vector(f"{name} vector", number, [len(values)], values, data),
        vector(
            f"{name} matrix", number, [2, 1, 3], values[:3] * 2, data[: len(elements[0][1]) * 3] * 2
        ),
        vector(f"{name} scalar", number, [], values[1:2], elements[1][1]),
        vector(f"{name} empty", number, [0], [], b""),
        vector(f"{name} without columns", number, [3, 0], [], b""),
    ]


def vectors() -> list[dict[str, Any]]:
    """All that must be accepted."""
    out = shaped("BOOL", BOOL, [("0", b"\0"), ("1", b"\1"), ("1", b"\1")])
    for name, (number, code) in INTEGERS.items():
        bits = 8 * struct.calcsize("<" + code)
        low, high = (
            (0, 2**bits - 1) if code.isupper() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        integers = [low, 1, high, 0, 0x12345678 % (high + 1)]
        out += shaped(name, number, [(str(i), struct.pack("<" + code, i)) for i in integers])
    for name, (number, code) in FLOATS.items():
        floats = ["0.15625", "-2.0", "1.0", "-0.0", "nan", "inf", "-inf"]
        out += shaped(name, number, [(f, struct.pack("<" + code, float(f))) for f in floats])
    for name, (number, code) in COMPLEX.items():
        pairs = [["1.5", "-2.0"], ["0.0", "1.0"], ["-0.25", "inf"]]
        packed = [struct.pack(f"<2{code}", *map(float, pair)) for pair in pairs]
        out += shaped(name, number, list(zip(pairs, packed, strict=True)))
    out += shaped(
        "BFLOAT16", 14, [(text, struct.pack("<H", bits)) for bits, text in BFLOAT16.items()]
    )
    for name, (number, patterns) in FLOAT8.items():
        elements = [
            (v if isinstance(v, str) else str(float(v)), bytes([b])) for b, v in patterns.items()
        ]
        out += shaped(name, number, elements)
    return [
        *out,
        string_vector("STRING vector", [4], [b"", b"a\0", "é".encode(), b"\xff" * 130]),
        string_vector("STRING matrix", [2, 1, 2], [b"a", b"bc", b"", b"def"]),
        string_vector("STRING scalar", [], [b"alone"]),
        string_vector("STRING empty", [0], []),
        string_vector("STRING without columns", [3, 0], []),
        vector("UINT8 of 64 dimensions", 4, [1] * 64, ["7"], b"\7"),
    ]


def refused() -> list[dict[str, str]]:
    """All that must not be accepted."""
    out = [
        {
            "name": f"dtype {name}",
            "message": tensor(number, [1], b"\0"),
            "reason": "DTYPE_UNSUPPORTED",
        }
        for name, number in NOT_CARRIED.items()
    ]

    def add(name: str, message: str, reason: str) -> None:
        out.append({"name": name, "message": message, "reason": reason})

    float32 = 1
    add("one byte short", tensor(float32, [2], b"\0" * 7), "LENGTH_MISMATCH")
    add("one byte more", tensor(float32, [2], b"\0" * 9), "LENGTH_MISMATCH")
    add("no data", tensor(float32, [2]), "LENGTH_MISMATCH")
    add("data of an empty tensor", tensor(float32, [0], b"\0" * 4), "LENGTH_MISMATCH")
    add("strings in a float", tensor(float32, [1], b"\0" * 4, [b""]), "LENGTH_MISMATCH")
    add("data in a string", tensor(STRING, [1], b"a", [b"a"]), "LENGTH_MISMATCH")
    add("a string short", tensor(STRING, [2], strings=[b"a"]), "LENGTH_MISMATCH")
    add("a string more", tensor(STRING, [], strings=[b"a", b"b"]), "LENGTH_MISMATCH")
    add("claims 1 GiB", tensor(float32, [2**28], b"\0" * 4), "LENGTH_MISMATCH")
    add("negative size", tensor(float32, [-1]), "SHAPE_MISMATCH")
    add("negative sizes that cancel out", tensor(float32, [-1, -1], b"\0" * 4), "SHAPE_MISMATCH")
    add("product wraps to zero", tensor(float32, [2**32, 2**32]), "SHAPE_MISMATCH")
    add("product is 2^62", tensor(float32, [2**31, 2**31]), "SHAPE_MISMATCH")
    add("zero times 2^62", tensor(float32, [0, 2**62]), "SHAPE_MISMATCH")
    add("300 dimensions", tensor(float32, [1] * 300, b"\0" * 4), "SHAPE_MISMATCH")
    add("65 dimensions", tensor(float32, [1] * 65, b"\0" * 4), "SHAPE_MISMATCH")
    add("65 dimensions of strings", tensor(STRING, [1] * 65, strings=[b"a"]), "SHAPE_MISMATCH")
    add("a bool that is 2", tensor(BOOL, [1], b"\2"), "REQUEST_MALFORMED")
    return out


def content() -> str:
    """The file as it must be: one vector a line."""

    def lines(entries: list[Any]) -> str:
        return ",\n".join(f"    {json.dumps(entry)}" for entry in entries)

    parts = {"about": ABOUT, "tensors": vectors(), "refused": refused()}
    body = ",\n".join(f'  "{key}": [\n{lines(entries)}\n  ]' for key, entries in parts.items())
    return f"{{\n{body}\n}}\n"


def main() -> int:
    if "--check" not in sys.argv[1:]:
        FILE.write_text(content())
        return 0
    if FILE.read_text() == content():
        return 0
    print(f"{FILE.name} is not what generate.py writes; run it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
