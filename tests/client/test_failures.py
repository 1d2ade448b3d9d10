"""Ends of calls: which the service gave itself, and which came on the way."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

import varserve
from varserve import reasons
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Budget, Call, Method, Sleep
from varserve._client.transport.explanations import Way
from varserve._client.transport.failures import failure_of

Code = grpc.StatusCode


class End(grpc.RpcError):
    """A finished call, as gRPC raises it."""

    def __init__(self, code: Code, details: str, trailers: tuple[object, ...] = ()) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailers


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (Code.INTERNAL, "Received RST_STREAM with error code 2"),
        (Code.INTERNAL, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"),
        (Code.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))"),
        (Code.UNKNOWN, "Stream removed"),
        (Code.UNKNOWN, "Stream removed (Data frame with END_STREAM flag received)"),
        (Code.INTERNAL, "unexpected EOF"),
        (Code.UNKNOWN, "Connection reset by peer"),
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.UNAVAILABLE, "GOAWAY received"),
        (Code.UNAVAILABLE, "Received http2 header with status: 502"),
        (Code.UNKNOWN, "Received http2 header with status: 503"),
        (Code.UNAVAILABLE, "Received http2 header with status: 504"),
        (Code.UNAVAILABLE, "upstream connect error or disconnect/reset before headers"),
    ],
)
def test_an_end_on_the_way_is_a_lost_connection(code: Code, details: str) -> None:
    """What a proxy or a broken connection makes of a call may come again, and names the address."""
    error = failure_of(End(code, details), Way("models:1"), closed=False)
    assert isinstance(error, varserve.Unavailable)
    assert not error.from_service
    assert "models:1" in str(error)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.INTERNAL, "an assertion failed", varserve.ServiceError),
        (Code.UNKNOWN, "Exception deserializing response!", varserve.ServiceError),
        (Code.UNKNOWN, "Received http2 header with status: 413", varserve.MessageTooLarge),
        (Code.UNKNOWN, "Received http2 header with status: 200", varserve.ServiceError),
        (Code.UNIMPLEMENTED, "Received http2 header with status: 404", varserve.ServiceError),
        (Code.UNAUTHENTICATED, "Received http2 header with status: 401", varserve.Unauthenticated),
        (Code.PERMISSION_DENIED, "Received http2 header with status: 403", varserve.AccessDenied),
        (Code.RESOURCE_EXHAUSTED, "a proxy's quota", varserve.ResourceExhausted),
    ],
)
def test_what_will_not_pass_is_no_lost_connection(
    code: Code, details: str, kind: type[varserve.VarserveError]
) -> None:
    """Refusals of a proxy and defects stay what they are."""
    error = failure_of(End(code, details), Way("models:1"), closed=False)
    assert type(error) is kind


def test_the_service_s_own_words_come_first() -> None:
    """A failure with the contract's details is the service's, whatever its text looks like."""
    failure = reasons.Failure("INTERNAL", "the kernel said RST_STREAM")
    trailers = ((reasons.DETAILS_KEY, failure.details()),)
    error = failure_of(
        End(Code.INTERNAL, "Stream removed", trailers), Way("models:1"), closed=False
    )
    assert isinstance(error, varserve.ServiceError)
    assert error.from_service


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_lost_call_is_sent_again_where_that_is_safe(repeatable: bool) -> None:
    """With an id the call is made again; without one the caller is told, after one attempt."""
    call = Call(Method("/x", "x", bytes), SimpleNamespace(), Budget(60, 4))
    steps = attempt(call, repeatable=repeatable)
    lost = failure_of(
        End(Code.INTERNAL, "RST_STREAM with error code 2"), Way("models:1"), closed=False
    )
    assert lost is not None
    assert next(steps) is call
    if not repeatable:
        with pytest.raises(varserve.Unavailable):
            steps.throw(lost)
        return
    assert isinstance(steps.throw(lost), Sleep)
    assert next(steps) is call
    with pytest.raises(StopIteration) as stop:
        steps.send("answer")
    assert stop.value.value == "answer"
