"""What the compaction's thread and the committing ones share is touched under its lock."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept
from tests.locks import times_taken
from varserve_service.access import audit
from varserve_service.access.audit import AuditError, AuditLog
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal.compaction import Compactor


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(3, np.float32))])


def write(live: LiveModel, number: int) -> None:
    live.assign([Write("v", Operation.SET, np.full(3, number, np.float32))])


def test_the_database(tmp_path: Path) -> None:
    """One connection serves all threads."""
    with kept(tmp_path, make) as (_, journal):
        database = journal._database

        def enter(what: Callable[[], Any]) -> Callable[[], None]:
            def action() -> None:
                with what():
                    pass

            return action

        for action in (enter(database.reading), enter(database.writing), database.checkpoint):
            assert times_taken(database, "_lock", action) == 1
        journal._compactor.stop()
        assert times_taken(database, "_lock", database.close) == 1


def test_the_payloads(tmp_path: Path) -> None:
    """Which files are needed changes while they are looked for."""
    with kept(tmp_path, make, inline_bytes=1) as (live, journal):
        write(live, 1)
        files = journal._files
        (name,) = files._needed
        for action in (
            lambda: files.need([name]),
            files.missing,
            files.clean_up,
            lambda: files.remove(["absent"]),
        ):
            assert times_taken(files, "_lock", action) == 1
        assert list(files._needed) == [name]


def test_the_counts_of_a_compactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits go on while they are read to find the next horizon."""
    monkeypatch.setattr(Compactor, "wake_when_due", lambda compactor: None)
    with kept(tmp_path, make, history_commits=2) as (live, journal):
        compactor = journal._compactor
        # Of a commit, and of its answers.
        assert times_taken(compactor, "_counting", lambda: write(live, 1)) == 2
        # To find the horizon, and to put the counts of answers and of commits right.
        assert times_taken(compactor, "_counting", compactor.compact) == 3
        for number in range(2, 6):
            write(live, number)
        # To find out which records go, and to move the horizon, too.
        assert times_taken(compactor, "_counting", compactor.compact) == 5
        assert times_taken(compactor, "_working", compactor.compact) == 1
        assert journal.horizon == 3


def test_the_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of many threads are queued, and written in turn."""
    log = AuditLog(tmp_path / "audit")
    # To queue its line, and to take all that wait.
    assert times_taken(log, "_queueing", lambda: log.write({}, done=True)) == 2
    assert times_taken(log, "_turn", lambda: log.write({}, done=True)) == 1

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as disk:
        disk.setattr(audit.os, "write", full)
        with pytest.raises(AuditError):
            log.write({}, done=True)
    assert times_taken(log, "_turn", log.check) == 1
    assert times_taken(log, "_turn", log.check) == 0
    assert len((tmp_path / "audit").read_bytes().splitlines()) == 3
    os.close(log._file)
