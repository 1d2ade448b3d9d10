"""What the log says of calls: one line for each, of what we know, never of what was sent."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from tests.fakes import FakeVariable
from tests.rpc import requests
from tests.rpc.models import counter, strings
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import connected
from tests.serving import serve_here
from varserve_service.logs import line_formatter
from varserve_service.rpc import Access

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "a-value-that-is-nobodys-business"
HOSTILE = [
    'x\n{"event": "forged", "level": "info"}',
    "x\r\nforged",
    "x\x00\x1b[2K\x07\x7f",
    "x\u2028forged\u2029forged\x85forged\x0bforged\x0cforged",
    'x", "event": "forged',
    "\\n\\u000aforged",
    "é" * 1000,
    "%s %d {event}",
]


class Log:
    """What has been written, as lines and as what they say."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        assert self.text.endswith("\n") or not self.text
        # As any reader of logs may take it: also at the line ends of Unicode.
        return [json.loads(line) for line in self.text.splitlines()]


@contextmanager
def logged(level: int) -> Iterator[Log]:
    """All that is logged by us from this level on, as the service writes it."""
    log = Log()
    handler = logging.StreamHandler(log.stream)
    handler.setFormatter(line_formatter())
    ours = logging.getLogger("varserve")
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(level)
    try:
        yield log
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_makes_a_line_of_its_own(name: str) -> None:
    """Whatever a client writes into a name, each call is one JSON object on one line, and ours."""
    with (
        logged(logging.DEBUG) as log,
        serve_here(counter(), call_log_level="info") as address,
        connected(address) as wire,
    ):
        asked = [
            wire.ask("ReadVariable", requests.read(model=name)),
            wire.ask("ReadVariable", requests.read(variable=name)),
            wire.ask("RunFunction", requests.run(function=name)),
            wire.ask("RunFunction", requests.run(inputs={name: requests.tensor()})),
            wire.ask("AssignVariable", requests.assign(request_id=name[:20], message=name[:20])),
            wire.ask("WatchVariables", requests.watch(patterns=[name])),
        ]
        lines = [line for line in log.lines() if line["logger"] == "varserve.calls"]
    assert [line["event"] for line in lines] == ["call"] * len(asked)
    assert [line["code"] for line in lines] == [outcome.code.name for outcome in asked]
    assert lines[4]["request_id"] == name[:20]
    assert all("forged" not in str(line.get("level")) for line in lines)


def test_no_value_is_logged() -> None:
    """Neither what is read nor what is written is in the log, at its most talkative."""
    words = FakeVariable("words", strings(SECRET.encode()), shape=(None,), dtype="string")
    secret = requests.tensor(dtype=7, shape=[1], data=b"", strings=[SECRET.encode()])
    with (
        logged(logging.DEBUG) as log,
        serve_here(counter(words), call_log_level="info") as address,
        connected(address) as wire,
    ):
        for _ in range(2):
            assert SECRET in str(wire.ask("ReadVariable", requests.read(variable="words")))
        done = wire.ask("AssignVariable", requests.assign(variable="words", value=secret))
        assert done.code is grpc.StatusCode.OK
        wire.ask("AssignVariable", requests.assign(variable="v", value=secret))
        wire.ask("RunFunction", requests.run(inputs={"x": secret}))
        assert len(log.lines()) == 5
    assert SECRET not in log.text


def test_a_line_says_who_did_what_to_which_revision() -> None:
    """Method, model, revision, code, subject, request and trace: all that there is of a write."""
    metadata = [("name", "somebody"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")]
    with (
        logged(logging.DEBUG) as log,
        serve_here(
            counter(), access=Access(authenticator=Claimed()), call_log_level="info"
        ) as address,
        grpc.insecure_channel(address) as channel,
    ):
        call = channel.unary_unary("/varserve.v1.ModelService/AssignVariable")
        request = requests.assign(request_id="one")
        call(request.SerializeToString(), metadata=metadata, timeout=30)
        (line,) = log.lines()
    seconds, timestamp = line.pop("seconds"), line.pop("timestamp")
    assert 0 < seconds < 30
    assert timestamp.endswith("Z")
    assert line == {
        "event": "call",
        "level": "info",
        "logger": "varserve.calls",
        "method": "AssignVariable",
        "model": "counter",
        "version": 1,
        "revision": 1,
        "code": "OK",
        "subject": "somebody",
        "request_id": "one",
        "trace_id": TRACE,
    }


@pytest.mark.parametrize(
    ("level", "found"), [("debug", ["NOT_FOUND"]), ("info", ["OK", "NOT_FOUND"]), ("error", [])]
)
def test_calls_are_logged_at_the_level_that_is_set(level: str, found: list[str]) -> None:
    """By default only refused calls show at INFO; set to `info` all do; a higher log level wins."""
    least = logging.CRITICAL if level == "error" else logging.INFO
    with (
        logged(least) as log,
        serve_here(counter(), call_log_level=level) as address,
        connected(address) as wire,
    ):
        wire.ask("ReadVariable", requests.read())
        wire.ask("ReadVariable", requests.read(variable="nope"))
        assert [line["code"] for line in log.lines()] == found


@pytest.mark.parametrize(("level", "found"), [("debug", []), ("info", ["ABORTED"])])
def test_a_condition_that_does_not_hold_is_an_ordinary_call(level: str, found: list[str]) -> None:
    """Callers who write by turns lose now and then: that is no line on an operator's terminal."""
    with (
        logged(logging.INFO) as log,
        serve_here(counter(), call_log_level=level) as address,
        connected(address) as wire,
    ):
        outcome = wire.ask("AssignVariable", requests.assign(if_revision_match=7))
        assert outcome.code is grpc.StatusCode.ABORTED
        assert [line["code"] for line in log.lines()] == found
