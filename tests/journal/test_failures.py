"""What each failure of the disk or of SQLite leads to: a refusal, another look, or the end."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused, value_of
from tests.journal.test_not_damaged import sqlite_error
from varserve.tensors import numpy_dtype
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import (
    JournalError,
    Reason,
    RequestError,
    StateStoreFull,
    StateStoreUnavailable,
)
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Header
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal import StateDirectory, export, save_safetensors
from varserve_service.journal import compaction as compaction_module
from varserve_service.journal import database as database_module
from varserve_service.journal import disk as disk_module
from varserve_service.journal import failures as failures_module
from varserve_service.journal import journal as journal_module
from varserve_service.journal import payloads as payloads_module
from varserve_service.journal.disk import EXIT_DISK_FAILED
from varserve_service.journal.failures import (
    StateUnavailable,
)

FOLDER = Path("models/fake/1")


class Ended(BaseException):
    """The process has ended."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process ended for; it goes on with an exception that nobody catches."""
    said: list[str] = []

    def end_process(what: str, error: object) -> None:
        said.append(what)
        raise Ended

    for module in (compaction_module, database_module, journal_module, payloads_module):
        monkeypatch.setattr(module, "end_process", end_process)
    return said


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(30, np.float32))])


def write(live: LiveModel, number: float) -> None:
    live.assign([Write("v", Operation.SET, np.full(30, number, np.float32))])


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SQLITE_FULL", StateStoreFull),
        ("SQLITE_READONLY", StateStoreUnavailable),
        ("SQLITE_CANTOPEN", StateStoreUnavailable),
        ("SQLITE_BUSY", StateStoreUnavailable),
        ("SQLITE_NOMEM", StateStoreUnavailable),
        ("SQLITE_IOERR_FSYNC", Ended),
        ("SQLITE_IOERR_WRITE", Ended),
        ("SQLITE_CORRUPT", Ended),
    ],
)
def test_a_transaction_that_fails(
    tmp_path: Path, ends: list[str], name: str, expected: type[BaseException]
) -> None:
    """It is rolled back where the file is as it was, and the process ends where it may not be."""
    with kept(tmp_path, make) as (live, journal):
        write(live, 1)
        database = journal._database

        def fail() -> None:
            with database.writing() as connection:
                connection.execute("DELETE FROM commits")
                raise sqlite_error(name)

        with pytest.raises(expected):
            fail()
        assert bool(ends) is (expected is Ended)
        if expected is Ended:
            database._roll_back()
        else:
            assert not database._connection.in_transaction
        write(live, 2)
    with kept(tmp_path, make) as (live, _):
        assert live.header.revision == 2


def test_a_checkpoint_that_fails(tmp_path: Path, ends: list[str]) -> None:
    """It is refused as a transaction is."""

    class Failing:
        in_transaction = False

        def execute(self, statement: str) -> Any:
            raise sqlite_error("SQLITE_FULL")

    with kept(tmp_path, make) as (_, journal):
        database = journal._database
        connection, database._connection = database._connection, Failing()
        try:
            with pytest.raises(StateStoreFull):
                database.checkpoint()
            database._connection.in_transaction = True
            with pytest.raises(Ended):  # what cannot be rolled back is not known
                database.checkpoint()
        finally:
            database._connection = connection
    assert ends == [str(tmp_path / FOLDER / "log.sqlite3")]


def test_a_read_that_fails_later(tmp_path: Path) -> None:
    """What was verified is not called damaged."""
    with (
        kept(tmp_path, make) as (_, journal),
        pytest.raises(StateUnavailable, match="could be read a moment ago"),
        journal._database.reading(),
    ):
        raise sqlite_error("SQLITE_CORRUPT")


def test_a_row_that_changes_after_it_was_verified(tmp_path: Path) -> None:
    """Its checksum is looked at again when it is read."""
    with kept(tmp_path, make) as (live, journal):
        write(live, 1)
        with journal._database.writing() as connection:
            connection.execute("UPDATE commits SET payload = x'00'")
        with pytest.raises(JournalError, match="damaged: row"):
            list(journal.commits())


@pytest.mark.parametrize(("full", "said"), [(True, "the disk is full"), (False, "check the disk")])
def test_a_log_that_cannot_be_written_ahead(
    monkeypatch: pytest.MonkeyPatch, full: bool, said: str
) -> None:
    """SQLite goes on in another mode without an error; the journal does not."""
    monkeypatch.setattr(database_module, "is_full", lambda folder: full)
    with pytest.raises(StateUnavailable, match=said):
        database_module._set_modes(sqlite3.connect(":memory:"), Path("log"))


def test_a_transaction_that_finds_no_room_when_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str]
) -> None:
    """What it wrote is cut off the log; where that cannot be done, the process ends."""
    monkeypatch.setattr(failures_module, "is_full", lambda folder: True)
    with kept(tmp_path, make) as (live, journal):
        write(live, 1)
        database = journal._database
        database._connection.execute("PRAGMA cache_size = 1")  # rows are written before the commit

        def fail(rows: int) -> None:
            with database.writing() as connection:
                row = (b"", bytes(9000), 0)
                connection.executemany(
                    "INSERT INTO commits VALUES (?, ?, ?, ?)", [(9 + n, *row) for n in range(rows)]
                )
                raise sqlite_error("SQLITE_IOERR_FSYNC")

        before = database.wal_path.stat().st_size
        with pytest.raises(StateStoreFull):
            fail(50)
        assert (database.wal_path.stat().st_size, ends) == (before, [])
        with pytest.raises(Ended):  # nothing was written: it lies over what was there before
            fail(0)
        monkeypatch.setattr(database_module.os, "fsync", failing(errno.EIO))
        with pytest.raises(Ended):
            fail(50)
        assert len(ends) == 2
        monkeypatch.undo()
        write(live, 2)
    with kept(tmp_path, make) as (live, _):
        assert (live.header.revision, value_of(live, "v")[0]) == (2, 2)


def test_what_an_interrupted_start_left_is_no_log(tmp_path: Path) -> None:
    """A file that was not finished is made anew."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for name in ("log.sqlite3.new", "log.sqlite3.new-wal"):
        (folder / name).write_bytes(b"half")
    with kept(tmp_path, make) as (live, _):
        write(live, 1)
    assert not list(folder.glob("*.new*"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I/O error: No space left on device (os error 28)", StateStoreFull),
        ("I/O error: Permission denied (os error 13)", StateStoreUnavailable),
        ("I/O error: Input/output error (os error 5)", Ended),
        ("HeaderTooLarge", SafetensorError),
    ],
)
def test_a_file_of_values_that_cannot_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[str],
    said: str,
    expected: type[BaseException],
) -> None:
    """By the system's number, which the library tells in its text alone."""

    def fail(*_: object) -> None:
        raise SafetensorError(said)

    with kept(tmp_path, make, inline_bytes=10) as (live, _):
        with monkeypatch.context() as disk:
            disk.setattr(payloads_module, "serialize_file", fail)
            with pytest.raises(expected):
                write(live, 1)
        assert bool(ends) is (expected is Ended)
        assert not list((tmp_path / FOLDER / "payloads").iterdir())
        write(live, 2)
        assert value_of(live, "v")[0] == 2


@pytest.mark.parametrize("size", [29, 31])
def test_a_file_with_a_value_of_another_size(tmp_path: Path, size: int) -> None:
    """Under the same names it is not what was written."""
    with kept(tmp_path, make, inline_bytes=10) as (live, _):
        write(live, 1)
    (path,) = (tmp_path / FOLDER / "payloads").iterdir()
    ones, zeros = np.ones(size, np.float32), np.zeros(99, np.float32)
    save_file({"v": ones, "zz": zeros}, path)
    assert f"damaged: v: expected 120 bytes, found {4 * size}" in refused(tmp_path, make)
    save_file({"v": np.ones(30, np.float32)}, path)
    with kept(tmp_path, make) as (live, _):
        assert value_of(live, "v").tolist() == [1] * 30


@pytest.mark.parametrize(
    ("number", "missing"), [(errno.ENOENT, True), (errno.ENOTDIR, True), (errno.EACCES, False)]
)
def test_a_folder_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, missing: bool
) -> None:
    """Only what is known to be gone is missed."""
    with kept(tmp_path, make, inline_bytes=10) as (live, journal):
        write(live, 1)
        with monkeypatch.context() as disk:
            disk.setattr(payloads_module.os, "scandir", failing(number))
            journal._files.need([])
            found = journal._files.missing()
        assert found == ([tmp_path / FOLDER / "payloads"] if missing else [])


@pytest.mark.parametrize(
    ("number", "ended"), [(errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EIO, True)]
)
def test_a_head_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str], number: int, ended: bool
) -> None:
    """The commit is durable without it; a disk that fails ends the process."""
    with kept(tmp_path, make) as (live, journal):
        with monkeypatch.context() as disk:
            disk.setattr(journal._head, "write", failing(number))
            if ended:
                with pytest.raises(Ended):
                    write(live, 1)
            else:
                write(live, 1)
        assert ends == ([str(tmp_path / FOLDER / "head")] if ended else [])
    with kept(tmp_path, make) as (live, _):
        assert live.header.revision == 1


def test_a_file_that_goes_while_a_commit_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str]
) -> None:
    """Nobody knows whether the commit stays, so nobody is told that it is done."""
    with kept(tmp_path, make) as (live, journal):
        looks = iter([[], [tmp_path / "head"]])
        monkeypatch.setattr(journal, "_missing", lambda: next(looks))
        with pytest.raises(Ended):
            write(live, 1)
        assert ends == [str(tmp_path / "head")]
        monkeypatch.undo()


def test_the_bytes_of_a_state(tmp_path: Path) -> None:
    """Of all of its files, those of values included, and of no folder."""
    with kept(tmp_path, make, inline_bytes=10) as (live, _):
        write(live, 1)
        folder = tmp_path / FOLDER
        (folder / "payloads" / "folder").mkdir()
        (folder / "link").symlink_to(folder / "head")
        found = [*folder.iterdir(), *(folder / "payloads").iterdir()]
        files = [path for path in found if path.is_file() and not path.is_symlink()]
        assert live.journal_bytes == sum(path.stat().st_size for path in files) > 0
    assert LiveModel(make()).journal_bytes is None


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    """It is named as what it is, and no disk has failed."""
    path = tmp_path / "state"
    path.touch()
    with pytest.raises(StateUnavailable, match=r"File exists.*it cannot be opened"):
        StateDirectory(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_lock_whose_number_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """For want of room it is taken all the same."""
    monkeypatch.setattr("varserve_service.journal.state_directory.os.pwrite", failing(number))
    if number == errno.EIO:
        with pytest.raises(StateUnavailable):
            StateDirectory(tmp_path)
    else:
        StateDirectory(tmp_path).close()


def test_a_compaction_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str]
) -> None:
    """It leaves no file, and is tried again later; what is no matter of room ends the process."""
    with kept(tmp_path, make, inline_bytes=10, history_commits=2) as (live, journal):
        for number in range(2):
            write(live, number)
        before = set((tmp_path / FOLDER / "payloads").iterdir())
        compactor = journal._compactor
        for error in (StateStoreFull("full"), StateStoreUnavailable("away"), MemoryError()):
            with monkeypatch.context() as disk:
                disk.setattr(compactor, "compact", _raising(error))
                compactor.try_to_compact()
        assert not ends
        with monkeypatch.context() as disk:
            disk.setattr(compactor, "compact", _raising(ValueError("a defect")))
            with pytest.raises(Ended):
                compactor.try_to_compact()
        assert ends == ["compaction"]
        assert set((tmp_path / FOLDER / "payloads").iterdir()) == before


def _raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_base_that_cannot_be_put_in_place_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of the new base are in files before the transaction that names them."""
    with kept(tmp_path, make, inline_bytes=10, history_commits=2) as (live, journal):
        monkeypatch.setattr(journal._compactor, "wake_when_due", lambda: None)
        for number in range(4):
            rows = Rows(np.array([number, number + 1]))
            live.assign([Write("v", Operation.SET, np.full(2, number, np.float32), rows)])
            nine = Rows(np.arange(9))
            live.assign([Write("v", Operation.SET, np.full(9, number, np.float32), nine)])
        before = set((tmp_path / FOLDER / "payloads").iterdir())
        with monkeypatch.context() as disk:
            disk.setattr(compaction_module, "write_state", _raising_any(StateStoreFull("full")))
            with pytest.raises(StateStoreFull):
                journal._compactor.compact()
        assert set((tmp_path / FOLDER / "payloads").iterdir()) == before
        journal._compactor.compact()
        assert journal.horizon == 6


def _raising_any(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_the_end_of_the_process() -> None:
    """At once, with its own exit code, and after the line that says why."""
    code = (
        "import atexit; from varserve_service.logs import configure_logs; configure_logs('info');"
        f"from {disk_module.__name__} import end_process;"
        "atexit.register(print, 'not at once'); end_process('log.sqlite3', 'no disk')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == EXIT_DISK_FAILED == 3
    assert "the state directory failed" in done.stdout + done.stderr
    assert "not at once" not in done.stdout


def test_a_value_that_safetensors_does_not_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named before anything is written; what the library reports is a failure of the disk."""
    good = FakeVariable("good", np.arange(3, dtype=np.float32))
    bad = FakeVariable("bad", np.zeros(3, numpy_dtype("float8_e5m2")))
    header = Header("fake", 1, "epoch", 7)

    def save(*variables: FakeVariable) -> None:
        values = {each.spec: HostValue(each.array) for each in variables if each.array is not None}
        save_safetensors(tmp_path, values, header, None, "fingerprint")

    with pytest.raises(RequestError, match="'bad': safetensors does not carry") as caught:
        save(good, bad)
    assert caught.value.reason is Reason.SAVE_UNSUPPORTED
    assert not list(tmp_path.iterdir())

    def fail(*_: object) -> None:
        raise SafetensorError("no room")

    with monkeypatch.context() as disk:
        disk.setattr(export, "serialize_file", fail)
        with pytest.raises(OSError, match="no room"):
            save(good)
    save(good)
    assert [path.name for path in tmp_path.iterdir()] == [export.FILE]


def test_a_file_that_goes_while_the_bytes_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction may remove it at any time; the others are counted."""
    with kept(tmp_path, make, inline_bytes=10) as (live, _):
        write(live, 1)
        (extra := tmp_path / FOLDER / "payloads" / "extra").write_bytes(bytes(1000))
        before = live.journal_bytes
        scandir = os.scandir

        @contextmanager
        def scanned(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
            with scandir(folder) as entries:
                found = list(entries)
            extra.unlink(missing_ok=True)
            yield found

        monkeypatch.setattr(journal_module.os, "scandir", scanned)
        assert before is not None
        assert live.journal_bytes == before - 1000
        monkeypatch.undo()
