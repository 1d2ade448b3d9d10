"""The lane's socket: who may connect, with which ticket, and what is handed over then.

Used from the event loop alone. Knows sockets and sealed memory; knows nothing of what a call is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from varserve import lane
from varserve_service.core.arrays import sealed
from varserve_service.core.arrays.sealed import SealedMemory
from varserve_service.core.holdings import Holding

from .listener import Listener
from .tickets import Pipe, Ticket

log = structlog.get_logger("varserve.rpc.lane")

HANDSHAKE_SECONDS = 5.0
"""That a connection has to show its ticket, and to send its memories after that."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Loan(Ticket):
    """The memories of a read, for whoever comes with the ticket."""

    def __init__(self, memories: Sequence[SealedMemory], holding: Holding) -> None:
        super().__init__()
        self.memories = memories
        self.nbytes = sum(memory.size for memory in memories)
        self.holding = holding
        self.taken = asyncio.Event()


class Deposit(Ticket):
    """Room for the memories of an assign: `memories` once they were given."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.memories: Sequence[SealedMemory] | None = None


class Lane:
    """The socket, and the tickets that are good now."""

    def __init__(
        self,
        path: str,
        uids: Collection[int] = (),
        most_connections: int = 512,
        most_memories: int = 4096,
    ) -> None:
        """`uids`: user ids that may connect, beside root and that of the service. `most_...`: for
        which there are file descriptors.
        """
        self.path = path
        self._most = most_connections
        self._most_memories = most_memories
        self._uids = {0, os.geteuid(), *uids}
        self._mode = 0o666 if uids else 0o600
        self._tickets: dict[bytes, Loan | Deposit | Pipe] = {}
        self._loans: Counter[str] = Counter()
        self._pipes: Counter[str] = Counter()
        self._peers: set[asyncio.Task[None]] = set()
        self._listener: Listener | None = None
        self.lent_bytes = 0
        """Bytes of values that clients have mapped."""
        self.refusals: Counter[str] = Counter()
        """Connections that got nothing, by why: uid, full, silent, hello, ticket, memory."""

    @property
    def connections(self) -> int:
        """Connections that are open. From any thread."""
        return len(self._peers)

    def has_room(self, subject: str) -> bool:
        """One more ticket can be given; a subject has at most half of all. From any thread."""
        if subject and self._loans[subject] >= self._most // 2:
            return False
        fits = sealed.count() + lane.MOST_OWN < self._most_memories
        return fits and len(self._peers) + len(self._tickets) < self._most

    def start(self) -> None:
        """Listen. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.setblocking(False)
            listener.bind(self.path)
            Path(self.path).chmod(self._mode)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        self._listener = Listener(listener, self._accept)

    async def close(self) -> None:
        """Listen no more, and hang up."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        self._remove()
        for peer in self._peers:
            peer.cancel()
        if self._peers:
            await asyncio.wait(set(self._peers))

    def _remove(self) -> None:
        with suppress(OSError):
            Path(self.path).unlink()

    # Tickets.

    @contextmanager
    def lend(self, memories: Sequence[SealedMemory], holding: Holding) -> Iterator[Loan]:
        """A ticket for memories until the block ends. The holding lasts as long as who took them.

        Raises nothing.
        """
        loan = Loan(memories, holding)
        self._tickets[loan.ticket] = loan
        try:
            yield loan
        finally:
            if self._tickets.pop(loan.ticket, None) is not None:
                holding.release()

    @contextmanager
    def expect(self, sizes: Sequence[int]) -> Iterator[Deposit]:
        """A ticket for memories of these sizes until the block ends."""
        deposit = Deposit(sizes)
        self._tickets[deposit.ticket] = deposit
        try:
            yield deposit
        finally:
            self._tickets.pop(deposit.ticket, None)
            deposit.memories = None  # a task that was cut off may keep the deposit for a while

    def pipe(self, subject: str, connected: Callable[[socket.socket], None]) -> Pipe | None:
        """A ticket for a connection, good for a few seconds; None where there is no room for one.

        It counts until `end_pipe`. All of them have at most half of the lane's connections, and
        those of a subject half of that.
        """
        most = self._most // 2
        if subject and self._pipes[subject] >= max(1, most // 2):
            return None
        if self._pipes.total() >= most or not self.has_room(subject):
            return None
        pipe = Pipe(subject, connected)
        self._tickets[pipe.ticket] = pipe
        self._pipes[subject] += 1
        asyncio.get_running_loop().call_later(
            HANDSHAKE_SECONDS, self._tickets.pop, pipe.ticket, None
        )
        return pipe

    def end_pipe(self, pipe: Pipe) -> None:
        """It is needed no more."""
        self._tickets.pop(pipe.ticket, None)
        pipe.ended.set()
        self._pipes[pipe.subject] -= 1
        if not self._pipes[pipe.subject]:
            del self._pipes[pipe.subject]

    # Connections.

    def _accept(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        try:
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            peer.close()
            return
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in self._uids:
            self._refused("uid", pid, uid)
            peer.close()
        elif len(self._peers) >= self._most:
            self._refused("full", pid, uid)
            peer.close()
        else:
            task = asyncio.get_running_loop().create_task(self._serve(peer, pid, uid))
            self._peers.add(task)
            task.add_done_callback(self._peers.discard)

    def _refused(self, why: str, pid: int, uid: int) -> None:
        self.refusals[why] += 1
        log.debug("lane: refused", why=why, pid=pid, uid=uid)

    async def _serve(self, peer: socket.socket, pid: int, uid: int) -> None:
        with peer:
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    ticket = await self._shown_ticket(peer, pid, uid)
                    if isinstance(ticket, Deposit):
                        await self._take(peer, ticket, pid, uid)
                if isinstance(ticket, Loan):
                    await self._give(peer, ticket)
                if isinstance(ticket, Pipe):
                    await self._connect(peer, ticket)
            except TimeoutError:
                self._refused("silent", pid, uid)
            except OSError:  # the peer has gone
                pass

    async def _shown_ticket(
        self, peer: socket.socket, pid: int, uid: int
    ) -> Loan | Deposit | Pipe | None:
        await _readable(peer)
        # Longer than it may be, so that what is too long is not cut to fit.
        hello = peer.recv(len(lane.HELLO) + lane.TICKET_BYTES + 1)
        if not hello.startswith(lane.HELLO):
            if hello:  # one that says nothing has only looked whether somebody is there
                self._refused("hello", pid, uid)
            return None
        ticket = self._tickets.pop(hello[len(lane.HELLO) :], None)
        if ticket is None:
            self._refused("ticket", pid, uid)
        return ticket

    async def _give(self, peer: socket.socket, loan: Loan) -> None:
        """Give the memories, and wait until the peer closes: it needs them no more."""
        subject = loan.holding.subject
        self._loans[subject] += 1
        self.lent_bytes += loan.nbytes
        try:
            fds = [memory.fd for memory in loan.memories]
            socket.send_fds(peer, [loan.proof], fds)
            loan.memories = ()  # the peer has them; those of a variable stay with that
            loan.taken.set()
            await _readable(peer)
        finally:
            loan.holding.release()
            self.lent_bytes -= loan.nbytes
            self._loans[subject] -= 1
            if not self._loans[subject]:  # subjects that come once are many
                del self._loans[subject]

    async def _take(self, peer: socket.socket, deposit: Deposit, pid: int, uid: int) -> None:
        peer.send(deposit.proof)
        await _readable(peer)
        data, fds, flags, _ = socket.recv_fds(peer, 2, lane.MOST_OWN + 2, socket.MSG_CMSG_CLOEXEC)
        memories = [SealedMemory(fd, os.fstat(fd).st_size) for fd in fds]
        if not data and not memories:
            return
        try:
            if data != lane.TAKEN or flags & socket.MSG_CTRUNC:
                raise lane.LaneError("expected one byte, 0, and the descriptors of the memories")
            if len(memories) != len(deposit.sizes):
                raise lane.LaneError(
                    f"expected {len(deposit.sizes)} memories, found {len(memories)}"
                )
            for memory, size in zip(memories, deposit.sizes, strict=True):
                lane.check_sealed(memory.fd, size)
        except lane.LaneError as error:
            self._refused("memory", pid, uid)
            peer.send(lane.REFUSED + str(error).encode())
            return
        deposit.memories = memories
        peer.send(lane.TAKEN)

    async def _connect(self, peer: socket.socket, pipe: Pipe) -> None:
        """Give one end of a connection. This one stays open as long, so that both count as one."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(peer, [pipe.proof], [theirs.fileno()])
            ours.setblocking(False)
        except BaseException:
            ours.close()
            raise
        pipe.connected(ours)
        await pipe.ended.wait()


async def _readable(peer: socket.socket) -> None:
    """Wait for a packet, or the end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(peer.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(peer.fileno())
