"""The log on standard error, of the service and of every library: JSON lines, or text for a person.

Owns what a line looks like. Payloads are never logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

LogFormat = Literal["auto", "json", "text"]

_SHARED: list[structlog.typing.Processor] = [
    # The trace and the request that a line belongs to, where there are such.
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def line_formatter() -> logging.Formatter:
    """Makes one line of JSON of a record. Whatever is in the record, it ends no line."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # Also what is no ASCII: there are more line ends in Unicode than in a terminal.
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
    )


def text_formatter(*, colors: bool) -> logging.Formatter:
    """Makes a line for a person to read: time, level, event, and what belongs to it."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
    )


def configure_logs(level: str, form: LogFormat = "json") -> None:
    """Send everything that is logged from now on to standard error.

    `auto` is text where standard error is a terminal, and JSON elsewhere.
    """
    terminal = sys.stderr.isatty()
    text = form == "text" or (form == "auto" and terminal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(text_formatter(colors=terminal) if text else line_formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("varserve", "varserve_service"):
        logging.getLogger(name).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _printable(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A caller's text must not move a terminal's cursor; the logger's name is for machines."""
    event.pop("logger", None)
    event["timestamp"] = event["timestamp"][11:19]
    return {key: _escaped(value) for key, value in event.items()}


def _escaped(value: object) -> object:
    if not isinstance(value, str) or value.isprintable():
        return value
    return value.encode("unicode_escape").decode()
