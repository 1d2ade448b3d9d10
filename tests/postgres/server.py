"""The PostgreSQL servers of this test run; what needs one is skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from demo import postgres_server
from demo.postgres_server import NoServerError, Server

__all__ = ["Server", "running"]


@contextmanager
def running(copy_of: Server | None = None, name: str = "", **options: str) -> Iterator[Server]:
    """A server with an empty data folder, or a standby."""
    try:
        server = postgres_server.running(copy_of, name, **options)
        found = server.__enter__()
    except NoServerError as error:
        pytest.skip(str(error))
    try:
        yield found
    finally:
        server.__exit__(None, None, None)
