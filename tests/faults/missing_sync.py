"""Starts and commits of a journal without one of its syncs: `missing_sync.py SITE SCRIPT ...`.

SITE is `FILE:LINE` of a sync in the journal's code, `sqlite` for those of SQLite, or `none`. SCRIPT
is `starts DIRECTORY`, each kind of start with some commits, or `writers DIRECTORY WRITERS COMMITS`.
"""

from __future__ import annotations

import ast
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import varserve_service.journal
from tests.fakes import FakeModel, FakeVariable
from tests.faults import journal_writers
from tests.journal.kept import kept
from varserve_service.journal import database
from varserve_service.logs import configure_logs

NONE, SQLITE = "none", "sqlite"
FOLDER = Path(varserve_service.journal.__file__).parent
_SYNCS = {"fsync", "fdatasync", "sync_folder"}
# It is called by others; a full disk is not among what these scripts do.
_LEFT_ALONE = {"sync_folder", "is_full", "_take_out"}


def sites() -> list[str]:
    """Every sync in the journal's code, and SQLite's."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name not in _LEFT_ALONE:
                found += [
                    f"{path.name}:{node.lineno}" for node in ast.walk(function) if _syncs(node)
                ]
    return [*sorted(set(found)), SQLITE]


def _syncs(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in _SYNCS


def leave_out(site: str) -> None:
    """From now on this sync does nothing."""
    if site == SQLITE:
        set_modes = database._set_modes

        def without_syncs(connection: sqlite3.Connection, path: Path) -> None:
            set_modes(connection, path)
            connection.execute("PRAGMA synchronous = OFF")

        database._set_modes = without_syncs
        return
    real: Callable[[int], None] = os.fsync

    def fsync(descriptor: int) -> None:
        caller: Any = sys._getframe(1)
        if caller.f_code.co_name == "sync_folder":
            caller = caller.f_back
        if f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}" != site:
            real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def version(number: int) -> FakeModel:
    model = journal_writers.model(1)
    model.version = number
    return model


def other_model() -> FakeModel:
    return FakeModel([FakeVariable("other", np.zeros(3, np.float32))])


def starts(directory: Path) -> None:
    """A new state of two versions, a restored copy of which one is loaded, and a reset."""

    def say(word: str) -> None:
        os.writev(1, [f"{word}\n".encode()])

    journal_writers.compact_on_the_writers_thread()
    options = journal_writers.OPTIONS
    for number in (2, 1):
        with kept(directory, lambda number=number: version(number), **options) as (live, _):
            say("ready")
            for each in range(1, 13 if number == 1 else 2):
                journal_writers.commit(live, 0, each)
                say("ack")
    with kept(directory, lambda: version(1), restored=True, **options) as (live, _):
        say("ready")
        journal_writers.commit(live, 0, 13)
        say("ack")
    with kept(directory, other_model, reset=True, **options):
        say("ready")


if __name__ == "__main__":
    configure_logs("error")
    leave_out(sys.argv[1])
    if sys.argv[2] == "starts":
        starts(Path(sys.argv[3]))
    else:
        journal_writers.main(Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
