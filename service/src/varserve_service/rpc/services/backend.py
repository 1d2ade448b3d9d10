"""What handlers work with: the models that are served, threads, limits and caches.

Knows the core and `serving`; knows nothing of single RPCs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.administration import Administration
from varserve_service.rpc.calls.admission import Admission
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.giving_way import Computing, SmallCalls
from varserve_service.rpc.calls.transfers import DOWNLOAD, Transfers
from varserve_service.rpc.lane import Lane, Lent, Port, Sending
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import Beside, Download
from varserve_service.rpc.serving.inference_counts import InferenceCounts
from varserve_service.rpc.serving.pages import Pages
from varserve_service.rpc.serving.read_cache import ReadCache
from varserve_service.rpc.serving.served import Served, Serving
from varserve_service.rpc.serving.workers import Workers

T = TypeVar("T")

# What a unary response needs beside the bytes of its tensors, and an event beside its changes.
_ENVELOPE_BYTES = 64 * 1024
# Selections, or writes, of one request, where the model has fewer variables: its lock is held
# meanwhile.
_MAX_ITEMS = 10_000
# Items of one request that are checked on the event loop; more, on a thread.
_PAGE_ITEMS = 64
# Seconds between two looks at whether a call whose body goes beside it may go on.
_JUDGED_SECONDS = 1.0
# Seconds at shutdown for watchers to take note that it is over.
_CLOSE_SECONDS = 1.0


async def _no_dispatcher(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("the dispatcher has not said how nested calls are answered")


@dataclass(eq=False)
class Backend:
    """Everything that handlers share.

    Blocking work happens on a model's own workers, lists on `lister`, what changes models on
    `admin_workers`; responses are encoded on `senders`.
    """

    models: Models
    serving: Serving
    lister: Workers
    senders: ThreadPoolExecutor
    receivers: ThreadPoolExecutor
    admission: Admission
    read_cache: ReadCache
    limits: pb.TransferLimits
    transfers: Transfers
    small_calls: SmallCalls
    bookmark_seconds: float
    lane: Lane | None = None
    port: Port | None = None
    administration: Administration | None = None
    admin_workers: Workers | None = None
    facade_message_bytes: int = 0
    """The most bytes of values in one message of a foreign protocol."""
    facades_administer: bool = False
    """Whether foreign protocols may load and unload models: a policy says who, or their port is no
    more open than that of AdminService."""

    @property
    def host_memory(self) -> MemoryBudget | None:
        """The host's, which all models share; None where there is no model."""
        lives = (status.live for status in self.models.statuses)
        live = next((live for live in lives if live is not None), None)
        return None if live is None else live.memory.host

    nested: Callable[..., Awaitable[Any]] = _no_dispatcher
    """Answers a call that came inside another one's stream: `Dispatcher.nested`."""
    decode_message: Callable[[RpcCall, bytes], Awaitable[Any]] = _no_dispatcher
    """A message of a call's stream, within its bounds: `Dispatcher.message`."""
    pages: Pages = field(default_factory=Pages)
    """Of what sessions and watches ask for."""
    computing: Computing = field(default_factory=Computing)
    """Of answers that Python puts together of many things."""
    inference_counts: InferenceCounts = field(default_factory=InferenceCounts)
    watches: set[asyncio.Task[Any]] = field(default_factory=set)
    sessions: set[Callable[[RequestError], None]] = field(default_factory=set)
    """What ends each session that is open."""

    @property
    def max_message_bytes(self) -> int:
        """The most bytes of values in one message."""
        return self.limits.message_bytes - _ENVELOPE_BYTES

    async def run_on_model(
        self, call: RpcCall, name: str, work: Callable[[LiveModel, float | None], T]
    ) -> T:
        """Do `work` on a thread of the model that a name means now."""
        with self.serving.use(call, name) as served:
            return await served.run(work, call)

    async def prepare(self, served: Served, count: int, work: Callable[[], T], call: RpcCall) -> T:
        """Check or translate `count` items: on the event loop if they are few, else on a thread."""
        if count <= _PAGE_ITEMS:
            return work()
        return await served.workers.run(work, call)

    async def send(
        self, call: RpcCall, memory: MemoryBudget, download: Download, *first: Any
    ) -> None:
        """Write the first messages of a streaming response, and then the chunks of its body.

        `memory` is what the values are kept alive in. Raises RequestError when the client takes
        them too slowly, or others need the memory.
        """
        async with self.transfers.begin(DOWNLOAD) as transfer:
            transfer.hold(memory, call.subject, download.nbytes)
            for message in first:
                await call.write(message)
            await download.send(call, self.senders, transfer)

    async def lend(
        self, call: RpcCall, memory: MemoryBudget, lane: Lane, lent: Lent, first: Any
    ) -> None:
        """Write the first message of a streaming response, and wait until the client has come to
        the lane for its values. Raises RequestError as `send` does.
        """
        async with self.transfers.begin(DOWNLOAD) as transfer:
            with lane.lend(lent.memories, lent.holding) as loan:
                transfer.hold(memory, call.subject, lent.nbytes)
                first.manifest.lane.CopyFrom(loan.message)
                await call.write(first)
                await loan.taken.wait()
                transfer.moved(lent.nbytes)

    async def send_beside(
        self, call: RpcCall, memory: MemoryBudget, port: Port, body: Beside, first: Any
    ) -> None:
        """Write the first message of a streaming response, and send its body on the lane's port.

        Raises RequestError as `send` does, and REQUEST_MALFORMED where the client hung up there.
        """
        async with self.transfers.begin(DOWNLOAD) as transfer:
            transfer.hold(memory, call.subject, body.nbytes)
            sending = Sending(body.parts, transfer.moved, self.small_calls, body.connections)
            with port.offer(sending):
                first.manifest.lane.CopyFrom(sending.message)
                await call.write(first)
                await finished(call, sending)
            if sending.error is not None:
                raise sending.error
            if not sending.sent:
                raise translate.malformed("the values were not taken from the lane's port")

    def close(self) -> None:
        """End the threads that are no model's own."""
        self.lister.close()
        if self.admin_workers is not None:
            self.admin_workers.close()
        self.senders.shutdown(wait=False, cancel_futures=True)
        self.receivers.shutdown(wait=False, cancel_futures=True)

    def end_sessions(self) -> None:
        """Let no further call begin in a session; each ends when its calls are answered."""
        for end in self.sessions:
            end(_shutting_down())

    async def end_watches(self) -> None:
        """End all watches: each is told, and one that does not listen is cut off."""
        for served in self.serving.all:
            served.end_watches(_shutting_down)
        if self.watches:
            _, deaf = await asyncio.wait(set(self.watches), timeout=_CLOSE_SECONDS)
            for task in deaf:
                task.cancel()


async def finished(call: RpcCall, transfer: Sending) -> None:
    """Wait for the end of what goes on the port; judge the call again meanwhile."""
    while not transfer.finished.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(transfer.finished.wait(), _JUDGED_SECONDS)
        await call.judge_again()


def check_count(field_name: str, count: int, live: LiveModel) -> None:
    """Raises RequestError REQUEST_MALFORMED for none, or more items than one request may have."""
    most = max(_MAX_ITEMS, len(live.timeline.display_names))
    if count > most:
        raise translate.malformed(f"{field_name}: expected at most {most}, found {count}")


def _shutting_down() -> RequestError:
    return RequestError(Reason.SHUTTING_DOWN, "the service is shutting down; try again elsewhere")
