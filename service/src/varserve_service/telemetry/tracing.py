"""Traces and logs by OpenTelemetry, configured by its own environment variables alone.

The only module that imports opentelemetry, which is there with the extra `otel`: it is imported
where somebody asks for it. A span names what was called, never a value.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .environment import Wanted
from .words import Call

_NAME = "varserve-service"
_CLOSE_SECONDS = 3.0
_SHORTEST_WAIT = 0.0001
"""Seconds: who waited less for a lock did not wait for anybody."""

# What is the service's own fault, as OpenTelemetry's conventions for gRPC have it.
_FAILED = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """A span for each call, with children for what it waited for. An observer of calls."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(_NAME)

    def started(self, call: Call) -> None:
        """Begin the call's span, as a part of the caller's trace if there is one."""
        method = call.method
        if method.service == "unknown":
            return  # No handler, and so no task of its own to keep the span in.
        carrier = {
            key: value
            for key, value in call.metadata
            if key in _propagator.fields and isinstance(value, str)
        }
        parent = _propagator.extract(carrier, contexts.Context())
        span = self._tracer.start_span(
            f"{method.service}/{method.name}",
            parent,
            trace.SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": method.service, "rpc.method": method.name},
        )
        # For as long as the call's own task lasts, and for the threads that work for it.
        contexts.attach(trace.set_span_in_context(span))
        call.trace_id = f"{span.get_span_context().trace_id:032x}"

    def received(self, call: Call) -> None:
        pass

    sent = received

    def ended(self, call: Call) -> None:
        """End the span with what is known now."""
        if call.method.service == "unknown":
            return
        span = trace.get_current_span()
        if span.is_recording():
            attributes: dict[str, Any] = {
                "rpc.grpc.status_code": call.code.value[0],
                "varserve.model": call.model or None,
                "varserve.version": call.version,
                "varserve.revision": call.revision,
                "varserve.request_id": call.request_id or None,
                "varserve.reason": call.reason or None,
            }
            span.set_attributes(
                {key: value for key, value in attributes.items() if value is not None}
            )
            if call.code.name in _FAILED:
                span.set_status(trace.Status(trace.StatusCode.ERROR, call.reason or call.code.name))
        span.end()

    def model(self, name: str, version: int) -> ModelSpans:
        """The observer of one version of a model."""
        return ModelSpans(self._tracer)


class ModelSpans:
    """The core's Observer: what a call waited for in a model, as children of its span.

    Commits that are made durable together are in the trace of the call that led them.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        """Somebody waited for the lock."""
        if seconds >= _SHORTEST_WAIT:
            kind = "exclusive" if exclusive else "shared"
            self._was("lock wait", seconds, ago, {"varserve.lock": kind})

    def lock_held(self, seconds: float) -> None:
        """The lock was held exclusively."""
        self._was("lock held", seconds)

    def committed(self, nbytes: int) -> None:
        """Is told by the call's revision."""

    def ran(self, seconds: float) -> None:
        """A function was run."""
        self._was("run", seconds)

    def synced(self, seconds: float, commits: int) -> None:
        """Commits were made durable."""
        self._was("journal sync", seconds, attributes={"varserve.commits": commits})

    def _was(
        self,
        name: str,
        seconds: float,
        ago: float = 0.0,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if not trace.get_current_span().is_recording():
            return  # Nobody's call: a lease that ended, a warm-up; or a trace that is not sampled.
        end = time.time_ns() - int(ago * 1e9)
        start = end - int(seconds * 1e9)
        self._tracer.start_span(name, attributes=attributes, start_time=start).end(end)


class LogHandler(logging.Handler):
    """Sends what the service logs, with the trace that it belongs to."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._logger: Logger = provider.get_logger(_NAME)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it over; it is sent on a thread of its own."""
        fields = (
            dict(record.msg) if isinstance(record.msg, dict) else {"event": record.getMessage()}
        )
        body = str(fields.pop("event", ""))
        for known in ("level", "timestamp", "trace_id"):
            fields.pop(known, None)
        self._logger.emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                context=contexts.get_current(),
                severity_text=record.levelname,
                severity_number=_severity(record.levelno),
                body=body,
                attributes={
                    key: value if isinstance(value, str | bool | int | float) else str(value)
                    for key, value in fields.items()
                },
            )
        )


def _severity(level: int) -> SeverityNumber:
    if level >= logging.CRITICAL:
        return SeverityNumber.FATAL
    if level >= logging.ERROR:
        return SeverityNumber.ERROR
    if level >= logging.WARNING:
        return SeverityNumber.WARN
    return SeverityNumber.INFO if level >= logging.INFO else SeverityNumber.DEBUG


class Pipeline:
    """What sends traces and logs to where the environment says."""

    def __init__(self, wanted: Wanted) -> None:
        resource = Resource.create(
            # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before these.
            _unless_named({"service.name": _NAME, "service.version": version(_NAME)})
        )
        self.tracing: Tracing | None = None
        self._handler: LogHandler | None = None
        self._closers: list[Callable[[], Any]] = []
        if wanted.traces:
            traces = TracerProvider(resource=resource, shutdown_on_exit=False)
            traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self.tracing = Tracing(traces)
            self._closers.append(traces.shutdown)
        if wanted.logs:
            logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
            logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
            self._handler = LogHandler(logs)
            logging.getLogger("varserve").addHandler(self._handler)
            self._closers.append(logs.shutdown)

    def close(self) -> None:
        """Send what was not sent yet, as far as that goes within some seconds."""
        if self._handler is not None:
            logging.getLogger("varserve").removeHandler(self._handler)
        # A collector that does not answer must not hold up the end of the process.
        threads = [threading.Thread(target=close, daemon=True) for close in self._closers]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _unless_named(defaults: dict[str, str]) -> dict[str, Any]:
    given = Resource.create().attributes
    name = str(given.get("service.name", ""))
    named = name != "" and not name.startswith("unknown_service")
    return {
        k: v for k, v in defaults.items() if k not in given or (k == "service.name" and not named)
    }
