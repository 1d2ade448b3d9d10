"""The lane: memory for whoever comes with a ticket, and for nobody else."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import mmap
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc.models import counter, strings
from tests.rpc.requests import chunk, entry, manifest
from tests.rpc.test_identity import Claimed
from tests.rpc.test_lifecycle import Running, reason_of, running
from tests.waiting import until_async
from varserve import lane
from varserve.v1 import lane_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.arrays import sealed
from varserve_service.core.arrays.sealed import SealedMemory
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.rpc import Access
from varserve_service.rpc.lane import socket as lane_socket

MIB = 2**20
FDS = Path("/proc/self/fd")
ANN = (("name", "ann"),)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lane")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def big(nbytes: int = 2 * MIB, name: str = "big") -> FakeVariable:
    values = np.random.default_rng(3).integers(0, 256, nbytes, np.uint8)
    return FakeVariable(name, values, shape=(None,))


def request(*names: str, **fields: Any) -> pb.ReadVariablesRequest:
    reads = [{"variable": name} for name in names or ("big",)]
    return pb.ReadVariablesRequest(**{"model": "counter", "lane": True, "reads": reads} | fields)


def upload_of(*lengths: int, **fields: Any) -> Any:
    headers = [{"dtype": 4, "shape": [n], "byte_length": n} for n in lengths]
    entries = [
        entry(variable=f"big{number or ''}", tensor=each) for number, each in enumerate(headers)
    ]
    return manifest(*entries, lane=True, **fields)


def memory_of(content: bytes, size: int | None = None, *, sealed: bool = True) -> int:
    fd = lane.new_memory(-(-len(content) // 4096) * 4096 if size is None else size)
    os.pwrite(fd, content, 0)
    if sealed:
        lane.seal(fd)
    return fd


class Peer:
    """A client of the lane alone."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(path)

    async def show(self, ticket: bytes) -> tuple[bytes, list[int]]:
        """The answer and the descriptors for a ticket; b"" where the service hung up."""
        self.socket.send(lane.HELLO + ticket)
        return await self.answer()

    async def answer(self) -> tuple[bytes, list[int]]:
        def receive() -> tuple[bytes, list[int]]:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1024, 100)
            except ConnectionResetError:
                return b"", []
            return data, fds

        return await asyncio.to_thread(receive)


@contextmanager
def connected(path: str) -> Iterator[Peer]:
    peer = Peer(path)
    try:
        yield peer
    finally:
        peer.socket.close()


def lane_of(found: Running) -> Any:
    assert found.server.lane is not None
    return found.server.lane


async def read_ticket(found: Running, wanted: Any = None, **options: Any) -> tuple[Any, Any]:
    """A call that waits for its values to be fetched, and the manifest that it sent."""
    call = found.stub.ReadVariables(wanted or request(), **options)
    first = await call.read()
    return call, first.manifest


async def write_ticket(found: Running, first: Any, **options: Any) -> tuple[Any, Any]:
    """A call that waits for its body, and the ticket that it was given."""
    call = found.stub.AssignVariables(**options)
    await call.write(first)
    metadata = dict(await call.initial_metadata())
    return call, lane_pb2.LaneTicket.FromString(metadata[lane.TICKET_KEY])


def content_of(fd: int, nbytes: int) -> bytes:
    with mmap.mmap(fd, nbytes, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
        return mapped[:]


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
        (lane.HELLO + secrets.token_bytes(32), "ticket"),
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


async def test_a_memory_becomes_the_value(path: str) -> None:
    """Without a copy; small ones are copied, out of the memory that they share."""
    variables = [big(), big(10, "big1"), big(MIB, "big2"), big(0, "big3")]
    content = [bytes([n + 1]) * v.array.nbytes for n, v in enumerate(variables)]  # type: ignore[union-attr]
    async with running(counter(*variables), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(*map(len, content)))
        with connected(path) as peer:
            assert (await peer.show(ticket.ticket))[0] == ticket.proof
            fds = [memory_of(content[0]), memory_of(content[2]), memory_of(content[1])]
            socket.send_fds(peer.socket, [lane.TAKEN], fds)
            assert (await peer.answer())[0] == lane.TAKEN
            for fd in fds:
                os.close(fd)
        await call.done_writing()
        assert (await call).header.revision == 1
        assert [v.array.tobytes() for v in variables] == content  # type: ignore[union-attr]
        mapped = Path("/proc/self/maps").read_text().count("memfd:varserve")
        assert mapped >= 2


def _unsealed() -> list[int]:
    return [memory_of(bytes(2 * MIB), sealed=False)]


def _writable() -> list[int]:
    fd = memory_of(bytes(2 * MIB), sealed=False)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)
    return [fd]


def _only_future_writes() -> list[int]:
    fd = memory_of(bytes(2 * MIB), sealed=False)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x10)
    return [fd]


def _file() -> list[int]:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, 2 * MIB)
    return [fd]


def _device() -> list[int]:
    return [os.open("/dev/zero", os.O_RDWR)]


HOSTILE: dict[str, tuple[Callable[[], list[int]], bytes]] = {
    "unsealed": (_unsealed, lane.TAKEN),
    "without the seal of writes": (_writable, lane.TAKEN),
    "with that of future writes alone": (_only_future_writes, lane.TAKEN),
    "a file": (_file, lane.TAKEN),
    "a device": (_device, lane.TAKEN),
    "a socket": (lambda: [socket.socket().detach()], lane.TAKEN),
    "too short": (lambda: [memory_of(bytes(MIB))], lane.TAKEN),
    "too long": (lambda: [memory_of(b"", 2**40)], lane.TAKEN),
    "none": (list, lane.TAKEN),
    "too many": (lambda: [memory_of(bytes(2 * MIB)) for _ in range(2)], lane.TAKEN),
    "very many": (lambda: [os.open(os.devnull, os.O_RDONLY) for _ in range(200)], lane.TAKEN),
    "with another word": (lambda: [memory_of(bytes(2 * MIB))], b"\1"),
    "with many words": (lambda: [memory_of(bytes(2 * MIB))], b"\0" * 100),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_memory_that_is_not_what_was_asked_for_is_refused(path: str, kind: str) -> None:
    """The peer is told why, the body can come in chunks, and no descriptor is kept."""
    variable = big()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        before = len([*FDS.iterdir()])
        make, word = HOSTILE[kind]
        fds = make()
        with connected(path) as peer:
            assert (await peer.show(ticket.ticket))[0] == ticket.proof
            socket.send_fds(peer.socket, [word], fds)
            answer, _ = await peer.answer()
            assert answer.startswith(lane.REFUSED), answer
            for fd in fds:
                os.close(fd)
        assert lane_of(found).refusals == {"memory": 1}
        await until_async(lambda: lane_of(found).connections == 0)
        assert len([*FDS.iterdir()]) <= before
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\7" * MIB))
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == b"\7" * 2 * MIB


async def test_huge_pages_are_refused() -> None:
    """There may be none left when they are read, which would end the process."""
    try:
        fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError:
        pytest.skip("this kernel has no huge pages")
    os.ftruncate(fd, 2 * MIB)
    lane.seal(fd)
    with pytest.raises(lane.LaneError, match="huge"):
        lane.check_sealed(fd, 2 * MIB)
    os.close(fd)


async def test_a_client_that_goes_in_the_middle_changes_nothing(path: str) -> None:
    """Its memories are let go of, and so is what was staged for them."""
    variable = big()
    before = variable.array
    gc.collect()
    others = memories()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(bytes(2 * MIB))
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            assert (await peer.answer())[0] == lane.TAKEN
            os.close(given)
            assert memories() == others + 1
        call.cancel()
        await until_async(lambda: found.server._admission.staged == 0)
        await until_async(lambda: not lane_of(found)._tickets)
        await until_async(lambda: memories() == others)
    assert variable.array is before


def memories() -> int:
    """Descriptors of this process that are memories of the lane."""
    return sum(map(_is_memory, FDS.iterdir()))


def _is_memory(fd: Path) -> bool:
    try:
        return "memfd:varserve" in str(fd.readlink())
    except OSError:
        return False


async def test_bytes_and_memories_together_are_bytes(path: str) -> None:
    """A client that gave memories and sends chunks as well is taken at its chunks."""
    variable = big()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(bytes(2 * MIB))
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            await peer.answer()
            os.close(given)
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\7" * MIB))
        await call.done_writing()
        await call
        assert variable.array is not None
        assert variable.array.tobytes() == b"\7" * 2 * MIB


async def test_a_write_that_comes_again_by_another_way_is_done_once(path: str) -> None:
    """Its request_id counts, whether memories or chunks came with it; other wishes do not pass."""
    async with running(counter(big()), lane_socket=path) as found:
        first = upload_of(2 * MIB, request_id="once")
        call, ticket = await write_ticket(found, first)
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(b"\7" * 2 * MIB)
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            await peer.answer()
            os.close(given)
        await call.done_writing()
        assert (await call).header.revision == 1

        async def in_chunks(first: Any) -> Any:
            call = found.stub.AssignVariables()
            first.manifest.lane = False
            await call.write(first)
            for offset in range(0, 2 * MIB, MIB):
                await call.write(chunk(offset, b"\7" * MIB))
            await call.done_writing()
            return call

        again = await in_chunks(first)
        assert (await again).header.revision == 1
        other = await in_chunks(upload_of(2 * MIB, request_id="once", message="other"))
        assert await reason_of(other) == "REQUEST_ID_REUSED"


async def test_what_a_client_keeps_counts_for_its_subject(path: str) -> None:
    """Beyond its share values are sent, until it lets go; others have a share of their own."""
    memory = MemoryBudget("host", lambda: Room(100 * MIB, 6 * MIB))
    access = Access(authenticator=Claimed())
    async with running(
        counter(big(), host_memory=memory), lane_socket=path, access=access
    ) as found:
        call, first = await read_ticket(found, metadata=ANN)
        with connected(path) as peer:
            _, fds = await peer.show(first.lane.ticket)
            assert await call.read() is grpc.aio.EOF
            assert memory.holdings.held_by("ann") == 2 * MIB
            call, second = await read_ticket(found, metadata=ANN)
            assert not second.HasField("lane")
            call.cancel()
            call, third = await read_ticket(found, metadata=(("name", "bob"),))
            assert third.HasField("lane")
            call.cancel()
            os.close(fds[0])
        await until_async(lambda: memory.holdings.held_by("ann") == 0)


async def test_what_another_process_has_mapped_is_not_waited_for(path: str) -> None:
    """It cannot be given up: a call that finds no memory is told so at once."""
    memory = MemoryBudget("host", lambda: Room(0, 100 * MIB))
    holding = memory.holdings.hold("ann", 50 * MIB, "a mapping", None)
    holding.touched_at -= 100
    assert list(memory.holdings.relief()) == []


async def test_values_without_memory_for_a_copy_are_sent(path: str) -> None:
    """A copy that finds no memory is not made."""
    memory = MemoryBudget("host", lambda: Room(MIB, 100 * MIB))
    async with running(counter(big(8 * MIB), host_memory=memory), lane_socket=path) as found:
        call, first = await read_ticket(found)
        assert not first.HasField("lane")
        assert memory.holdings.held_by("") == 0
        call.cancel()


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (("words",), {}),
        (("big", "words"), {}),
        (("few",), {}),
        (("big",), {"lane": False}),
    ],
)
async def test_what_is_better_sent_is_sent(
    path: str, names: tuple[str, ...], fields: dict[str, Any]
) -> None:
    """Strings, few bytes, and values for a client that did not ask."""
    words = FakeVariable("words", strings(b"a", b"b" * MIB))
    async with running(counter(big(), big(100, "few"), words), lane_socket=path) as found:
        call, first = await read_ticket(found, request(*names, **fields))
        assert not first.HasField("lane")
        assert (await call.read()).HasField("chunk")
        call.cancel()


async def test_the_lane_is_told_to_callers_of_this_host_alone(path: str) -> None:
    """By GetModel; a service without one tells of none, and gives no ticket."""
    async with running(counter(big()), lane_socket=path) as found:
        limits = (await found.stub.GetModel(pb.GetModelRequest(model="counter"))).limits
        assert limits.lane_socket == path
    assert not Path(path).exists()
    async with running(counter(big())) as found:
        limits = (await found.stub.GetModel(pb.GetModelRequest(model="counter"))).limits
        assert limits.lane_socket == ""
        _, first = await read_ticket(found)
        assert not first.HasField("lane")
        call = found.stub.AssignVariables()
        await call.write(upload_of(2 * MIB))
        assert lane.TICKET_KEY not in dict(await call.initial_metadata())
        call.cancel()


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("unix:/run/varserve", True),
        ("unix:", True),
        ("ipv4:127.0.0.1:5", True),
        ("ipv6:%5B::1%5D:5", True),
        ("ipv4:12.7.0.1:5", False),
        ("ipv6:%5B::12%5D:5", False),
        ("ipv4:10.0.0.1:127", False),
        ("", False),
    ],
)
def test_who_is_local(peer: str, local: bool) -> None:
    """Unix sockets and loopback."""
    from varserve_service.rpc.calls.call import RpcCall

    class Call(RpcCall):
        @property
        def peer(self) -> str:
            return peer

    assert Call.is_local.fget(Call.__new__(Call)) is local  # type: ignore[attr-defined]
