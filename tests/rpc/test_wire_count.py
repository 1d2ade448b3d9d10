"""What an encoded request holds is counted without decoding it: messages, strings and numbers."""

from __future__ import annotations

import pytest

from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import session_pb2
from varserve_service.rpc.messages.wire_count import (
    NUMBERS_PER_FIELD,
    STRINGS_PER_FIELD,
    count_fields,
)

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


@pytest.mark.parametrize("number", [0, 300, -1], ids=["one byte", "two bytes", "ten bytes"])
@pytest.mark.parametrize("surplus", [0, 1], ids=["as many", "more"])
def test_numbers_of_a_packed_list(number: int, surplus: int) -> None:
    """Counted by number, however many bytes they take; beside eight fields around them."""
    limit = 40_000
    request = pb.ReadVariableRequest(model="m", variable="v")
    numbers = (limit - 4) * NUMBERS_PER_FIELD - 4 * NUMBERS_PER_FIELD // STRINGS_PER_FIELD
    request.region.rows.indices.extend([number] * (numbers + surplus * 2 * NUMBERS_PER_FIELD))
    found = count_fields(request.SerializeToString(), request.DESCRIPTOR, limit)
    assert (found > limit) == bool(surplus)


def test_numbers_of_the_message_itself() -> None:
    request = session_pb2.SessionRequest(cancelled_ids=[1] * 400_000)
    assert count_fields(request.SerializeToString(), request.DESCRIPTOR, 10**6) == 20_001


def test_few_numbers_are_not_counted() -> None:
    request = pb.ReadVariableRequest(model="m", variable="v")
    request.region.rows.indices.extend([1] * 200_000)
    assert count_fields(request.SerializeToString(), request.DESCRIPTOR, LIMIT) < 10


def test_bytes_are_no_numbers() -> None:
    request = pb.ReadVariableRequest(model="m" * 2**20, variable="v")
    assert count_fields(request.SerializeToString(), request.DESCRIPTOR, LIMIT) < 10
