"""What fails leaves nothing behind: no payload file, no open descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.journal.kept import kept, value_of
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, RequestError, StateStoreFull
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Conditions
from varserve_service.journal import StateDirectory
from varserve_service.journal import journal as journal_module
from varserve_service.journal import payloads as payloads_module

PAYLOADS = Path("models/fake/1/payloads")
SIZE = 1000
VECTOR = TensorSpec("float32", (None,))


def make() -> FakeModel:
    v = FakeVariable("v", np.zeros(SIZE, np.float32))

    def step(x: Any) -> dict[str, Any]:
        v.array = x
        return {}

    return FakeModel([v], [FakeFunction("step", step, inputs={"x": VECTOR}, writes=("v",))])


def put(live: LiveModel, number: float, **options: Any) -> Any:
    """A commit whose value is staged in a file before the lock is taken."""
    value = np.full(SIZE, number, np.float32)
    return live.assign([Write("v", Operation.SET, value)], **options)


def run(live: LiveModel, number: float) -> Any:
    """A commit whose value is known, and written to a file, while the lock is held."""
    return live.run("step", {"x": np.full(SIZE, number, np.float32)}, {})


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / PAYLOADS).iterdir()}


def descriptors() -> set[str]:
    """What this process has open, by name."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.add(f"{entry.name} {Path(entry.path).readlink()}")
        except OSError:  # of the folder that is listed here
            continue
    return found


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


def failing_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "serialize_file", full)


def failing_after_some_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(specs: object, path: Path) -> None:
        path.write_bytes(b"half")
        full()

    monkeypatch.setattr(payloads_module, "serialize_file", half)


def failing_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module.os, "fsync", full)


def failing_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "sync_folder", full)


def failing_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, database: Any) -> None:
            self._database = database

        def __getattr__(self, name: str) -> Any:
            return getattr(self._database, name)

        def writing(self) -> Any:
            raise StateStoreFull("no room")

    append = journal_module.SqliteJournal.append

    def refused(journal: Any, entries: Any) -> None:
        database, journal._database = journal._database, Refusing(journal._database)
        try:
            append(journal, entries)
        finally:
            journal._database = database

    monkeypatch.setattr(journal_module.SqliteJournal, "append", refused)


@pytest.mark.parametrize(
    "fail",
    [failing_write, failing_after_some_bytes, failing_sync, failing_folder, failing_log],
)
@pytest.mark.parametrize("write", [put, run])
def test_a_write_that_the_disk_refuses_leaves_no_file(
    write: Callable[..., Any],
    fail: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it fails, the files are those before and nothing is open; the next write is made."""
    with kept(tmp_path, make, inline_bytes=100) as (live, _):
        write(live, 1)
        before, opened = files(tmp_path), descriptors()
        assert before
        with monkeypatch.context() as broken:
            fail(broken)
            for _ in range(3):
                with pytest.raises(RequestError) as caught:
                    write(live, 2)
                assert caught.value.reason is Reason.STATE_STORE_FULL
        assert (files(tmp_path), descriptors()) == (before, opened)
        assert value_of(live, "v").tolist() == [1] * SIZE
        write(live, 1)
        assert live.header.revision == 2
        assert len(files(tmp_path)) > len(before)


def test_a_write_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    """Its value may have been on disk already when a condition failed, or its time was over."""
    with kept(tmp_path, make, inline_bytes=100) as (live, _):
        put(live, 1)
        before, opened = files(tmp_path), descriptors()
        for options in ({"conditions": Conditions(model_revision=7)}, {"deadline": 0.0}):
            with pytest.raises(RequestError):
                put(live, 2, **options)
        assert (files(tmp_path), descriptors()) == (before, opened)


@pytest.mark.parametrize("damaged", ["head", "payloads"])
def test_a_start_that_is_refused_leaves_nothing_open(tmp_path: Path, damaged: str) -> None:
    """Every descriptor is closed and the directory is free again.

    A damaged log is another matter: it stays open, because closing it could repair it.
    """
    with kept(tmp_path, make, inline_bytes=100) as (live, _):
        put(live, 1)
    target = tmp_path / PAYLOADS.parent / damaged
    for path in target.iterdir() if target.is_dir() else [target]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    opened = descriptors()
    for _ in range(2):
        with pytest.raises(JournalError, match="damaged"), kept(tmp_path, make):
            pass
        assert descriptors() == opened
    StateDirectory(tmp_path).close()
    assert descriptors() == opened
