"""A state that cannot be opened or read now is not called damaged, and nothing of it is changed."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.faults.disks import fill, small_disk
from tests.journal.kept import kept, refused, value_of
from tests.waiting import read_line
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, RequestError
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import StateDirectory
from varserve_service.journal.failures import Cause, cause_of

FOLDER = Path("models/fake/1")


def make() -> FakeModel:
    return FakeModel(
        [FakeVariable("v", np.zeros(3, np.float32)), FakeVariable("w", np.zeros(900, np.float32))]
    )


def write(live, number: int) -> None:
    live.assign([Write("v", Operation.SET, np.full(3, number, np.float32))])


def write_many(live) -> None:
    """More than the room that the log may still have."""
    for number in range(1000):
        write(live, number)


def begin(directory: Path) -> None:
    """A state of two commits, one of them in a payload file."""
    with kept(directory, make, inline_bytes=1000) as (live, _):
        write(live, 1)
        live.assign([Write("w", Operation.SET, np.ones(900, np.float32))])


def content(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("SQLITE_FULL", Cause.FULL),
        ("SQLITE_IOERR", Cause.DISK_FAILED),
        ("SQLITE_IOERR_READ", Cause.DISK_FAILED),
        ("SQLITE_IOERR_SHMSIZE", Cause.DISK_FAILED),
        ("SQLITE_IOERR_NOMEM", Cause.NO_MEMORY),
        ("SQLITE_CANTOPEN", Cause.NO_ACCESS),
        ("SQLITE_CANTOPEN_ISDIR", Cause.NO_ACCESS),
        ("SQLITE_READONLY_DBMOVED", Cause.READ_ONLY),
        ("SQLITE_BUSY", Cause.BUSY),
        ("SQLITE_BUSY_RECOVERY", Cause.BUSY),
        ("SQLITE_CORRUPT", Cause.DAMAGED),
        ("SQLITE_NOTADB", Cause.DAMAGED),
    ],
)
def test_each_code_of_sqlite_has_its_cause(name: str, cause: Cause) -> None:
    """Extended codes count as their primary code."""
    assert cause_of(sqlite_error(name)) is cause


def test_each_error_of_the_system_has_its_cause() -> None:
    """Only a file that is missing is damage; an unknown error is one of the disk."""
    expected = {
        errno.EDQUOT: Cause.FULL,
        errno.EROFS: Cause.READ_ONLY,
        errno.EMFILE: Cause.NO_ACCESS,
        errno.EIO: Cause.DISK_FAILED,
        errno.ENODEV: Cause.DISK_FAILED,
        errno.ENOENT: Cause.DAMAGED,
    }
    assert {number: cause_of(OSError(number, "")) for number in expected} == expected


def test_a_start_on_a_full_disk_reads_and_refuses_writes(tmp_path: Path) -> None:
    """After a crash, with commits in the write-ahead log; when there is room writes go through."""
    with small_disk(tmp_path / "disk") as disk:
        begin(disk)
        crashed_after_a_commit(disk)
        fill(disk / "filler")
        with kept(disk, make, inline_bytes=1000) as (live, _):
            assert value_of(live, "v").tolist() == [3, 3, 3]
            with pytest.raises(RequestError) as caught:
                write_many(live)
            assert caught.value.reason is Reason.STATE_STORE_FULL
            (disk / "filler").unlink()
            write(live, 5)
        with kept(disk, make) as (live, _):
            assert value_of(live, "v").tolist() == [5, 5, 5]


def crashed_after_a_commit(directory: Path) -> None:
    """A process that commits once more and ends without closing anything."""
    code = (
        "import os, sys; from pathlib import Path; from tests.journal import test_not_damaged as t;"
        "\nwith t.kept(Path(sys.argv[1]), t.make, inline_bytes=1000) as (live, _):"
        "\n    t.write(live, 3); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=True, timeout=60)
    assert (directory / FOLDER / "log.sqlite3-wal").stat().st_size


def test_a_new_state_on_a_full_disk_is_refused_as_full(tmp_path: Path) -> None:
    """Nothing is half made: with room, the next start begins."""
    with small_disk(tmp_path / "disk") as disk:
        fill(disk / "filler")
        with pytest.raises((JournalError, RequestError), match="full"), kept(disk / "state", make):
            pass
        (disk / "filler").unlink()
        begin(disk / "state")


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    """A start says what to do, and does not suggest to begin anew."""
    with small_disk(tmp_path / "disk") as disk:
        begin(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)
        said = refused(disk, make)
        assert "mount it for writing" in said
        assert "damaged;" not in said
        assert "--state-reset" not in said
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True, timeout=30)
        with kept(disk, make) as (live, _):
            assert value_of(live, "v").tolist() == [1, 1, 1]


@contextmanager
def opened_elsewhere(path: Path) -> Iterator[None]:
    """Another program reads the log, as an operator's `sqlite3` does."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN');"
        "c.execute('SELECT * FROM state').fetchall(); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert read_line(process, 60) == "open"
        yield
        process.communicate(timeout=30)


def test_a_log_that_another_program_reads_is_busy(tmp_path: Path) -> None:
    """Not damaged, also with --state-reset, which moves nothing aside."""
    begin(tmp_path)
    with opened_elsewhere(tmp_path / FOLDER / "log.sqlite3"):
        said = refused(tmp_path, make)
        assert "another program has it open" in said
        with pytest.raises(JournalError, match="another program"), kept(tmp_path, make, reset=True):
            pass
    assert not (tmp_path / "aside").exists()
    with kept(tmp_path, make, reset=True) as (live, _):
        assert live.header.revision == 2


@pytest.mark.parametrize(
    ("call", "names"),
    [("open", ("log.sqlite3", "head")), ("open", (".safetensors",))],
    ids=["log and head", "payload"],
)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_opened_is_not_damaged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    names: tuple[str, ...],
    number: int,
) -> None:
    """Too many open files, a failing disk, missing rights: each is named, and the state stays."""
    begin(tmp_path)
    before = content(tmp_path)

    def failing(path, *args, **more):
        if str(path).endswith(names):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **more)

    with monkeypatch.context() as patch:
        if names == (".safetensors",):
            opened = Path.open
            patch.setattr(Path, "open", failing)
        else:
            opened = os.open
            patch.setattr(os, "open", failing)
        said = refused(tmp_path, make)
    assert os.strerror(number) in said
    assert "The state is as it was" in said
    assert content(tmp_path) == before
    begin_again = kept(tmp_path, make)
    with begin_again as (live, _):
        assert live.header.revision == 2


def test_a_directory_that_fails_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is given back when a start fails after it was taken."""
    begin(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr("varserve_service.journal.state_directory.begin_new_epoch", fail)
        with pytest.raises(JournalError):
            StateDirectory(tmp_path, restored=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    begin(tmp_path)
