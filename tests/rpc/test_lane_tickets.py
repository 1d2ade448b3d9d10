"""The lane: memory for whoever comes with a ticket, and for nobody else."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.rpc.lane_peer import (
    MIB,
    big,
    connected,
    content_of,
    lane_of,
    memory_of,
    read_ticket,
    upload_of,
    write_ticket,
)
from tests.rpc.models import counter
from tests.rpc.running import running
from tests.waiting import until_async
from varserve import lane
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.arrays import sealed
from varserve_service.core.arrays.sealed import SealedMemory
from varserve_service.rpc.lane import socket as lane_socket


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_value_is_lent_once(path: str) -> None:
    """The memory has the value, nobody can write to it, and the ticket is good no more."""
    variable = big()
    expected = variable.array.tobytes()  # type: ignore[union-attr]
    async with running(counter(variable), lane_socket=path) as found:
        call, first = await read_ticket(found)
        assert first.entries[0].tensor.byte_length == len(expected)
        with connected(path) as peer, connected(path) as second:
            proof, (fd,) = await peer.show(first.lane.ticket)
            assert proof == first.lane.proof
            assert await call.read() is grpc.aio.EOF
            assert content_of(fd, len(expected)) == expected
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
            with pytest.raises(PermissionError):
                mmap.mmap(fd, len(expected))
            assert (await second.show(first.lane.ticket))[0] == b""
            assert lane_of(found).refusals == {"ticket": 1}
            assert lane_of(found).lent_bytes == 2 * MIB
            os.close(fd)
        await until_async(lambda: lane_of(found).lent_bytes == 0)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (lane.HELLO + bytes(range(32)), "ticket"),
        (lane.HELLO, "ticket"),
        (lane.HELLO + bytes(31), "ticket"),
        (lane.HELLO + bytes(33), "ticket"),
        (lane.HELLO + bytes(4000), "ticket"),
        (b"GET / HTTP/1.1\r\n\r\n", "hello"),
    ],
)
async def test_what_is_no_ticket_gets_nothing(path: str, hello: bytes, why: str) -> None:
    """And the call that a ticket was given to waits on for its own."""
    async with running(counter(big()), lane_socket=path) as found:
        call, first = await read_ticket(found)
        with connected(path) as peer:
            peer.socket.send(hello)
            assert await peer.answer() == (b"", [])
        assert lane_of(found).refusals == {why: 1}
        with connected(path) as peer:
            proof, fds = await peer.show(first.lane.ticket)
            assert proof == first.lane.proof
            os.close(fds[0])
        assert await call.read() is grpc.aio.EOF


async def test_a_longer_ticket_that_begins_like_a_good_one_is_none(path: str) -> None:
    """It is not cut to fit."""
    async with running(counter(big()), lane_socket=path) as found:
        call, first = await read_ticket(found)
        with connected(path) as peer:
            assert (await peer.show(first.lane.ticket + b"x"))[0] == b""
        call.cancel()


@pytest.mark.parametrize("end", ["cancelled", "too late"])
async def test_a_ticket_ends_with_its_call(path: str, end: str) -> None:
    """Whoever comes later gets nothing, and nothing is held."""
    async with running(counter(big()), lane_socket=path, transfer_silence=0.5) as found:
        call, first = await read_ticket(found)
        if end == "cancelled":
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_async(lambda: not lane_of(found)._tickets)
        with connected(path) as peer:
            assert (await peer.show(first.lane.ticket))[0] == b""


async def test_a_peer_that_says_nothing_is_hung_up_on(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its ticket, and after it where memories have to come."""
    monkeypatch.setattr(lane_socket, "HANDSHAKE_SECONDS", 0.2)
    async with running(counter(big()), lane_socket=path) as found:
        with connected(path) as peer:
            assert (await peer.answer())[0] == b""
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        with connected(path) as peer:
            assert (await peer.show(ticket.ticket))[0] == ticket.proof
            assert (await peer.answer())[0] == b""
        assert lane_of(found).refusals == {"silent": 2}
        await until_async(lambda: lane_of(found).connections == 0)
        call.cancel()


async def test_no_more_peers_than_there_may_be(path: str) -> None:
    """Further ones are hung up on, and values are sent in chunks."""
    async with running(counter(big()), lane_socket=path, max_lane_connections=7) as found:
        with ExitStack() as peers:
            for _ in range(7):
                peers.enter_context(connected(path))
            with connected(path) as further:
                assert (await further.answer())[0] == b""
            assert lane_of(found).refusals == {"full": 1}
            _, first = await read_ticket(found)
            assert not first.HasField("lane")


async def let_go() -> None:
    """Wait until what nobody refers to any more is given back: a thread does it, in order."""
    gc.collect()
    last = SealedMemory(memory_of(bytes(4096)), 4096)
    gone = weakref.ref(last)
    array = last.array()
    del last, array
    await until_async(lambda: gone() is None)


async def test_memories_take_no_more_descriptors_than_there_may_be(path: str) -> None:
    """What a client was given is its own: the service keeps a descriptor of a variable's alone."""
    await let_go()
    others = sealed.count()
    region = {"slices": {"dimensions": [{"start": 1, "stop": 2 * MIB}]}}
    part = pb.ReadVariablesRequest(
        model="counter", lane=True, reads=[{"variable": "big", "region": region}]
    )
    most = others + lane.MOST_OWN + 2
    async with running(counter(big()), lane_socket=path, max_lane_memories=most) as found:
        with ExitStack() as peers:
            for _ in range(3):
                call, first = await read_ticket(found, part)
                peer = peers.enter_context(connected(path))
                _, fds = await peer.show(first.lane.ticket)
                assert await call.read() is grpc.aio.EOF
                os.close(fds[0])
            await until_async(lambda: sealed.count() == others)
            kept = [SealedMemory(memory_of(bytes(4096)), 4096) for _ in range(2)]
            call, first = await read_ticket(found, part)
            assert not first.HasField("lane")
            call.cancel()
            del kept


ASK = """
import os, socket, sys
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    peer.connect(sys.argv[1])
    peer.send(bytes.fromhex(sys.argv[2]))
    print(len(peer.recv(100)))
except PermissionError:
    print("no permission")
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    ("uids", "mode", "answer"),
    [((), 0o600, "no permission"), ((1,), 0o666, "0"), ((65534,), 0o666, "32")],
)
async def test_who_is_there_is_what_the_kernel_says(
    uids: tuple[int, ...], mode: int, answer: str, open_folder: Path
) -> None:
    """Another user gets nothing, with a good ticket too, unless the operator names it."""
    path = str(open_folder / "lane")
    async with running(counter(big()), lane_socket=path, lane_uids=uids) as found:
        assert Path(path).stat().st_mode & 0o777 == mode
        call, first = await read_ticket(found)
        hello = (lane.HELLO + first.lane.ticket).hex()
        asked = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", ASK, path, hello],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert asked.stdout.strip() == answer, asked.stderr
        assert lane_of(found).refusals == ({"uid": 1} if answer == "0" else {})
        call.cancel()


async def test_a_ticket_for_one_thing_is_none_for_another(path: str) -> None:
    """Memories that are sent with a read's ticket change nothing."""
    variable = big()
    before = variable.array.tobytes()  # type: ignore[union-attr]
    async with running(counter(variable), lane_socket=path) as found:
        _, first = await read_ticket(found)
        with connected(path) as peer:
            _, fds = await peer.show(first.lane.ticket)
            given = memory_of(bytes(2 * MIB))
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            assert (await peer.answer())[0] == b""
            for fd in (*fds, given):
                os.close(fd)
    assert variable.array.tobytes() == before  # type: ignore[union-attr]
