"""The connection of a session on the lane: who gets one, and what ends it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeVariable, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.session_wire import SessionWire, in_session, shown
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import connected
from tests.serving import serve_here
from tests.waiting import until
from varserve import lane
from varserve.v1 import session_pb2 as pb
from varserve_service.rpc import Access, Server
from varserve_service.rpc.lane import socket as lane_socket

READ = requests.read()
HELD = requests.run(function="held", inputs={})
BIG = FakeVariable("big", np.ones(30_000, np.uint8))


@contextmanager
def serving(path: str, gate: Gate | None = None, **options: Any) -> Iterator[tuple[str, Server]]:
    """An address, and its server, that has a lane."""
    servers: list[Server] = []

    def wait() -> dict[str, Any]:
        assert gate is not None
        gate()
        return {}

    live = counter(BIG, functions=(FakeFunction("held", wait),))
    with serve_here(live, lane_socket=path, prepare=servers.append, **options) as address:
        try:
            yield address, servers[0]
        finally:
            if gate is not None:
                gate.opened.set()


def is_ok(wire: SessionWire) -> bool:
    return wire.ask("ReadVariable", READ).code is grpc.StatusCode.OK


def test_a_connection_is_for_the_session_that_asked(path: str) -> None:
    """Its ticket is good once, a guessed one never, and with the session everything ends."""
    with serving(path) as (address, server):
        assert server.lane is not None
        with in_session(address, by_lane=True) as wire:
            assert is_ok(wire)
            assert wire.offer is not None
            assert server.lane.connections == 1
            for ticket in (wire.offer.ticket.ticket, bytes(32), wire.offer.ticket.proof):
                other = pb.SessionLane()
                other.CopyFrom(wire.offer)
                other.ticket.ticket = ticket
                with pytest.raises(AssertionError):
                    shown(other)
            assert server.lane.refusals == {"ticket": 3}
            assert is_ok(wire)
        until(lambda: server.lane is not None and not server.lane.connections)
        assert not server.lane._tickets
        assert not server.lane._pipes


def test_who_does_not_ask_is_offered_nothing(path: str) -> None:
    """Nor where there is no lane; a session asks once."""
    with serving(path) as (address, server), in_session(address) as wire:
        assert is_ok(wire)
        assert wire.offer is None
        wire.ask_for_lane()
        wire._messages.put(pb.SessionRequest(lane=True))
        assert is_ok(wire)
        assert server.lane is not None
        assert len(server.lane._tickets) == 1
    with serve_here(counter()) as address, in_session(address) as wire:
        wire._messages.put(pb.SessionRequest(lane=True))
        assert is_ok(wire)
        assert wire.offer is None


def test_a_ticket_nobody_comes_with_expires(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session goes on in its stream."""
    monkeypatch.setattr(lane_socket, "HANDSHAKE_SECONDS", 0.05)
    with serving(path) as (address, server), in_session(address) as wire:
        offer = wire.ask_for_lane()
        assert server.lane is not None
        until(lambda: server.lane is not None and not server.lane._tickets)
        with pytest.raises(AssertionError):
            shown(offer)
        assert is_ok(wire)


def test_sessions_leave_room_on_the_lane(path: str) -> None:
    """All of them have at most half of its connections, a subject half of that; then the stream."""
    access = Access(authenticator=Claimed())
    with (
        serving(path, max_lane_connections=8, access=access) as (address, server),
        ExitStack() as sessions,
    ):

        def offered(name: str) -> bool:
            wire = sessions.enter_context(in_session(address, name=name))
            wire._messages.put(pb.SessionRequest(lane=True))
            assert is_ok(wire)
            return wire.offer is not None

        found = [offered(name) for name in ("ann", "ann", "ann", "bob", "bob", "cec", "cec")]
        assert found == [True, True, False, True, True, False, False]
        assert server.lane is not None
        assert server.lane.has_room("dee")
        sessions.close()
        until(lambda: server.lane is not None and not server.lane._pipes)
        assert offered("ann")


def test_nobody_has_to_use_a_connection(path: str) -> None:
    """Answers come in the stream until something is sent on it, also when it was closed unused."""
    with serving(path) as (address, _), in_session(address) as wire:
        peer = shown(wire.ask_for_lane())
        for _ in range(3):
            assert is_ok(wire)
        peer.close()
        for _ in range(3):
            assert is_ok(wire)
    with serving(path) as (address, _), in_session(address, by_lane=True) as wire:
        request = pb.SessionRequest(calls=[wire.call("ReadVariable", READ.SerializeToString())])
        wire._messages.put(request)  # in the stream, beside those on the lane
        assert is_ok(wire)
        outcome = wire.answer(request.calls[0].id)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK


def _raw(length: int, body: bytes = b"") -> bytes:
    return struct.pack("<I", length) + body


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (_raw(0), "found the length 0"),
        (_raw(4 * 2**20 + 1), "found the length 4194305"),
        (_raw(2**32 - 1), "found the length 4294967295"),
        (b"GET / HTTP/1.1\r\n", "expected a message of 1 to 4194304 bytes"),
        (_raw(2, b"\xff\xff"), "not a valid request of Session"),
        (_raw(5, b"\x0a"), "in the middle of a message"),
        (b"\x01\x00", "in the middle of a message"),
    ],
    ids=["empty", "one too long", "longest", "another language", "no message", "cut", "cut length"],
)
def test_what_is_no_message_ends_the_session(path: str, data: bytes, text: str) -> None:
    """The calls that have begun are answered, and the stream says what was wrong."""
    gate = Gate()
    with serving(path, gate) as (address, _), in_session(address, by_lane=True) as wire:
        begun = wire.begin("RunFunction", HELD)
        assert gate.reached.wait(30)
        assert wire.connection is not None
        wire.connection.sendall(data)
        if "middle" in text:
            wire.connection.shutdown(socket.SHUT_WR)
        gate.opened.set()
        outcome = wire.answer(begun)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK
        until(lambda: wire.end is not None)
        assert wire.end is grpc.StatusCode.INVALID_ARGUMENT
        assert text in wire.text


def test_who_takes_no_answer_is_cut_off(path: str) -> None:
    """Others go on meanwhile, and the stream says why."""
    with (
        serving(path, transfer_silence=0.5) as (address, server),
        in_session(address) as wire,
        connected(address) as other,
    ):
        peer = shown(wire.ask_for_lane())
        data = requests.read(variable="big").SerializeToString()
        calls = [wire.call("ReadVariable", data) for _ in range(200)]
        peer.sendall(lane.with_length(pb.SessionRequest(calls=calls).SerializeToString()))
        while wire.end is None:
            assert other.ask("ReadVariable", READ).code is grpc.StatusCode.OK
        assert wire.end is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "has taken no message" in wire.text
        peer.settimeout(30)
        with suppress(ConnectionResetError):
            while peer.recv(1 << 20):
                pass
        peer.close()
        assert server.lane is not None
        until(lambda: server.lane is not None and not server.lane.connections)


@pytest.mark.parametrize("count", [8, 200])
def test_the_last_answers_are_sent_before_the_end(path: str, count: int) -> None:
    """A client that ends its side and takes its time still gets every answer, and then the end."""
    with serving(path) as (address, _), in_session(address) as wire:
        peer = shown(wire.ask_for_lane())
        assert wire.ask("ReadVariable", requests.read(variable="big")).code is grpc.StatusCode.OK
        data = requests.read(variable="big").SerializeToString()
        calls = [wire.call("ReadVariable", data) for _ in range(count)]
        peer.sendall(lane.with_length(pb.SessionRequest(calls=calls).SerializeToString()))
        peer.shutdown(socket.SHUT_WR)
        time.sleep(0.3)  # all that can be sent has been
        messages, answered = lane.Messages(4 << 20), set()
        while received := peer.recv(1 << 16):
            messages.add(received)
            while (message := messages.next()) is not None:
                answered |= {each.id for each in pb.SessionResponse.FromString(message).answers}
        messages.end()
        peer.close()
        assert answered == {call.id for call in calls}
        until(lambda: wire.end is not None)
        assert wire.end is grpc.StatusCode.OK


def test_what_has_no_room_is_not_received(path: str) -> None:
    """Beyond the calls that may be in progress the service reads a little, and then no more."""
    gate = Gate()
    options = {"max_pending_calls": 1000}
    with serving(path, gate, **options) as (address, _), in_session(address) as wire:
        peer = shown(wire.ask_for_lane())
        data = HELD.SerializeToString()
        full = pb.SessionRequest(calls=[wire.call("RunFunction", data) for _ in range(256)])
        peer.sendall(lane.with_length(full.SerializeToString()))
        assert gate.reached.wait(30)
        more = lane.with_length(
            pb.SessionRequest(
                calls=[wire.call("RunFunction", data, tracestate="x" * 60_000)]
            ).SerializeToString()
        )
        peer.settimeout(1)
        with pytest.raises(TimeoutError):
            peer.sendall(more * 32)
        peer.close()


def test_a_message_that_trickles_is_silence(path: str) -> None:
    """A session whose client only ever begins a message ends by itself."""
    with serving(path, transfer_silence=0.4) as (address, _), in_session(address) as wire:
        peer = shown(wire.ask_for_lane())
        message = lane.with_length(pb.SessionRequest(cancelled_ids=[1] * 100).SerializeToString())
        with suppress(OSError):
            for byte in message[:-1]:
                peer.sendall(bytes([byte]))
                if wire.end is not None:
                    break
                time.sleep(0.005)
        until(lambda: wire.end is not None)
        assert wire.end is grpc.StatusCode.OK
        peer.close()


def test_many_small_messages_hold_up_nobody(path: str) -> None:
    """Each is a turn of the event loop at the most: health answers while they are taken."""
    with (
        serving(path) as (address, _),
        in_session(address, by_lane=True) as wire,
        in_session(address) as other,
    ):
        assert wire.connection is not None
        message = lane.with_length(pb.SessionRequest(cancelled_ids=[7]).SerializeToString())
        for _ in range(10):
            wire.connection.sendall(message * 20_000)
            assert is_ok(other)
        assert is_ok(wire)
