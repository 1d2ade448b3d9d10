"""What is at a bound, and beyond it; what a start and a close leave open; when work is due."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused, value_of
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read
from varserve_service.journal import SqliteJournal, compaction
from varserve_service.journal.compaction import Compactor

FOLDER = Path("models/fake/1")


def make() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(4, np.float32))])


def write(live: LiveModel, number: float, **options: Any) -> Any:
    value = np.full(4, number, np.float32)
    return live.assign([Write("v", Operation.SET, value)], **options)


def payloads(path: Path) -> int:
    return len(list((path / FOLDER / "payloads").iterdir()))


def open_files(path: Path) -> list[str]:
    """What this process has open of a state directory."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(target) for link in links if str(target := link.readlink()).startswith(str(path))]


@pytest.mark.parametrize(("bound", "files"), [(16, 0), (15, 1)])
def test_values_are_inline_up_to_the_bound(tmp_path: Path, bound: int, files: int) -> None:
    """The bytes of all that a commit writes count; one more makes a file of them."""
    with kept(tmp_path, make, inline_bytes=bound, history_commits=1) as (live, journal):
        write(live, 1)
        assert payloads(tmp_path) == files
        write(live, 2)
        journal._compactor.compact()
        assert (journal.horizon, payloads(tmp_path)) == (1, 2 * files)  # of the base, too
    with kept(tmp_path, make) as (live, _):
        assert value_of(live, "v").tolist() == [2] * 4


@pytest.mark.parametrize(("bound", "known"), [(16, True), (15, False)])
def test_answers_are_kept_up_to_the_bound(tmp_path: Path, bound: int, known: bool) -> None:
    """Of a larger one it is kept that its write was done."""
    request = WriteRequest("r", b"")
    with kept(tmp_path, make, answer_bytes=bound) as (live, _):
        write(live, 1, request=request, read_back=Read("v"))
    with kept(tmp_path, make, answer_bytes=bound) as (live, _):
        if known:
            answer = write(live, 2, request=request, read_back=Read("v"))
            assert answer.values["v"].numpy().tolist() == [1] * 4
        else:
            with pytest.raises(RequestError) as caught:
                write(live, 2, request=request, read_back=Read("v"))
            assert caught.value.reason is Reason.ANSWER_NOT_KEPT
        assert live.header.revision == 1


def test_a_close_leaves_nothing_open(tmp_path: Path) -> None:
    """No file of the state and no thread, whether the state was taken up or refused."""
    threads = set(threading.enumerate())
    with kept(tmp_path, make, inline_bytes=1) as (live, _):
        write(live, 1)
        assert len(open_files(tmp_path)) >= 4
        assert set(threading.enumerate()) - threads
    assert (open_files(tmp_path), set(threading.enumerate()) - threads) == ([], set())
    refused(tmp_path, lambda: FakeModel([FakeVariable("other", np.zeros(2, np.float32))]))
    assert open_files(tmp_path) == []


def test_a_start_acknowledges_what_it_finds(tmp_path: Path) -> None:
    """A commit that was durable when a crash came is told of from then on: it is not lost later."""
    with kept(tmp_path, make) as (live, _):
        for number in range(3):
            write(live, number)
    head = tmp_path / FOLDER / "head"
    told = head.read_bytes()
    with kept(tmp_path / "other", make) as (live, _):
        write(live, 1)
    head.write_bytes((tmp_path / "other" / FOLDER / "head").read_bytes())
    assert struct.unpack("<Q", head.read_bytes()[:8]) == (1,)
    with kept(tmp_path, make) as (live, _):
        assert live.header.revision == 3
        assert head.read_bytes() == told


def test_the_log_is_emptied_after_so_many_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread itself; the count begins anew then."""
    monkeypatch.setattr(compaction, "_CHECKPOINT_COMMITS", 3)
    wal = tmp_path / FOLDER / "log.sqlite3-wal"
    with kept(tmp_path, make) as (live, journal):
        for number in range(2):
            write(live, number)
        assert wal.stat().st_size
        assert not journal._compactor.is_due()
        write(live, 2)
        until(lambda: not wal.stat().st_size)
        until(lambda: not journal._compactor.is_due())
        write(live, 3)
        write(live, 4)
        assert not journal._compactor.is_due()
        assert wal.stat().st_size
    with kept(tmp_path, make) as (live, _):
        assert value_of(live, "v").tolist() == [4] * 4


def test_a_start_compacts_what_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another commit: the bounds may have become smaller."""
    with monkeypatch.context() as sleeping:
        sleeping.setattr(Compactor, "wake_when_due", lambda compactor: None)
        with kept(tmp_path, make) as (live, _):
            for number in range(9):
                write(live, number)
    with kept(tmp_path, make, history_commits=2) as (live, journal):
        until(lambda: journal.horizon == 7)
        assert value_of(live, "v").tolist() == [8] * 4


def test_a_compaction_runs_once_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits for the next commit then, whether it changed anything or not."""
    with kept(tmp_path, make) as (_, journal):
        compactor, runs = journal._compactor, []
        monkeypatch.setattr(compactor, "compact", lambda: runs.append(compactor._due.is_set()))
        for number in (1, 2):
            compactor._due.set()
            until(lambda number=number: len(runs) == number)
        assert runs == [False, False]


def test_where_a_state_is_before_it_is_read(tmp_path: Path) -> None:
    """At its horizon; after its commits at the last of them."""
    positions: list[int] = []

    def making(loaded: FakeModel, *, journal: SqliteJournal) -> LiveModel:
        positions.append(journal.position.revision)
        return LiveModel(loaded, journal=journal)

    with kept(tmp_path, make, history_commits=1) as (live, journal):
        for number in range(3):
            write(live, number)
        journal._compactor.compact()
    with kept(tmp_path, make, live=making) as (_, journal):
        assert (positions, journal.position.revision) == ([2], 3)


def test_a_close_waits_for_the_compaction_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are closed after it, and it is not broken off."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    compact = Compactor.compact

    def slowly(compactor: Compactor) -> None:
        begun.set()
        assert go_on.wait(30)
        compact(compactor)
        done.set()

    monkeypatch.setattr(Compactor, "compact", slowly)
    state = kept(tmp_path, make, history_commits=2)
    live, journal = state.__enter__()
    for number in range(4):
        write(live, number)
    assert begun.wait(30)
    closing = threading.Thread(target=lambda: state.__exit__(None, None, None))
    closing.start()
    until(lambda: journal._compactor._stopped)
    assert closing.is_alive()
    go_on.set()
    join([closing])
    assert done.is_set()
    with kept(tmp_path, make, history_commits=2) as (again, after):
        assert (after.horizon, again.header.revision) == (2, 4)


def test_answers_stay_for_their_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the second, by the wall clock of the commit."""
    now = 10**18
    monkeypatch.setattr(compaction.time, "time_ns", lambda: now)
    with kept(tmp_path, make, answer_age=60.0) as (live, journal):
        write(live, 1, request=WriteRequest("r", b""))

        def left() -> int:
            journal._compactor.compact()
            with journal._database.reading() as connection:
                (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
            return int(count)

        given = 10**18
        now = given + 60 * 10**9
        assert left() == 1
        now += 1
        assert left() == 0
