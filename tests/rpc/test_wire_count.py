"""What an encoded request holds is counted without decoding it: messages, and strings in lists."""

from __future__ import annotations

import pytest

from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.messages.wire_count import STRINGS_PER_FIELD, count_fields

LIMIT = 1_000
MANY = LIMIT * STRINGS_PER_FIELD


def counted(strings: list[bytes], data: bytes = b"") -> int:
    request = pb.RunFunctionRequest(model="m", function="f")
    tensor = request.inputs["x"]
    tensor.strings.extend(strings)
    tensor.data = data
    return count_fields(request.SerializeToString(), request.DESCRIPTOR, LIMIT)


@pytest.mark.parametrize(
    "strings",
    [[b""] * 150_000, [b"a word of 20 letters"] * 20_000, [b'"' * 200] * (MANY + 2_000)],
    ids=["empty", "words", "quotes"],
)
def test_many_strings_are_beyond_the_limit(strings: list[bytes]) -> None:
    assert counted(strings) > LIMIT


@pytest.mark.parametrize(
    "strings",
    [[b""] * 1_000, [b"a word of 80 letters" * 4] * 4_000, [b'"' * 2_000] * 2_000],
    ids=["a short list", "words", "what looks like many"],
)
def test_as_many_strings_as_the_limit_has_room_for(strings: list[bytes]) -> None:
    """Whatever bytes are in them: those of a tag are no string."""
    assert counted(strings) <= LIMIT


def test_bytes_are_no_strings() -> None:
    assert counted([], b'"' * 2**20) < 20
