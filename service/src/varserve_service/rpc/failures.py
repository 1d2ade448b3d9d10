"""How failures reach the caller: what was raised, as one reason of the contract with its status.

Knows gRPC and the errors of every room; knows nothing of what a call does.
"""

from __future__ import annotations

import uuid
from typing import NoReturn

import structlog
from google.protobuf.message import DecodeError

from varserve.frames import FrameError
from varserve.reasons import DETAILS_KEY, Failure
from varserve.tensors import TensorError
from varserve_service.core.errors import Reason, RequestError

from .calls.call import CallerGone, Context, RpcCall

log = structlog.get_logger("varserve.rpc")

# Trailing metadata has room for 8 KiB in all. The message is in it twice: once with three
# characters for each byte that is not ASCII, once in base64.
MAX_MESSAGE_BYTES = 1_000
MAX_METADATA_BYTES = 200
# Between the end of a stream and the news that its client has cancelled the call.
_CANCELLATION_SECONDS = 0.1


class Failed(Exception):
    """A nested call has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: BaseException, method: str) -> Failure:
    """The failure that a caller is told of, for whatever a call has raised."""
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


async def has_gone(error: BaseException, call: RpcCall) -> bool:
    """Whether a call failed because its client has gone.

    To us, its requests then just end: gRPC tells of the cancellation a moment later.
    """
    if isinstance(error, FrameError) and call.requests_ended:
        call.cancelled()  # so it is, if the cancellation comes while this waits
        await call.wait_until_over(_CANCELLATION_SECONDS)
    return isinstance(error, CallerGone) or call.is_over


async def abort(context: Context, failure: Failure) -> NoReturn:
    short = shortened(failure)
    await context.abort(
        short.status, short.message, trailing_metadata=((DETAILS_KEY, short.details()),)
    )
    raise AssertionError("abort raises")


def shortened(failure: Failure) -> Failure:
    """The failure as it fits into trailing metadata."""
    message = _cut(failure.message, MAX_MESSAGE_BYTES)
    if message != failure.message:
        message += " ..."
    metadata = {key: _cut(value, MAX_METADATA_BYTES) for key, value in failure.metadata.items()}
    return Failure(failure.reason, message, metadata)


def _cut(text: str, nbytes: int) -> str:
    # What UTF-8 cannot hold, a file name with stray bytes say, is shown as a question mark.
    return text.encode(errors="replace")[:nbytes].decode(errors="ignore")
