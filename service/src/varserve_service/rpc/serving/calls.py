"""What every call goes through: admission, deadlines, and failures as the contract writes them.

Knows gRPC, the contract's reasons and the core's errors; knows nothing of what a call does.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import time
import uuid
from collections.abc import Awaitable, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from varserve.frames import FrameError
from varserve.reasons import DETAILS_KEY, Failure
from varserve.tensors import TensorError
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.authorization.auditing import Auditing
from varserve_service.rpc.entry.admission import Admission
from varserve_service.rpc.entry.identity import Authenticator, Context, identify, subject_of
from varserve_service.rpc.entry.observing import Observed

log = structlog.get_logger("varserve.rpc")

# Trailing metadata has room for 8 KiB in all. The message is in it twice: once with three
# characters for each byte that is not ASCII, once in base64.
MAX_MESSAGE_BYTES = 1_000
MAX_METADATA_BYTES = 200

T = TypeVar("T")


def deadline_of(context: Context) -> float | None:
    """The caller's deadline in seconds of `time.monotonic`; None when there is none."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def fingerprint(message: Any, checksums: Sequence[int] = ()) -> bytes:
    """A digest of all that a write asks for; `checksums` are of its body's chunks."""
    if not message.request_id:
        return b""
    digest = hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16)
    digest.update(struct.pack(f"<{len(checksums)}I", *checksums))
    return digest.digest()


class Calls:
    """All calls in progress: lets them in, turns what they raise into failures, and drains."""

    def __init__(
        self,
        admission: Admission,
        authenticator: Authenticator | None = None,
        auditing: Auditing | None = None,
    ) -> None:
        self._admission = admission
        self._authenticator = authenticator
        self._auditing = auditing
        self._draining = False
        self._in_progress: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, observed: Observed, context: Context, call: Awaitable[T]) -> T:
        """Await a call; whatever it raises reaches the caller as one Failure."""
        method = observed.call.method.name
        task = asyncio.current_task()
        assert task is not None
        self._in_progress.add(task)
        self._idle.clear()
        # Not when the handler is done: its answer is still on its way then.
        context.add_done_callback(lambda _: self._finished(task))
        observed.start()
        try:
            await identify(self._authenticator, context)
            if self._draining:
                raise RequestError(
                    Reason.SHUTTING_DOWN, "the service is shutting down; retry elsewhere"
                )
            with self._admission.admit(method, subject_of(context)):
                result = await call
            observed.answered(result)
            return result
        except (asyncio.CancelledError, grpc.aio.AbortError):
            observed.cancelled()
            raise
        except BaseException as error:
            failure = _failure(error, method)
            observed.refused(failure.status, failure.reason)
            if self._auditing is not None:
                await self._auditing.failed(method, context, failure)
            observed.end(subject_of(context))  # before the caller knows: who asks sees it counted
            await _abort(context, failure)
        finally:
            observed.end(subject_of(context))
            if asyncio.iscoroutine(call):
                call.close()  # a call that was refused before it began

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._in_progress.discard(task)
        if not self._in_progress:
            self._idle.set()

    def refuse(self) -> None:
        """Let no new calls in."""
        self._draining = True

    async def drain(self, grace: float) -> int:
        """Wait for the calls in progress, at most `grace` seconds.

        Returns how many were still in progress.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return len(self._in_progress)
        return 0


def _failure(error: BaseException, method: str) -> Failure:
    match error:
        case RequestError():
            return Failure(error.reason.value, error.message, error.metadata)
        case TensorError() | FrameError():
            return Failure(error.reason, error.message)
        case DecodeError():
            return Failure(
                Reason.REQUEST_MALFORMED.value, f"the message is not a valid request of {method}"
            )
        case MemoryError():
            return Failure(
                Reason.OUT_OF_MEMORY.value, "host memory does not suffice; nothing was changed"
            )
    incident = uuid.uuid4().hex
    log.error("defect", method=method, incident=incident, exc_info=error)
    return Failure(
        Reason.INTERNAL.value, f"a defect of the service; the log has it as incident {incident}"
    )


def _cut(text: str, nbytes: int) -> str:
    # What UTF-8 cannot hold, a file name with stray bytes say, is shown as a question mark.
    return text.encode(errors="replace")[:nbytes].decode(errors="ignore")


async def _abort(context: Context, failure: Failure) -> NoReturn:
    message = _cut(failure.message, MAX_MESSAGE_BYTES)
    if message != failure.message:
        message += " ..."
    metadata = {key: _cut(value, MAX_METADATA_BYTES) for key, value in failure.metadata.items()}
    short = Failure(failure.reason, message, metadata)
    await context.abort(
        short.status, short.message, trailing_metadata=((DETAILS_KEY, short.details()),)
    )
