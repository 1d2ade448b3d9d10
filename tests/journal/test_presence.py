"""A state whose files are deleted or replaced while it is open takes no more commits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, value_of
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import payloads as module
from varserve_service.journal.payloads import _CLOCK_TICK_NS as TICK

FOLDER = Path("models/fake/1")


def make() -> FakeModel:
    return FakeModel(
        [FakeVariable("v", np.zeros(3, np.float32)), FakeVariable("w", np.zeros(900, np.float32))]
    )


def write(live, number: int, variable: str = "v") -> None:
    shape = 3 if variable == "v" else 900
    live.assign([Write(variable, Operation.SET, np.full(shape, number, np.float32))])


def replace(path: Path) -> None:
    """Another file, or folder, of the same content in its place."""
    copy = path.with_name("copy")
    if path.is_dir():
        shutil.copytree(path, copy)
        shutil.rmtree(path)
    else:
        shutil.copy2(path, copy)
        path.unlink()
    copy.rename(path)


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


@pytest.mark.parametrize("variable", ["v", "w"], ids=["inline", "in a file"])
@pytest.mark.parametrize("done", [delete, replace, move])
@pytest.mark.parametrize(
    "what",
    [
        *(".", "lock", "models", FOLDER, FOLDER / "log.sqlite3", FOLDER / "log.sqlite3-wal"),
        *(FOLDER / "head", FOLDER / "payloads", FOLDER / "payloads/*"),
    ],
    ids=str,
)
def test_a_commit_is_refused_when_a_file_of_the_state_is_gone(
    tmp_path: Path, what: str | Path, done: Callable[[Path], None], variable: str
) -> None:
    """Nothing is acknowledged and nothing changes in memory; reads go on."""
    state = tmp_path / "state"
    with kept(state, make, inline_bytes=1000) as (live, _):
        write(live, 1)
        write(live, 2, "w")
        before = live.header
        (path,) = state.glob(str(what)) if str(what) != "." else (state,)
        done(path)
        for _ in range(2):
            with pytest.raises(RequestError) as caught:
                write(live, 3, variable)
            assert caught.value.reason is Reason.STATE_STORE_UNAVAILABLE
            assert str(tmp_path) not in caught.value.message
        assert live.header == before
        assert value_of(live, "v").tolist() == [1, 1, 1]
        assert value_of(live, "w").tolist() == [2] * 900


def test_a_state_that_is_put_back_takes_commits_again(tmp_path: Path) -> None:
    """What was refused meanwhile left nothing behind."""
    state = tmp_path / "state"
    with kept(state, make, inline_bytes=1000) as (live, _):
        write(live, 1)
        state.rename(tmp_path / "elsewhere")
        with pytest.raises(RequestError):
            write(live, 2, "w")
        (tmp_path / "elsewhere").rename(state)
        write(live, 3, "w")
    with kept(state, make) as (live, _):
        assert live.header.revision == 2
        assert value_of(live, "w").tolist() == [3] * 900


def test_files_of_others_among_the_payloads_stay(
    tmp_path: Path, log_lines: Callable[[], str]
) -> None:
    """A start removes what its own unfinished writes left, and leaves everything else alone.

    The log has both, where there is something.
    """
    with kept(tmp_path, make, inline_bytes=1000) as (live, _):
        write(live, 2, "w")
    said = log_lines()
    assert "did not write" not in said
    assert "unfinished writes" not in said
    payloads = tmp_path / FOLDER / "payloads"
    foreign = {"notes.txt", "model.safetensors", ".tmp", "backup"}
    for name in foreign - {"backup"}:
        (payloads / name).write_text("mine")
    (payloads / "backup").mkdir()
    own = {"0123456789abcdef.safetensors", ".tmpuQhDNS"}
    for name in own:
        (payloads / name).write_text("unfinished")
    (needed,) = {path.name for path in payloads.iterdir()} - foreign - own
    with kept(tmp_path, make) as (live, _):
        write(live, 3)
        assert {path.name for path in payloads.iterdir()} == foreign | {needed}
    said = log_lines()
    assert f'"number": {len(foreign)}' in said
    assert f'"files": {len(own)}' in said


def test_a_folder_that_changed_just_now_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change within a tick of the clock would not be seen at its time."""
    with kept(tmp_path, make, inline_bytes=1000) as (live, journal):
        write(live, 2, "w")
        changed = (tmp_path / FOLDER / "payloads").stat().st_mtime_ns
        for later, settled in ((0, False), (TICK, False), (TICK + 1, True)):
            clock = SimpleNamespace(time_ns=lambda later=later: changed + later)
            monkeypatch.setattr(module, "time", clock)
            journal._files.need([])
            assert journal._files.missing() == []
            assert journal._files._unchanged_since == (changed if settled else 0)
