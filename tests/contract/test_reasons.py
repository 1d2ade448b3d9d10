"""The table of reasons, walked from both ends: the proto, the client's table, the core's enum."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from varserve.reasons import DOMAIN, STATUS_OF_REASON, Failure, read_details
from varserve.v1 import error_pb2
from varserve_service.core.errors import Reason

PROTOS = Path(__file__).resolve().parents[2] / "proto" / "varserve" / "v1"
PREFIX = "ERROR_REASON_"
IN_PROTO = [
    name.removeprefix(PREFIX)
    for name, number in error_pb2.ErrorReason.items()
    if number != error_pb2.ERROR_REASON_UNSPECIFIED
]
EACH_REASON = pytest.mark.parametrize("reason", IN_PROTO)


def codes_in_comments() -> dict[str, str]:
    """Reason and status code, as they stand beside each other in the text of error.proto."""
    text = (PROTOS / "error.proto").read_text()
    return {
        name: code
        for code, name in re.findall(
            rf"^  // ([A-Z_]+)(?:: .*)?\n(?:^  //.*\n)*^  {PREFIX}([A-Z_]+) = \d+;", text, re.M
        )
    }


def errors_of_calls() -> dict[str, set[str]]:
    """The capitalised names in the `Errors:` list of each RPC."""
    text = "".join(path.read_text() for path in sorted(PROTOS.glob("*_service.proto")))
    calls = re.findall(r"((?:^  //.*\n)+)^  rpc (\w+)\(", text, re.M)
    return {
        name: set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comment.partition("Errors:")[2]))
        for comment, name in calls
    }


def test_the_three_lists_of_reasons_are_one() -> None:
    """Every reason of the proto has a status and is known to the core, and the other way round."""
    assert len(IN_PROTO) > 20
    assert list(STATUS_OF_REASON) == IN_PROTO
    assert [reason.value for reason in Reason] == IN_PROTO
    assert [reason.name for reason in Reason] == IN_PROTO


def test_every_reason_has_the_code_that_is_written_beside_it() -> None:
    """The comment of each reason in the proto opens with the code that the table gives it."""
    in_table = {reason: status.name for reason, status in STATUS_OF_REASON.items()}
    assert codes_in_comments() == in_table


def test_no_number_of_a_reason_is_used_twice() -> None:
    """Numbers on the wire are stable: one for each name."""
    numbers = list(error_pb2.ErrorReason.values())
    assert len(set(numbers)) == len(numbers)


@EACH_REASON
def test_a_failure_survives_the_wire(reason: str) -> None:
    """Reason, message and metadata come back from the bytes of the trailing metadata."""
    failure = Failure(reason, "what, é", {"variable": "a/b", "current_revision": "7"})
    assert read_details(failure.details()) == failure
    status = error_pb2.Status.FromString(failure.details())
    assert (status.code, status.message) == (failure.status.value[0], "what, é")


def test_details_are_those_of_google_rpc() -> None:
    """The public google.rpc types read the same bytes, where their package is there."""
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    for reason in IN_PROTO:
        status = status_pb2.Status.FromString(Failure(reason, "m", {"k": "v"}).details())
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain, dict(info.metadata)) == (reason, DOMAIN, {"k": "v"})


def test_the_messages_have_the_field_numbers_of_google_rpc() -> None:
    """Our Status and ErrorInfo are wire-compatible: the same numbers and types, by hand."""
    by_hand = b"\x08\x05\x12\x01m\x1a\x33\x0a\x28type.googleapis.com/google.rpc.ErrorInfo\x12\x07"
    info = b"\x0a\x01R\x12\x02D1"
    status = error_pb2.Status.FromString(by_hand + info)
    assert (status.code, status.message, len(status.details)) == (5, "m", 1)
    found = error_pb2.ErrorInfo.FromString(status.details[0].value)
    assert (status.details[0].type_url[-9:], found.reason, found.domain) == ("ErrorInfo", "R", "D1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        error_pb2.Status(code=5, message="another server's").SerializeToString(),
        Failure("INTERNAL", "m").details()[:-1],
        Failure("INTERNAL", "m").details().replace(b"varserve", b"otherone"),
        Failure("INTERNAL", "m").details().replace(b"ErrorInfo", b"RetryInfo"),
    ],
)
def test_details_of_somebody_else_are_not_ours(data: bytes) -> None:
    """Bytes that are damaged, or of another domain or type, are no failure of this contract."""
    assert read_details(data) is None


def test_every_error_that_a_call_lists_is_a_reason() -> None:
    """The `Errors:` lists of the RPCs, and what every call may fail with, name only reasons."""
    calls = errors_of_calls()
    service = (PROTOS / "model_service.proto").read_text().partition("service ModelService")[0]
    common = set(
        re.findall(
            r"\b(?:[A-Z]+_[A-Z_]+|INTERNAL|UNAUTHENTICATED)\b", service.rpartition("Every call")[2]
        )
    )
    assert len(calls) == 22
    assert "MODEL_NOT_FOUND" in common
    assert "INTERNAL" in common
    listed = common.union(*calls.values())
    assert listed <= set(IN_PROTO), listed - set(IN_PROTO)
    # ... and each reason is one that some call can give.
    assert set(IN_PROTO) <= listed, set(IN_PROTO) - listed
