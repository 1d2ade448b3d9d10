"""What no request can carry is refused here, by the name of the argument."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import varserve
from varserve._client.errors import InvalidRequest
from varserve._client.wording import shown

LARGE = 2**63
HUGE = 10**5000
NO_TEXT = "caf\udce9"

# An argument, what is expected of it, and a call that gives it something else.
CALLS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("model", "text that UTF-8 can hold", lambda c: c.model(NO_TEXT)),
    ("model", "text", lambda c: c.model(3)),
    ("model", "text", lambda c: c.wait_ready(NO_TEXT)),
    ("variable", "text", lambda c: c.read_variable("fake", NO_TEXT)),
    ("variable", "text", lambda c: c.read_variables("fake", ["counter", NO_TEXT])),
    ("variable", "text", lambda c: c.summarize_variables("fake", [NO_TEXT])),
    ("variable", "text", lambda c: c.assign_variables("fake", {NO_TEXT: 1})),
    ("at_revision", "64 bits", lambda c: c.read_variable("fake", "flag", at_revision=LARGE)),
    ("at_revision", "64 bits", lambda c: c.read_variables("fake", ["flag"], at_revision=HUGE)),
    ("if_newer_than", "an integer", lambda c: c.read_variable("fake", "flag", if_newer_than="1")),
    ("epoch", "text", lambda c: c.read_variable("fake", "flag", epoch=NO_TEXT)),
    ("dtype", "float32", lambda c: c.read_variable("fake", "flag", dtype="floot")),
    ("dtype", "float32", lambda c: c.read_variables("fake", ["w"], dtypes={"w": "floot"})),
    ("bins", "32 bits", lambda c: c.summarize_variables("fake", ["flag"], bins=LARGE)),
    ("low", "a number", lambda c: c.model("fake").summaries(bins=2, range=(10**400, 1))),
    ("message", "text", lambda c: c.assign_variable("fake", "flag", [True], message=NO_TEXT)),
    ("request_id", "text", lambda c: c.assign_variable("fake", "flag", [True], request_id=7)),
    ("lease_seconds", "float", lambda c: c.assign_variables("fake", {"a": 1}, lease_seconds=HUGE)),
    (
        "if_revision_match",
        "64 bits",
        lambda c: _flag(c).assign([True, True], if_revision_match=LARGE),
    ),
    ("operation", "set, add or", lambda c: c.assign_variable("fake", "flag", 1, operation="mul")),
    ("function", "text", lambda c: c.run_function("fake", NO_TEXT, {})),
    ("inputs", "text", lambda c: c.run_function("fake", "f", {"x": 1, NO_TEXT: 2})),
    ("name", "text", lambda c: c.stream_run_function("fake", "f", {NO_TEXT: 2})),
    ("outputs", "text", lambda c: c.run_function("fake", "f", {}, outputs=["y", NO_TEXT])),
    ("constants", "text", lambda c: c.run_function("fake", "f", {}, constants={NO_TEXT: 1})),
    ("constant 'n'", "64 bits", lambda c: c.run_function("fake", "f", {}, constants={"n": HUGE})),
    ("input 'x'", "text", lambda c: c.run_function("fake", "f", {"x": ["a", NO_TEXT]})),
    ("variable 'labels'", "text", lambda c: c.assign_variable("fake", "labels", [NO_TEXT])),
    ("patterns", "text", lambda c: c.watch_variables("fake", ["a", NO_TEXT])),
    ("after_revision", "64 bits", lambda c: c.watch_variables("fake", after_revision=LARGE)),
    ("limit", "32 bits", lambda c: c.list_commits("fake", limit=LARGE)),
    ("before", "64 bits", lambda c: c.list_commits("fake", before=LARGE)),
    ("revision", "64 bits", lambda c: c.revert_commits("fake", LARGE)),
    ("lease", "64 bits", lambda c: c.renew_lease("fake", LARGE)),
    ("keep", "True or False", lambda c: c.revoke_lease("fake", 1, keep="yes")),
    ("timeout", "seconds above 0", lambda c: c.models(timeout=HUGE)),
    ("timeout", "seconds above 0", lambda c: c.models(timeout="5")),
    ("timeout", "seconds above 0", lambda c: c.watch_variables("fake", timeout=-1)),
    ("seconds", "above 0", lambda c: _flag(c).lease([True, True], seconds=HUGE)),
]


def _flag(client: varserve.Client) -> varserve.Variable:
    return client.model("fake").variables["flag"]


@pytest.mark.parametrize(("called", "expected", "call"), CALLS)
def test_refused(
    client: varserve.Client, called: str, expected: str, call: Callable[[Any], Any]
) -> None:
    """The error is varserve's own, and names the argument, what it must be and what was found."""
    with pytest.raises(
        InvalidRequest, match=f"(?s){called}.*expected.*{expected}.*found"
    ) as caught:
        call(client)
    assert not caught.value.from_service
    assert len(caught.value.message) < 250
    caught.value.message.encode()


def test_regions_that_cannot_be(client: varserve.Client) -> None:
    """Indices that no dimension has, of 64 bits and more, are a region's own error."""
    rows = varserve.Rows(np.array([LARGE], np.uint64))
    with pytest.raises(varserve.RegionInvalid, match=f"rows: .* {LARGE}"):
        client.read_variable("fake", "table", region=rows)
    with pytest.raises(varserve.RegionInvalid, match=f"dimension 0: .* {LARGE}"):
        client.read_variable("fake", "table", region=slice(0, LARGE))


def test_refused_of_an_operator() -> None:
    """So it is with the operator's client; nobody is asked."""
    with varserve.connect_admin("localhost:1") as admin:
        with pytest.raises(InvalidRequest, match=r"version: expected .* 64 bits, found"):
            admin.load_model("m", LARGE)
        with pytest.raises(InvalidRequest, match="label: expected text"):
            admin.load_model("m", label=NO_TEXT)
        with pytest.raises(InvalidRequest, match=r"format: expected .*checkpoint.*found 'zip'"):
            admin.save_model("m", "folder", format="zip")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("target", NO_TEXT),
        ("target", "a\0:1"),
        ("target", 8500),
        ("timeout", 10**400),
        ("timeout", 0),
        ("metadata", [("Upper", "x")]),
        ("metadata", [("key", "line\n")]),
        ("metadata", [("key", 2**70)]),
        ("metadata", [("key", NO_TEXT)]),
        ("metadata", [("key-bin", "text")]),
        ("metadata", ["key"]),
        ("tls", varserve.Tls(ca="a\0b")),
    ],
)
def test_connections_that_cannot_be(argument: str, value: Any) -> None:
    """What gRPC would refuse at the first call is refused by both kinds of `connect`, by name."""
    given = {"target": "localhost:1", argument: value}
    called = "HOST:PORT" if argument == "target" else f"{argument}: expected"
    for connect in (varserve.connect, varserve.aio.connect, varserve.connect_admin):
        with pytest.raises(InvalidRequest, match=f"{called}.*found"):
            connect(**given)


@pytest.mark.parametrize(
    "option", [("grpc.max_send_message_length", 2**70), (3, 4), ("a", NO_TEXT)]
)
def test_options_that_cannot_be(option: Any) -> None:
    """Options that no channel has fail the first call, with either client."""
    with varserve.connect("localhost:1", options=[option]) as client, pytest.raises(InvalidRequest):
        client.models()

    async def ask() -> None:
        async with varserve.aio.connect("localhost:1", options=[option]) as client:
            await client.models()

    with pytest.raises(InvalidRequest, match="options"):
        asyncio.run(ask())


def test_metadata_that_can_be(client: varserve.Client, address: str) -> None:
    """What gRPC takes is taken: text, bytes of text, any bytes where the key says so."""
    metadata = [("a-b.c_1", "~ text"), ("key", b"text"), ("key-bin", b"\0\xff"), ("empty", "")]
    with varserve.connect(address, metadata=metadata) as client:
        assert client.models()


def test_a_secret_is_not_told() -> None:
    """A value of metadata that is refused is not in the message."""
    with pytest.raises(InvalidRequest) as caught:
        varserve.connect("localhost:1", metadata=[("key", "secret\n")])
    assert "secret" not in caught.value.message


def test_shown() -> None:
    """Whatever a caller gave is a few words that can be printed."""
    assert shown(NO_TEXT) == r"'caf\udce9'"
    assert shown(HUGE) == "an integer of 16610 bits"
    assert shown([NO_TEXT]) == "list"
    assert len(shown(b"\0" * 1000)) == 80
