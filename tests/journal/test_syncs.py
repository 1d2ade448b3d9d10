"""Each name and each file that a start or a commit relies on is synced before it is relied on.

In the order of this process's own calls; tests/faults/test_power_cuts.py looks at those of the
system, SQLite's among them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept
from varserve_service.core.change.writes import Write
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import database
from varserve_service.journal.database import Database
from varserve_service.journal.failures import StateUnavailable

FOLDER = Path("models/fake/1")
Event = tuple[str, Path]


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(4, np.float32))])


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What happened to which path, in its order: `sync`, `mkdir`, `touch`, `rename` to, `unlink`.

    `commit`: a transaction has ended.
    """
    found: list[Event] = []
    fsync, writing = os.fsync, Database.writing

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        found.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("mkdir", "touch", "rename", "unlink"):
        call = getattr(Path, name)

        def noted(
            path: Path, *arguments: Any, call: Any = call, name: str = name, **more: Any
        ) -> Any:
            result = call(path, *arguments, **more)
            found.append((name, arguments[0] if name == "rename" else path))
            return result

        monkeypatch.setattr(Path, name, noted)

    @contextmanager
    def committed(database: Database) -> Iterator[Any]:
        with writing(database) as connection:
            yield connection
        found.append(("commit", database.path))

    monkeypatch.setattr(Database, "writing", committed)
    return found


def unsynced(events: list[Event]) -> list[Event]:
    """Changes of a folder's names after which the folder is not synced before anything else."""
    return [
        (what, path)
        for (what, path), following in zip(events, [*events[1:], None], strict=True)
        if what in ("mkdir", "rename") and following != ("sync", path.parent)
    ]


def test_a_new_state(tmp_path: Path, events: list[Event]) -> None:
    """Folders with their names, the head with its content, and the log with the one beside it."""
    folder = tmp_path / "state" / FOLDER
    with kept(tmp_path / "state", make):
        made = [path for what, path in events if what == "mkdir"]
        assert made == [*reversed(folder.parents[:3]), folder, folder / "payloads"]
        renamed = [path.name for what, path in events if what == "rename"]
        assert renamed == ["head", "log.sqlite3"]
        assert unsynced(events) == []
        head = events.index(("rename", folder / "head"))
        assert events[head - 1] == ("sync", folder / "head.new")
        log = events.index(("rename", folder / "log.sqlite3"))
        # The second time with the write-ahead log in it.
        assert events[log + 1 : log + 3] == [("sync", folder)] * 2
        assert events[log + 3][0] == "commit"


def test_a_state_that_is_opened_again(tmp_path: Path, events: list[Event]) -> None:
    """Its write-ahead log was made anew."""
    with kept(tmp_path, make):
        pass
    events.clear()
    with kept(tmp_path, make):
        assert events[0] == ("sync", tmp_path / FOLDER)


def test_a_value_in_a_file(tmp_path: Path, events: list[Event]) -> None:
    """It is on the disk, and its name, before the row that names it."""
    with kept(tmp_path, make, inline_bytes=1) as (live, _):
        events.clear()
        live.assign([Write("v", Operation.SET, np.ones(4, np.float32))])
        payloads = tmp_path / FOLDER / "payloads"
        (file,) = payloads.iterdir()
        assert events == [
            ("sync", file),
            ("sync", payloads),
            ("commit", tmp_path / FOLDER / "log.sqlite3"),
        ]


def test_a_state_that_was_restored(tmp_path: Path, events: list[Event]) -> None:
    """The mark stays until the new epoch is in the log; neither comes back or goes alone."""
    with kept(tmp_path, make):
        pass
    events.clear()
    folder = tmp_path / FOLDER
    with kept(tmp_path, make, restored=True):
        mark = folder / "new-epoch"
        assert events[:2] == [("touch", mark), ("sync", folder)]
        gone = events.index(("unlink", mark))
        assert events[gone - 1 : gone + 2] == [
            ("commit", folder / "log.sqlite3"),
            ("unlink", mark),
            ("sync", folder),
        ]


def test_a_state_that_is_moved_aside(tmp_path: Path, events: list[Event]) -> None:
    """Its new name is on the disk before another state has the old one."""
    with kept(tmp_path, make):
        pass
    (tmp_path / FOLDER / "head").write_bytes(b"damaged")
    events.clear()
    with kept(tmp_path, make, reset=True):
        (aside,) = (tmp_path / "aside").iterdir()
        moved = events.index(("rename", aside))
        assert events[moved - 2 : moved + 3] == [
            ("mkdir", aside.parent),
            ("sync", tmp_path),
            ("rename", aside),
            ("sync", aside.parent),
            ("mkdir", tmp_path / FOLDER),
        ]
        assert unsynced(events) == []


def test_the_log_is_synced_at_each_commit(tmp_path: Path) -> None:
    """And moved into its file only where a failure is seen; nobody else may have it open."""
    with kept(tmp_path, make) as (_, journal), journal._database.reading() as connection:
        modes = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "locking_mode")
        }
    assert modes == {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "locking_mode": "exclusive",
    }


def test_a_new_log_whose_content_is_not_moved_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no name: the log beside it would be left behind."""
    connect = sqlite3.connect

    class Busy(sqlite3.Connection):
        def execute(self, query: str, *arguments: Any) -> Any:
            moves = "wal_checkpoint(TRUNCATE)" in query
            return super().execute("SELECT 1, 0, 0" if moves else query, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(
            database.sqlite3, "connect", lambda *a, **more: connect(*a, factory=Busy, **more)
        )
        with pytest.raises(StateUnavailable, match="cannot be moved into the file"):
            database.Database(tmp_path / "log.sqlite3")
    assert not (tmp_path / "log.sqlite3").exists()
    database.Database(tmp_path / "log.sqlite3").close()
