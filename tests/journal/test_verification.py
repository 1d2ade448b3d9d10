"""What is read when a state is opened, and what an operator is told where it cannot be."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused
from tests.journal.test_not_damaged import sqlite_error
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import verification
from varserve_service.journal.failures import (
    Cause,
    StateUnavailable,
    cause_at,
    cause_of,
    refusal,
    told_apart,
)

FOLDER = Path("models/fake/1")


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(30, np.float32))])


def write(live: LiveModel, number: float) -> None:
    live.assign([Write("v", Operation.SET, np.full(30, number, np.float32))])


def failing(*_: object, **__: object) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["ok"], None),
        (["row 1 missing from index i", "wrong # of entries"], ValueError),
        (["unable to get the page. error code=10"], sqlite3.OperationalError),
        (["unable to get the page. error code=266", "more"], sqlite3.OperationalError),
        (["unable to get the page. error code=11"], ValueError),
    ],
)
def test_what_a_check_of_all_pages_says(found: list[str], expected: type[Exception] | None) -> None:
    """A page that cannot be read is no damage; its code is the one of the failure."""

    class Checked:
        def execute(self, statement: str) -> list[tuple[str]]:
            return [(problem,) for problem in found]

    connection: Any = Checked()
    if expected is None:
        verification._check_pages(connection)
        return
    with pytest.raises(expected) as caught:
        verification._check_pages(connection)
    if expected is sqlite3.OperationalError:
        assert cause_of(caught.value) is Cause.DISK_FAILED


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("state", "state"),
        ("base", "base v"),
        ("history", "history 1"),
        ("commits", "commit 4"),
        ("answers", "answer 5 "),
    ],
)
def test_each_row_has_its_checksum(tmp_path: Path, table: str, row: str) -> None:
    """All of them are looked at before anything is taken up, and the first wrong one is named."""
    with kept(tmp_path, make, history_commits=9, history_bytes=240) as (live, journal):
        for number in range(5):
            request = WriteRequest(f"r{number}", b"") if number == 4 else None
            live.assign([Write("v", Operation.SET, np.ones(30, np.float32))], request=request)
        journal._compactor.compact()
        path = journal._database.path
        with journal._database.reading() as connection:
            ((count,),) = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        assert count
        journal._database.checkpoint()
    verification.verify(path, 5)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {table} SET crc = crc + 1")
        connection.commit()
    with pytest.raises(JournalError, match=f"damaged: row {row}"):
        verification.verify(path, 5)


def test_a_log_without_anything_in_it(tmp_path: Path) -> None:
    """It has no commit; where one was acknowledged it is damaged, as one that is not there is."""
    for path in (tmp_path / "empty", tmp_path / "absent"):
        if path.name == "empty":
            path.touch()
        verification.verify(path, 0)
        with pytest.raises(JournalError, match=r"up to 1, which were acknowledged, found .* to 0"):
            verification.verify(path, 1)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM commits WHERE revision = 5", "expected commit 5, found 6"),
        ("DELETE FROM commits WHERE revision = 6", "expected the commits up to 6"),
        ("DELETE FROM history WHERE revision = 3", "expected the record of commit 3, found 4"),
        ("DELETE FROM history WHERE revision = 4", "expected records up to commit 4, found .* 3"),
        ("DELETE FROM history WHERE revision = 1", ""),
        ("DELETE FROM history", ""),
        ("DELETE FROM base", "the base is not the one that was written"),
        ("DELETE FROM answers", ""),
    ],
)
def test_what_is_missing_in_between_is_damage(tmp_path: Path, statement: str, said: str) -> None:
    """Of commits, of the base, and of the records up to it; the oldest records may go."""
    with kept(tmp_path, make, history_commits=9, history_bytes=240) as (live, journal):
        for number in range(6):
            write(live, number)
        journal._compactor.compact()
        assert journal.horizon == 4
        path = journal._database.path
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    if said:
        with pytest.raises(JournalError, match=said):
            verification.verify(path, 6)
    else:
        verification.verify(path, 6)


def test_what_sqlite_calls_damage_is_looked_at_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the file can be read and is whole at the second look, it is taken."""
    with kept(tmp_path, make) as (live, _):
        write(live, 1)
    verify, looks = verification._verify, []

    def second(path: Path, acknowledged: int) -> None:
        looks.append(path)
        if len(looks) % 2:
            raise sqlite_error(name)
        verify(path, acknowledged)

    monkeypatch.setattr(verification, "_verify", second)
    name = "SQLITE_CORRUPT"
    with kept(tmp_path, make) as (live, _):
        assert live.header.revision == 1
    assert len(looks) == 2
    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", failing)
        assert "the disk reported an error" in refused(tmp_path, make)
    looks.clear()
    name = "SQLITE_IOERR_READ"
    assert "the disk reported an error" in refused(tmp_path, make)
    assert len(looks) == 1


def test_records_of_the_history_that_are_gone(tmp_path: Path) -> None:
    """One in between and the last one are missed; the first ones may have gone by their count."""

    def begin(folder: Path) -> None:
        with kept(folder, make, history_bytes=200, history_commits=9) as (live, journal):
            for number in range(5):
                write(live, number)
            journal._compactor.compact()
            with journal._database.reading() as connection:
                query = "SELECT revision FROM history ORDER BY revision"
                assert [each for (each,) in connection.execute(query)] == [1, 2, 3, 4]

    for revision, said in ((2, "expected the record of commit 2, found 3"), (4, "up to commit 4")):
        begin(tmp_path / str(revision))
        log = tmp_path / str(revision) / FOLDER / "log.sqlite3"
        with sqlite3.connect(log) as connection:
            connection.execute("DELETE FROM history WHERE revision = ?", (revision,))
        connection.close()
        assert said in refused(tmp_path / str(revision), make)
    begin(tmp_path / "first")
    with sqlite3.connect(tmp_path / "first" / FOLDER / "log.sqlite3") as connection:
        connection.execute("DELETE FROM history WHERE revision = 1")
    connection.close()
    with kept(tmp_path / "first", make) as (live, _):
        assert live.header.revision == 5


def test_what_a_failure_says_to_an_operator(tmp_path: Path) -> None:
    """The system's own words where SQLite does not say why it cannot open a file."""
    folder = tmp_path / "log"
    folder.mkdir()
    error = refusal(folder, sqlite_error("SQLITE_CANTOPEN"))
    assert isinstance(error, StateUnavailable)
    assert "Is a directory" in str(error)
    unsaid = refusal(tmp_path / "absent", sqlite_error("SQLITE_CANTOPEN"))
    assert "SQLITE_CANTOPEN" in str(unsaid)
    (tmp_path / "present").touch()
    assert "SQLITE_CANTOPEN" in str(refusal(tmp_path / "present", sqlite_error("SQLITE_CANTOPEN")))
    (tmp_path / "other-wal").mkdir()
    assert "Is a directory" in str(refusal(tmp_path / "other", sqlite_error("SQLITE_CANTOPEN")))
    assert cause_of(MemoryError()) is Cause.NO_MEMORY
    assert cause_of(ValueError()) is Cause.DAMAGED
    assert cause_of(sqlite3.ProgrammingError()) is Cause.DAMAGED
    with pytest.raises(StateUnavailable, match="not enough memory"), told_apart(tmp_path):
        raise MemoryError


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EDQUOT, Cause.FULL),
        (errno.ENOSPC, Cause.FULL),
        (errno.EIO, Cause.DISK_FAILED),
        (0, Cause.DISK_FAILED),
    ],
)
@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_write_or_sync_that_sqlite_calls_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, cause: Cause
) -> None:
    """The folder tells whether there was no room; it is asked for no other failure."""
    asked: list[int] = []

    def fail(*_: object) -> int:
        asked.append(1)
        if number:
            raise OSError(number, os.strerror(number))
        return 0

    monkeypatch.setattr(f"varserve_service.journal.failures.os.{call}", fail)
    path = tmp_path / "log"
    assert cause_at(path, sqlite_error("SQLITE_IOERR_WRITE")) is cause
    assert cause_at(path, sqlite_error("SQLITE_IOERR_FSYNC")) is cause
    assert len(asked) == 2
    assert cause_at(path, sqlite_error("SQLITE_IOERR_READ")) is Cause.DISK_FAILED
    assert cause_at(path, OSError(errno.ENOSPC, "")) is Cause.FULL
    assert len(asked) == 2
    assert not list(tmp_path.iterdir())
