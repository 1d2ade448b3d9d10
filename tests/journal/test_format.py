"""The format of a log is read before anything else, by a reader that knows no table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused
from varserve_service.core.change.writes import Write
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal.schema import FORMAT


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(3, np.float32))])


def begin(directory: Path) -> Path:
    """A state with one commit; its log."""
    with kept(directory, make) as (live, _):
        live.assign([Write("v", Operation.SET, np.ones(3, np.float32))])
    return directory / "models/fake/1/log.sqlite3"


def newer(connection: sqlite3.Connection) -> None:
    """A later version, with tables of its own and none of today's."""
    for table in ("state", "base", "commits", "answers"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("CREATE TABLE log (whatever)")
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")


def older(connection: sqlite3.Connection) -> None:
    """The first version, which did not write its number into the header."""
    connection.execute("PRAGMA user_version = 0")
    connection.execute("PRAGMA application_id = 0")


def another_program(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA application_id = 7")


def one_column_more(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE commits ADD COLUMN note TEXT")


def one_table_less(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE answers")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (newer, f"expected format {FORMAT}, found format {FORMAT + 1}: a newer version"),
        (older, f"expected format {FORMAT}, found format 1: an older version"),
        (another_program, "found a database of another program"),
        (one_column_more, "table 'commits': expected the columns revision, record, payload, crc"),
        (one_table_less, "table 'answers': expected the columns"),
    ],
)
def test_another_format_is_named_and_not_called_damage(
    tmp_path: Path, change: Callable[[sqlite3.Connection], None], expected: str
) -> None:
    """A start refuses it with what it expected and found, and changes nothing."""
    log = begin(tmp_path)
    with closing(sqlite3.connect(log)) as connection:
        change(connection)
        connection.commit()
    before = log.read_bytes()
    message = refused(tmp_path, make)
    assert expected in message
    assert "damaged" not in message
    assert log.read_bytes() == before
