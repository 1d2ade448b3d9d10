"""Bytes that are no request, or hardly one: mutated, cut off, random, not Unicode."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from tests.rpc.cases import Case, case, maker
from tests.rpc.requests import (
    MODEL,
    assign,
    commits,
    manifest,
    number,
    read,
    renew,
    revert,
    revoke,
    run,
    run_manifest,
    slices,
    watch,
)
from tests.rpc.wire import REQUESTS
from varserve.v1 import model_service_pb2 as pb

WRITES = {
    "AssignVariable",
    "AssignVariables",
    "RunFunction",
    "StreamRunFunction",
    "RevertCommits",
}


@cache
def valid() -> list[tuple[str, bytes]]:
    """Requests that would do, were it not for a condition that never holds."""
    never = {"if_model_revision_match": 2**40, "if_epoch_match": "never", "request_id": "once"}
    requests: list[tuple[str, Any]] = [
        ("GetModel", pb.GetModelRequest(model=MODEL)),
        ("ReadVariable", read(region=slices({"start": 1}), if_newer_than=0)),
        ("ReadVariables", pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "v"}])),
        ("AssignVariable", assign(**never, read_back=True)),
        ("AssignVariables", manifest(**never)),
        ("RunFunction", run(function="add", inputs={"n": number(1)}, **never)),
        ("StreamRunFunction", run_manifest(**never)),
        ("WatchVariables", watch(after_revision=2**40, epoch="never")),
        ("ListCommits", commits(before_revision=9, patterns=["v"])),
        ("RevertCommits", revert(2**40, **never)),
        ("RenewLease", renew(2**40, epoch="never")),
        ("RevokeLease", revoke(2**40, epoch="never")),
    ]
    return [(method, request.SerializeToString()) for method, request in requests]


def parsed(method: str, message: bytes) -> Any:
    """The request that the bytes are; None when they are none."""
    try:
        return REQUESTS[method].FromString(message)
    except DecodeError:
        return None


def could_write(method: str, request: Any) -> bool:
    """The condition that never holds is gone from a request that could write, or never end."""
    if method == "WatchVariables":
        return not request.epoch
    if method not in WRITES:
        return False
    conditions = getattr(request, "manifest", request)
    return not conditions.if_epoch_match and not conditions.if_model_revision_match


@maker
def mutated(rng: random.Random) -> Case:
    """Bytes of a valid request changed, dropped, doubled or inserted."""
    while True:
        method, message = rng.choice(valid())
        spoilt = bytearray(message)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(spoilt) + 1)
            match rng.randrange(4):
                case 0:
                    spoilt[at:at] = rng.randbytes(rng.randrange(1, 4))
                case 1:
                    del spoilt[at : at + rng.randrange(1, 4)]
                case 2:
                    spoilt[at : at + 1] = rng.randbytes(1)
                case _:
                    spoilt[at:at] = spoilt[at : at + 8]
        request = parsed(method, bytes(spoilt))
        if request is None:
            return case(method, bytes(spoilt), reasons="REQUEST_MALFORMED")
        if not could_write(method, request):
            return case(method, bytes(spoilt), harmless=True)


@maker
def cut_off(rng: random.Random) -> Case:
    """A valid request without its end."""
    while True:
        method, message = rng.choice(valid())
        message = message[: rng.randrange(len(message))]
        if parsed(method, message) is None:
            return case(method, message, reasons="REQUEST_MALFORMED")


@maker
def noise(rng: random.Random) -> Case:
    """Random bytes."""
    while True:
        method = rng.choice(list(REQUESTS))
        message = rng.randbytes(rng.choice([1, 2, 3, 10, 100, 10_000]))
        request = parsed(method, message)
        if request is None:
            return case(method, message, reasons="REQUEST_MALFORMED")
        if not could_write(method, request):
            return case(method, message, harmless=True)


@maker
def not_unicode(rng: random.Random) -> Case:
    """A name that is not UTF-8."""
    bad = rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"v\x80", b"\xf8\x88\x80\x80\x80"])
    field = rng.choice([b"\x0a", b"\x12"]) + bytes([len(bad)]) + bad
    method = rng.choice(["ReadVariable", "AssignVariable", "RunFunction"])
    return case(method, field, reasons="REQUEST_MALFORMED")
