"""A model with values that are too large for a row, and what the database has of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg

from tests.core.test_live_model import ADD, SET, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import until
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel

MIB = 2**20
LARGE = 2 * MIB // 4 + 3
"""Elements of a value that takes two chunks and a bit."""


def made(size: int = LARGE) -> FakeModel:
    return FakeModel(
        [
            FakeVariable("large", np.zeros(size, np.float32)),
            FakeVariable("table", np.zeros((300, 1024), np.float32), in_place=True),
            FakeVariable("count", np.zeros((), np.int64)),
        ]
    )


def put(live: LiveModel, number: float, **options: Any) -> int:
    shape = value_of(live, "large").shape
    writes = [Write("large", SET, np.full(shape, number, np.float32))]
    return live.assign(writes, **options).header.revision


def add(live: LiveModel) -> int:
    return live.assign([Write("count", ADD, np.ones((), np.int64))]).header.revision


def asked(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def kept(database: str) -> list[tuple[Any, ...]]:
    """The revisions of all blobs."""
    return [r for (r,) in asked(database, "SELECT revision FROM varserve_blob ORDER BY revision")]


def chunks(database: str) -> int:
    return int(asked(database, "SELECT count(*) FROM varserve_chunk")[0][0])


def same(*lives: LiveModel) -> None:
    until(lambda: len({live.header.revision for live in lives}) == 1)
    for name in ("large", "table", "count"):
        assert len({value_of(live, name).tobytes() for live in lives}) == 1
