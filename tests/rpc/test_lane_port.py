"""The lane's port: bytes for whoever comes with a ticket, and for nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc.certified import Place
from tests.rpc.models import counter
from tests.rpc.requests import chunk, entry, manifest
from tests.rpc.running import Running, running
from tests.waiting import until_async
from varserve import lane
from varserve.v1 import lane_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc import Access
from varserve_service.rpc.lane import port as lane_port

MIB = 2**20
CONTENT = np.random.default_rng(3).integers(0, 256, 2 * MIB + 5, np.uint8)


def big() -> FakeVariable:
    return FakeVariable("big", CONTENT.copy(), shape=(None,))


def port_of(found: Running) -> Any:
    assert found.server._backend.port is not None
    return found.server._backend.port


async def read_ticket(found: Running) -> tuple[Any, Any]:
    request = pb.ReadVariablesRequest(model="counter", lane_port=True, reads=[{"variable": "big"}])
    call = found.stub.ReadVariables(request)
    return call, (await call.read()).manifest


async def write_ticket(found: Running, nbytes: int) -> tuple[Any, Any]:
    call = found.stub.AssignVariables()
    header = {"dtype": 4, "shape": [nbytes], "byte_length": nbytes}
    await call.write(manifest(entry(variable="big", tensor=header), lane_port=True))
    metadata = dict(await call.initial_metadata())
    return call, lane_pb2.LaneTicket.FromString(metadata[lane.TICKET_KEY])


@contextmanager
def connected(found: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(found).number), 20) as peer:
        yield peer


async def all_of(peer: socket.socket) -> bytes:
    """What comes until the service hangs up."""

    def receive() -> bytes:
        parts = []
        try:
            while part := peer.recv(MIB):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    return await asyncio.to_thread(receive)


def pieces(content: bytes) -> bytes:
    found = []
    for start in range(0, len(content), lane.PIECE_BYTES):
        piece = content[start : start + lane.PIECE_BYTES]
        found.append(lane.crc32c(memoryview(piece)).to_bytes(4, "little") + piece)
    return b"".join(found)


def threads() -> int:
    return sum(each.name == "varserve-lane" for each in threading.enumerate())


async def test_a_value_is_sent_once() -> None:
    """In pieces with their checksums; the ticket is good no more."""
    async with running(counter(big()), lane_port=0) as found:
        call, first = await read_ticket(found)
        with connected(found) as peer, connected(found) as second:
            peer.sendall(lane.HELLO_PORT + first.lane.ticket)
            assert await all_of(peer) == first.lane.proof + pieces(CONTENT.tobytes())
            assert await call.read() is grpc.aio.EOF
            second.sendall(lane.HELLO_PORT + first.lane.ticket)
            assert await all_of(second) == b""
        assert port_of(found).refusals == {"ticket": 1}
        await until_async(lambda: threads() == 0)


async def test_small_calls_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each piece, of a read and of an assign, and each connection by its own clock."""
    rests: list[Any] = []

    class Counted(lane_port.Pace):
        def give_way_on_thread(self) -> bool:
            rests.append((self, self._small_calls))
            return super().give_way_on_thread()

    monkeypatch.setattr(lane_port, "Pace", Counted)
    async with running(counter(big()), lane_port=0) as found:
        call, first = await read_ticket(found)
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + first.lane.ticket)
            await all_of(peer)
            assert await call.read() is grpc.aio.EOF
        assert len(rests) == 3
        upload, ticket = await write_ticket(found, CONTENT.nbytes)
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + ticket.ticket + pieces(CONTENT.tobytes()))
            assert await all_of(peer) == ticket.proof + lane.TAKEN
        await upload.done_writing()
        assert (await upload).header.revision == 1
        assert len(rests) == 6
        assert {calls for _, calls in rests} == {found.server._backend.small_calls}
        assert len({pace for pace, _ in rests}) == 2


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (lane.HELLO_PORT + bytes(range(32)), "ticket"),
        (lane.HELLO_PORT + bytes(32), "ticket"),
        (lane.HELLO + bytes(32), "hello"),
        (b"GET / HTTP/1.1\r\nHost: varserve.example\r\n\r\n", "hello"),
    ],
)
async def test_what_is_no_ticket_gets_nothing(hello: bytes, why: str) -> None:
    """And the call that a ticket was given to waits on for its own."""
    async with running(counter(big()), lane_port=0) as found:
        call, first = await read_ticket(found)
        with connected(found) as peer:
            peer.sendall(hello)
            assert await all_of(peer) == b""
        assert port_of(found).refusals == {why: 1}
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + first.lane.ticket)
            assert (await all_of(peer)).startswith(first.lane.proof)
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("hello", [b"", lane.HELLO_PORT + bytes(31)])
async def test_a_peer_that_is_silent_is_hung_up_on(
    hello: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its ticket is there."""
    monkeypatch.setattr(lane_port, "HANDSHAKE_SECONDS", 0.2)
    async with running(counter(big()), lane_port=0) as found:
        with connected(found) as peer:
            peer.sendall(hello)
            assert await all_of(peer) == b""
        assert port_of(found).refusals == {"silent": 1}
        await until_async(lambda: threads() == 0)


async def test_a_peer_without_a_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread a peer is hung up on, and later ones are served."""
    monkeypatch.setattr(lane_port, "MOST_PEERS", 2)
    missing, start = iter(range(4)), threading.Thread.start

    def starts(thread: threading.Thread) -> None:
        if thread.name == "varserve-lane" and next(missing, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    async with running(counter(big()), lane_port=0) as found:
        for _ in range(4):
            with connected(found) as peer:
                assert await all_of(peer) == b""
        assert port_of(found).refusals == {"full": 4}
        call, first = await read_ticket(found)
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + first.lane.ticket)
            assert (await all_of(peer)).startswith(first.lane.proof)
        assert await call.read() is grpc.aio.EOF


async def test_no_more_peers_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ones are hung up on, and values go through gRPC."""
    monkeypatch.setattr(lane_port, "MOST_PEERS", 2)
    async with running(counter(big()), lane_port=0) as found:
        with connected(found), connected(found), connected(found) as third:
            assert await all_of(third) == b""
            assert port_of(found).refusals == {"full": 1}
            call, first = await read_ticket(found)
            assert not first.HasField("lane")
            call.cancel()
        await until_async(lambda: threads() == 0)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_read_that_nobody_takes_is_given_up(when: str) -> None:
    """Nobody comes with the ticket, or who came does not read; its thread ends."""
    value = FakeVariable("big", np.zeros(64 * MIB, np.uint8), shape=(None,))
    async with running(counter(value), lane_port=0, transfer_silence=0.3) as found:
        call, first = await read_ticket(found)
        with connected(found) as peer:
            if when == "after":
                peer.sendall(lane.HELLO_PORT + first.lane.ticket)
                await until_async(lambda: not port_of(found)._tickets)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not port_of(found)._tickets
            if when == "after":
                await until_async(lambda: threads() == 0)
                assert len(await all_of(peer)) < 64 * MIB


async def test_values_are_received_into_their_variable() -> None:
    """The peer is told when all of them are there."""
    variable = big()
    sent = CONTENT[::-1].tobytes()
    async with running(counter(variable), lane_port=0) as found:
        call, ticket = await write_ticket(found, len(sent))
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + ticket.ticket + pieces(sent))
            assert await all_of(peer) == ticket.proof + lane.TAKEN
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == sent


@pytest.mark.parametrize(
    "fault", ["another checksum", "too short", "nothing", "a ticket for a read"]
)
async def test_a_body_that_is_not_whole_is_not_taken(fault: str) -> None:
    """It may come in chunks then; what came before counts for nothing."""
    variable = big()
    sent = b"\7" * MIB
    async with running(counter(variable), lane_port=0) as found:
        call, ticket = await write_ticket(found, 2 * MIB)
        shown = ticket
        if fault == "a ticket for a read":
            reading, first = await read_ticket(found)
            shown = first.lane
        body = {
            "another checksum": pieces(sent)[:-1] + b"\6" + pieces(sent),
            "too short": pieces(sent) + pieces(sent)[:-1],
            "nothing": b"",
            "a ticket for a read": pieces(sent) * 2,
        }[fault]
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + shown.ticket)
            if fault != "a ticket for a read":
                peer.sendall(body)
            peer.shutdown(socket.SHUT_WR)
            assert not (await all_of(peer)).endswith(shown.proof + lane.TAKEN)
        if fault == "a ticket for a read":
            assert await reading.read() is grpc.aio.EOF
        await until_async(lambda: threads() == 0)
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\5" * MIB))
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == b"\5" * 2 * MIB


async def shared(found: Running, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> tuple[Any, Any]:
    """An assign of two connections, and its tickets."""
    monkeypatch.setattr(lane, "most_connections", lambda: 2)
    call = found.stub.AssignVariables()
    header = {"dtype": 4, "shape": [nbytes], "byte_length": nbytes}
    first = manifest(entry(variable="big", tensor=header), lane_port=True, lane_connections=9)
    await call.write(first)
    metadata = dict(await call.initial_metadata())
    ticket = lane_pb2.LaneTicket.FromString(metadata[lane.TICKET_KEY])
    return call, [ticket.ticket, *ticket.further_tickets]


async def test_a_share_is_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two connections each carries every other piece, and each is told that it is there."""
    variable = big()
    parts = [b"\1" * MIB, b"\2" * MIB, b"\3" * MIB, b"\4" * 5]
    async with running(counter(variable), lane_port=0) as found:
        call, tickets = await shared(found, monkeypatch, 3 * MIB + 5)
        assert len(tickets) == 2
        with connected(found) as one, connected(found) as two:
            two.sendall(lane.HELLO_PORT + tickets[1] + pieces(parts[1]) + pieces(parts[3]))
            assert (await all_of(two))[32:] == lane.TAKEN
            one.sendall(lane.HELLO_PORT + tickets[0] + pieces(parts[0]) + pieces(parts[2]))
            assert (await all_of(one))[32:] == lane.TAKEN
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == b"".join(parts)
        assert not port_of(found)._tickets


@pytest.mark.parametrize("fault", ["another checksum", "too short", "does not come"])
async def test_a_share_that_is_missing_leaves_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one share the whole is not there, and may come in chunks."""
    variable = big()
    whole = pieces(b"\1" * MIB)
    async with running(counter(variable), lane_port=0) as found:
        call, tickets = await shared(found, monkeypatch, 2 * MIB)
        with connected(found) as one, connected(found) as two:
            one.sendall(lane.HELLO_PORT + tickets[0] + whole)
            assert (await all_of(one))[32:] == lane.TAKEN
            if fault != "does not come":
                body = whole[:-1] + (b"\7" if fault == "another checksum" else b"")
                two.sendall(lane.HELLO_PORT + tickets[1] + body)
                two.shutdown(socket.SHUT_WR)
                assert not (await all_of(two))[32:]
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\5" * MIB))
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == b"\5" * 2 * MIB
        await until_async(lambda: threads() == 0)


async def test_connections_are_as_many_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that comes with several gets fewer tickets where few are left, and one at least."""
    monkeypatch.setattr(lane, "most_connections", lambda: 4)
    monkeypatch.setattr(lane_port, "MOST_PEERS", 3)
    async with running(counter(big()), lane_port=0) as found:
        assert [port_of(found).connections(n) for n in (-1, 0, 1, 2, 9)] == [0, 1, 1, 2, 3]
        with connected(found) as peer:
            await until_async(lambda: threads() == 1)
            assert port_of(found).connections(9) == 2
            peer.close()


async def test_without_a_body_nothing_is_written() -> None:
    """A client that hung up on the port and sends no chunk either."""
    variable = big()
    async with running(counter(variable), lane_port=0) as found:
        call, ticket = await write_ticket(found, 2 * MIB)
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + ticket.ticket + pieces(b"\7" * MIB))
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert variable.array is not None
        assert variable.array.tobytes() == CONTENT.tobytes()


async def test_a_client_that_goes_in_the_middle_leaves_nothing() -> None:
    """Its thread ends with its call, and so does what was staged."""
    async with running(counter(big()), lane_port=0) as found:
        call, ticket = await write_ticket(found, 2 * MIB)
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + ticket.ticket + pieces(b"\7" * MIB))
            await until_async(lambda: not port_of(found)._tickets)
            call.cancel()
            await until_async(lambda: found.server._admission.staged == 0)
            await until_async(lambda: threads() == 0)


async def test_tls_is_that_of_the_service(tmp_path: Path) -> None:
    """A peer in plaintext, or that does not finish its handshake, gets nothing."""
    place = Place(tmp_path)
    access = Access(tls=place.watched(mutual=False))
    async with running(counter(big()), lane_port=0, access=access) as found:
        with connected(found) as peer:
            peer.sendall(lane.HELLO_PORT + bytes(32))
            await all_of(peer)
        assert port_of(found).refusals == {"tls": 1}
        await until_async(lambda: threads() == 0)
