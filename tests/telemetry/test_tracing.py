"""What traces and logs tell by OpenTelemetry: where time went in a call, and never a value."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import varserve
from tests.core.test_committer import MemoryJournal
from tests.core.test_lock import until
from tests.fakes import FakeFunction, FakeVariable, Gate
from tests.rpc import requests
from tests.rpc.models import counter, strings
from tests.rpc.test_call_log import logged
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.observer import Observer
from varserve_service.rpc import methods
from varserve_service.telemetry import Telemetry, tracing
from varserve_service.telemetry.environment import Wanted, wanted
from varserve_service.telemetry.tracing import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = [("traceparent", f"00-{TRACE}-{SPAN}-01")]
SECRET = "a-value-that-is-nobodys-business"


class Spans:
    """Spans by the order in which they ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.all if span.kind is SpanKind.SERVER]

    def children(self, of: ReadableSpan) -> list[ReadableSpan]:
        own = of.get_span_context()
        return [
            s for s in self.all if s.parent is not None and own and s.parent.span_id == own.span_id
        ]


@contextmanager
def traced(make: Callable[[Observer], LiveModel]) -> Iterator[tuple[Spans, str]]:
    spans = Spans()
    telemetry = Telemetry(methods())
    telemetry.trace(Tracing(spans.provider))
    live = make(telemetry.model("counter", 1))
    with serve_here(live, observers=telemetry.call_observers) as address:
        yield spans, address


def model(observer: Observer) -> LiveModel:
    return counter(observer=observer)


def test_a_call_is_a_span_of_its_callers_trace() -> None:
    """Parent, method, model, revision, request id and status of calls that end well or not."""
    with traced(model) as (spans, address), grpc.insecure_channel(address) as channel:
        path = "/varserve.v1.ModelService/"
        request = requests.assign(request_id="one").SerializeToString()
        channel.unary_unary(path + "AssignVariable")(request, metadata=PARENT, timeout=30)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(path + "ReadVariable")(
                requests.read(variable="nope").SerializeToString(), timeout=30
            )
    good, bad = spans.calls()
    assert good.name == "varserve.v1.ModelService/AssignVariable"
    assert f"{good.get_span_context().trace_id:032x}" == TRACE
    assert good.parent is not None
    assert f"{good.parent.span_id:016x}" == SPAN
    assert good.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "varserve.v1.ModelService",
        "rpc.method": "AssignVariable",
        "rpc.grpc.status_code": 0,
        "varserve.model": "counter",
        "varserve.version": 1,
        "varserve.revision": 1,
        "varserve.request_id": "one",
    }
    assert bad.attributes is not None
    assert bad.attributes["varserve.reason"] == "VARIABLE_NOT_FOUND"
    assert bad.attributes["rpc.grpc.status_code"] == 5
    # The caller's mistake is no failure of the service.
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)
    assert bad.parent is None


def test_what_a_call_waited_for_is_below_it() -> None:
    """The function's run, the held lock and the journal's sync are children, within their call."""
    spans = Spans()
    telemetry = Telemetry(methods())
    telemetry.trace(Tracing(spans.provider))
    observer = telemetry.model("counter", 1)
    live = counter(observer=observer, journal=MemoryJournal())
    with (
        serve_here(live, observers=telemetry.call_observers) as address,
        varserve.connect(address) as client,
    ):
        client.run_function("counter", "add", {"n": np.int64(1)})
    (call,) = [span for span in spans.calls() if span.name.endswith("/RunFunction")]
    children = spans.children(call)
    assert sorted(child.name for child in children) == ["journal sync", "lock held", "run"]
    for child in children:
        assert child.start_time is not None
        assert child.end_time is not None
        assert call.start_time is not None
        assert call.end_time is not None
        # Clocks differ: that of the spans, and that of the durations.
        assert call.start_time - 5_000_000 <= child.start_time <= child.end_time
        assert child.end_time <= call.end_time + 5_000_000


def test_who_waits_for_a_writer_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read behind a function that writes has a child for its wait, of its kind."""
    monkeypatch.setattr(tracing, "_SHORTEST_WAIT", 1e-9)
    gate, made = Gate(), list[LiveModel]()

    def slow() -> dict[str, Any]:
        gate()
        return {}

    def make(observer: Observer) -> LiveModel:
        function = FakeFunction("slow", slow, writes=("v",))
        made.append(counter(functions=(function,), observer=observer))
        return made[0]

    with traced(make) as (spans, address), varserve.connect(address) as client:
        writer = threading.Thread(target=client.run_function, args=("counter", "slow", {}))
        writer.start()
        assert gate.reached.wait(30)
        reader = threading.Thread(target=client.read_variable, args=("counter", "v"))
        reader.start()
        until(lambda: made[0]._parts.lock._readers_waiting == 1)
        gate.opened.set()
        writer.join(30)
        reader.join(30)
    read = next(span for span in spans.calls() if span.name.endswith("/ReadVariable"))
    (wait,) = spans.children(read)
    assert (wait.name, wait.attributes) == ("lock wait", {"varserve.lock": "shared"})


def test_no_value_is_in_a_span() -> None:
    """Neither a read value, a written one, an input nor a name that is not served."""

    def make(observer: Observer) -> LiveModel:
        words = FakeVariable("words", strings(SECRET.encode()), shape=(None,), dtype="string")
        return counter(words, observer=observer)

    with traced(make) as (spans, address), varserve.connect(address) as client:
        assert client.read_variable("counter", "words").value.tolist() == [SECRET.encode()]
        client.assign_variable("counter", "words", np.array([SECRET.encode()], object))
        for name in (SECRET, f"counter@{SECRET}"):
            with pytest.raises(varserve.ModelNotFound):
                client.read_variable(name, SECRET)
    assert len(spans.calls()) >= 4
    assert SECRET not in "".join(span.to_json() for span in spans.all)


def test_a_broken_parent_begins_a_new_trace() -> None:
    """What is no traceparent is ignored; calls and spans are as ever."""
    broken = [[("traceparent", "x" * 1000)], [("traceparent", f"00-{'0' * 32}-{SPAN}-01")], []]
    with traced(model) as (spans, address), grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/varserve.v1.ModelService/ReadVariable")
        for metadata in broken:
            call(requests.read().SerializeToString(), metadata=metadata, timeout=30)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/a.B/c")(b"", metadata=PARENT, timeout=30)
    assert [span.parent for span in spans.calls()] == [None] * len(broken)
    assert len({span.get_span_context().trace_id for span in spans.calls()}) == len(broken)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Wanted(False, False)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317"}, Wanted(True, True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4317"}, Wanted(True, False)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Wanted(True, False)),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_LOGS_EXPORTER": "none"},
            Wanted(True, False),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317", "OTEL_SDK_DISABLED": "true"},
            Wanted(False, False),
        ),
    ],
)
def test_the_standard_variables_say_what_is_sent(
    environment: dict[str, str], expected: Wanted
) -> None:
    """Off unless there is an endpoint or an exporter; each signal can be turned off."""
    assert wanted(environment) == expected
    assert bool(expected) is (expected.traces or expected.logs)


class Collector(
    trace_service_pb2_grpc.TraceServiceServicer, logs_service_pb2_grpc.LogsServiceServicer
):
    """Receives OTLP over gRPC: what a real collector would."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.logs: list[Any] = []
        self.resource: dict[str, str] = {}

    def Export(self, request: Any, context: Any) -> Any:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            for each in request.resource_spans:
                self.resource = {a.key: a.value.string_value for a in each.resource.attributes}
                self.spans += [span for scope in each.scope_spans for span in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        for each in request.resource_logs:
            self.logs += [log for scope in each.scope_logs for log in scope.log_records]
        return logs_service_pb2.ExportLogsServiceResponse()


def test_a_collector_gets_spans_and_log_lines_of_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over real OTLP: the call's span, and the call's line in the log, of the caller's trace."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    telemetry = Telemetry(methods())
    telemetry.send(environment)
    live = counter(observer=telemetry.model("counter", 1))
    with (
        serve_here(live, observers=telemetry.call_observers, call_log_level="error") as address,
        grpc.insecure_channel(address) as channel,
    ):
        channel.unary_unary("/varserve.v1.ModelService/ReadVariable")(
            requests.read().SerializeToString(), metadata=PARENT, timeout=30
        )
    telemetry.close()
    server.stop(None)
    (span,) = [span for span in collector.spans if span.name.endswith("/ReadVariable")]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert collector.resource["service.name"] == "varserve-service"
    assert collector.resource["deployment.environment.name"] == "test"
    (line,) = [log for log in collector.logs if log.body.string_value == "call"]
    assert (line.trace_id.hex(), line.span_id) == (TRACE, span.span_id)
    found = {attribute.key: attribute.value for attribute in line.attributes}
    assert found["method"].string_value == "ReadVariable"
    assert found["model"].string_value == "counter"


def test_a_collector_that_is_not_there_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are answered, and the end takes no more than its seconds."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", environment["OTEL_EXPORTER_OTLP_ENDPOINT"])
    telemetry = Telemetry(methods())
    telemetry.send(environment)
    live = counter(observer=telemetry.model("counter", 1))
    with (
        serve_here(live, observers=telemetry.call_observers) as address,
        varserve.connect(address, timeout=10, retries=0) as client,
    ):
        for _ in range(100):
            client.read_variable("counter", "v")
    closing = threading.Thread(target=telemetry.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()


def test_without_the_extra_the_service_says_so_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables alone, without the libraries, are a warning that names the extra."""
    monkeypatch.setitem(sys.modules, "varserve_service.telemetry.tracing", None)
    telemetry = Telemetry(methods())
    with logged(logging.INFO) as log:
        telemetry.send({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert list(telemetry.call_observers) == []
    telemetry.close()
    (line,) = log.lines()
    assert line["level"] == "warning"
    assert "varserve-service[otel]" in line["event"]
