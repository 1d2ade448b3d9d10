"""The trace that a call belongs to: given by the caller, or that of OpenTelemetry where it is used.

Depends on nothing: a process that has not imported OpenTelemetry has no trace of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{0,512}")

_given: ContextVar[Metadata | None] = ContextVar("varserve_trace", default=None)


@contextmanager
def trace(traceparent: str, tracestate: str = "") -> Iterator[None]:
    """Let the calls that are made within the block belong to a trace.

    traceparent, tracestate: as W3C's Trace Context has them. Goes before OpenTelemetry's current
    span. Of the thread or task that enters the block alone. Raises ValueError.
    """
    if not _TRACEPARENT.fullmatch(traceparent):
        raise ValueError(f"traceparent: expected 00-TRACE-SPAN-FLAGS, found {traceparent[:80]!r}")
    if not _TRACESTATE.fullmatch(tracestate):
        raise ValueError("tracestate: expected at most 512 printable ASCII characters")
    token = _given.set(_metadata(traceparent, tracestate))
    try:
        yield
    finally:
        _given.reset(token)


def trace_metadata() -> Metadata:
    """What is sent along with a call that is made here and now."""
    given = _given.get()
    if given is not None:
        return given
    opentelemetry: Any = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return ()
    try:
        span = opentelemetry.get_current_span().get_span_context()
        if not span.is_valid:
            return ()
        parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}"
        return _metadata(parent, span.trace_state.to_header())
    except Exception:
        # Another version of it, or half imported: a call must not fail for want of a trace.
        return ()


def _metadata(traceparent: str, tracestate: str) -> Metadata:
    parent = (("traceparent", traceparent),)
    return (*parent, ("tracestate", tracestate)) if tracestate else parent
