"""What went wrong with a call, as the client's user sees it: from gRPC's errors to the client's.

Owns which ends of a call the service gave itself, and which came on the way. Only the former carry
the contract's details.
"""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf.message import EncodeError

from varserve import reasons
from varserve._client import errors
from varserve.frames import FrameError
from varserve.tensors import TensorError

from .explanations import Fault, Way, explain, read, sentence
from .targets import proxy_of

# What gRPC says of a stream that ended before the service had answered: the connection broke, or a
# proxy between ended the stream when its own connection broke or its own limit was reached. gRPC
# gives these ends several status codes, INTERNAL and UNKNOWN among them (grpc/grpc#9177).
_LOST = re.compile(
    r"RST_STREAM|Stream removed|END_STREAM|GOAWAY|Socket closed|Connection (reset|closed|aborted)|"
    r"Broken pipe|\bEOF\b|transport (is closing|closed)|keepalive|Endpoint closing|ping timeout|"
    # What grpc.aio makes of any end that came while a message was being sent.
    r"^Internal error from Core$",
    re.IGNORECASE,
)
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
_AMBIGUOUS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
# HTTP statuses that a proxy gives while the service behind it cannot be reached.
_PASSING = ("408", "429", "499", "502", "503", "504")


def failure_of(error: BaseException, way: Way, *, closed: bool) -> errors.VarserveError | None:
    """What the user sees of an exception that a call raised; None for one to let pass.

    `way`: how the client connects. `closed`: it was closed.
    """
    if isinstance(error, errors.VarserveError):
        return error
    if isinstance(error, (TensorError, FrameError)):
        return errors.from_reason(error.reason, error.message)
    if isinstance(error, MemoryError):
        return errors.OutOfMemory("this process has not enough memory for the answer")
    if closed:
        return errors.ClientClosed("this client was closed during the call")
    if isinstance(error, grpc.RpcError):
        return _from_rpc(error, way)
    if isinstance(error, EncodeError):
        return errors.InvalidRequest(f"the request cannot be sent: {error}")
    return None


def _from_rpc(error: Any, way: Way) -> errors.VarserveError:
    """The error of a `grpc.RpcError` that is a finished call."""
    target = way.target
    for key, value in error.trailing_metadata() or ():
        if key == reasons.DETAILS_KEY:
            failure = reasons.read_details(value)
            if failure is not None:
                return errors.from_reason(
                    failure.reason, failure.message, failure.metadata, from_service=True
                )
    code: grpc.StatusCode = error.code()
    details: str = error.details() or "no details"
    http = _HTTP_STATUS.search(details)
    if http is not None:
        return _from_http(http[1], target)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        message = (
            f"{target} answers, but has no such call: it is no varserve service, an older one, "
            "or another port of one"
        )
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _to_look(late(target), "", way)
    elif code in _AMBIGUOUS and _LOST.search(details):
        return errors.Unavailable(
            f"{target}: the connection was lost during the call ({details}); a proxy between may "
            f"have ended it, at its limit of time or size{_through_proxy(target)}"
        )
    else:
        explained = explain(details, way) if code is _UNAVAILABLE else ""
        message = f"{target}: {explained or details}"
    if code is _UNAVAILABLE:
        unreached = errors.Unavailable(message + _through_proxy(target))
        return _to_look(unreached, details, way) if explained else unreached
    # gRPC itself refuses such messages, and has nothing but this text to tell them by.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in details:
        return errors.MessageTooLarge(message)
    return errors.from_reason(code.name, message)


def _to_look(error: errors.VarserveError, details: str, way: Way) -> errors.VarserveError:
    """The error, which tells more after a look at the target's addresses."""
    message, is_late = error.message, isinstance(error, errors.DeadlineExceeded)

    def look(seconds: float) -> str:
        from . import looking  # only when it is wanted

        findings = looking.look(way, seconds)
        if is_late:
            well = any(finding.fault is Fault.WELL for finding in findings)
            found = "" if well else sentence(findings, way)
            return f"{message}; {found}" if found else message
        told = read(details, way)
        found = sentence([*findings, *([told] if told else [])], way)
        return f"{way.target}: {found}{_through_proxy(way.target)}" if found else message

    error._look = look
    return error


def late(target: str) -> errors.VarserveError:
    """The error of a call whose deadline passed before it had an answer."""
    message = f"{target} did not answer in time; a write may or may not have been done"
    return errors.from_reason("DEADLINE_EXCEEDED", message + _through_proxy(target))


def _from_http(status: str, target: str) -> errors.VarserveError:
    """The error of an answer that is plain HTTP: of a proxy, or of no gRPC server at all."""
    message = f"{target}: expected gRPC, found HTTP status {status}"
    through = _through_proxy(target)
    if status == "413":
        return errors.MessageTooLarge(
            f"{message}: a proxy between limits the size of requests{through}"
        )
    if status in ("401", "407"):
        return errors.Unauthenticated(f"{message}: a proxy between wants a credential{through}")
    if status == "403":
        return errors.AccessDenied(f"{message}: a proxy between refuses the call{through}")
    if status in _PASSING:
        return errors.Unavailable(
            f"{message}: a proxy between cannot reach the service now{through}"
        )
    return errors.ServiceError(
        f"{message}: it is a web server, or a proxy that does not hand on gRPC{through}",
        reason="UNIMPLEMENTED",
    )


def _through_proxy(target: str) -> str:
    proxy = proxy_of(target)
    if proxy is None:
        return ""
    variable, address = proxy
    return f" (through the proxy {address}, which {variable} names; no_proxy leaves hosts out)"
