"""Calls belong to the trace that their process works on, without a dependency on whoever traces."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

import varserve
import varserve.aio
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.rpc.calls.call import RpcCall

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


class EventValue:
    """Keeps what came with each call, as far as it is of traces."""

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []

    def started(self, call: RpcCall) -> None:
        keys = ("traceparent", "tracestate")
        pairs = [(key, str(value)) for key, value in call.metadata if key in keys]
        assert len(dict(pairs)) == len(pairs)
        self.calls.append(dict(pairs))

    def received(self, call: RpcCall) -> None:
        pass

    sent = ended = received


@pytest.fixture
def told() -> EventValue:
    return EventValue()


@pytest.fixture
def address(told: EventValue) -> Iterator[str]:
    with serve_here(counter(), observers=[told]) as found:
        yield found


def span() -> NonRecordingSpan:
    state = TraceState([("vendor", "x")])
    return NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1), state))


def test_a_call_is_sent_with_the_current_span(address: str, told: EventValue) -> None:
    """Within a span of OpenTelemetry its identity goes along; outside nothing does."""
    with varserve.connect(address) as client:
        client.read_variable("counter", "v")
        with trace.use_span(span()):
            client.read_variable("counter", "v")
    assert told.calls == [{}, {"traceparent": PARENT, "tracestate": "vendor=x"}]


def test_a_given_trace_goes_before_the_current_one(address: str, told: EventValue) -> None:
    """`varserve.trace` is of its block and its thread alone; the client's metadata goes first."""
    other = f"00-{'1' * 32}-{'2' * 16}-00"
    with varserve.connect(address) as client, varserve.trace(other), trace.use_span(span()):
        client.read_variable("counter", "v")
        thread = threading.Thread(target=client.read_variable, args=("counter", "v"))
        thread.start()
        thread.join(30)
    own = [("traceparent", PARENT)]
    with varserve.connect(address, metadata=own) as client, varserve.trace(other):
        client.read_variable("counter", "v")
    assert told.calls == [{"traceparent": other}, {}, {"traceparent": PARENT}]


async def test_tasks_have_their_own_traces(address: str, told: EventValue) -> None:
    """Calls of tasks that run at once each belong to the trace of their own task."""
    parents = [f"00-{number:032x}-{SPAN}-01" for number in range(1, 6)]
    async with varserve.aio.connect(address) as client:

        async def read(parent: str) -> None:
            with varserve.trace(parent):
                await asyncio.sleep(0)
                await client.read_variable("counter", "v")

        await asyncio.gather(*map(read, parents))
    assert sorted(call["traceparent"] for call in told.calls) == parents


@pytest.mark.parametrize("wrong", ["", "x", f"00-{TRACE}-{SPAN}", f"{PARENT}\n", PARENT.upper()])
def test_what_is_no_trace_is_refused(wrong: str) -> None:
    """The message names the form that was expected."""
    with pytest.raises(ValueError, match="expected 00-TRACE-SPAN-FLAGS"), varserve.trace(wrong):
        pass


def test_the_client_does_not_import_opentelemetry() -> None:
    """Who does not use it does not pay for it, though it is installed."""
    code = (
        "import sys; from varserve._client.transport.traces import trace_metadata; "
        "assert trace_metadata() == (); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
