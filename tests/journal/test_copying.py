"""A copy of a state has all of it, and its hash tells whatever is not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, value_of
from tests.journal.test_bounds import open_files
from varserve_service.core.arrays.patches import Elements
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import (
    CommitKind,
    CommitRecord,
    Origin,
    WriteRequest,
    WrittenBytes,
)
from varserve_service.core.ports.journal import KeptAnswer, KeptBase, KeptChange, KeptCommit
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read
from varserve_service.journal import JournalOptions, SqliteJournal
from varserve_service.journal.copying import answered, described, digest, fill_folder, open_folder
from varserve_service.journal.failures import StateUnavailable

FOLDER = Path("models/fake/1")


def make() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("v", np.zeros((4, 2), np.float32)),
            FakeVariable("word", np.array([b"a", b"bb"], object)),
        ]
    )


def put(live: LiveModel, number: int) -> Any:
    rows = Rows(np.array([number % 4]))
    writes = [
        Write("v", Operation.SET, np.full((1, 2), number, np.float32), rows),
        Write("v", Operation.ADD, np.ones((4, 1), np.float32), Slices((Slice(), Slice(1, 2)))),
    ]
    if number % 3 == 0:
        writes.append(Write("word", Operation.SET, np.array([b"", b"x" * number], object)))
    return live.assign(
        writes,
        request=WriteRequest(f"r{number}", b"f", "ann"),
        origin=Origin("ann", f"number {number}"),
        read_back=Read("v", rows),
    )


@contextmanager
def opened(folder: Path) -> Iterator[tuple[dict[str, Any], SqliteJournal]]:
    model, journal = open_folder(folder, JournalOptions())
    with closing(journal):
        yield model, journal


@pytest.mark.parametrize("inline_bytes", [0, 2**20])
def test_a_copy_is_the_same_and_goes_on(tmp_path: Path, inline_bytes: int) -> None:
    """Base, history, commits, answers and head; its values in files or inline."""
    bounds = {"history_commits": 99, "history_bytes": 4 * 40 + 9}
    with kept(tmp_path / "one", make, **bounds) as (live, journal):
        for number in range(1, 10):
            put(live, number)
        journal._compactor.compact()
        horizon = journal.horizon
        assert 0 < horizon < 9
        expected = live.header, value_of(live, "v").tolist(), live.timeline.commits(99).commits
    target = tmp_path / "two" / FOLDER
    with opened(tmp_path / "one" / FOLDER) as (model, source):
        answers = answered(source)
        assert answers == set(range(horizon + 1, 10))
        assert len(list(source.records())) == horizon
        fill_folder(target, model, source, JournalOptions(inline_bytes=inline_bytes))
        told = digest(source, answers)
    assert bool(list((target / "payloads").iterdir())) is (inline_bytes == 0)
    with opened(target) as (again, copied):
        assert (again, digest(copied, answers)) == (model, told)
        assert digest(copied, frozenset()) != told
    with kept(tmp_path / "two", make) as (live, _):
        assert (live.header, value_of(live, "v").tolist()) == expected[:2]
        assert live.timeline.commits(99).commits == expected[2]
        assert put(live, 9).header.revision == 9
        assert put(live, 10).header.revision == 10
    with kept(tmp_path / "two", make) as (live, _):
        assert live.header.revision == 10


@pytest.mark.parametrize(("inline_bytes", "files"), [(16, 0), (15, 1)])
def test_values_of_a_copy_are_inline_up_to_the_bound(
    tmp_path: Path, inline_bytes: int, files: int
) -> None:
    """All that a commit wrote counts together, however it was kept before."""
    with kept(tmp_path / "one", make) as (live, _):
        rows = Rows(np.array([2, 0]))
        live.assign([Write("v", Operation.SET, np.ones((2, 2), np.float32), rows)])
    target = tmp_path / "two" / FOLDER
    with opened(tmp_path / "one" / FOLDER) as (model, source):
        fill_folder(target, model, source, JournalOptions(inline_bytes=inline_bytes))
    assert len(list((target / "payloads").iterdir())) == files
    with kept(tmp_path / "two", make) as (live, _):
        assert value_of(live, "v").tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    """And what is no state is not copied."""
    with pytest.raises(JournalError, match="has no state"):
        described(tmp_path)
    with kept(tmp_path / "one", make) as (live, _):
        put(live, 1)
    folder = tmp_path / "one" / FOLDER
    with (
        opened(folder) as (model, source),
        pytest.raises(JournalError, match="exists: expected no state of this model there"),
    ):
        fill_folder(folder, model, source, JournalOptions())
    with opened(folder) as (_, journal), journal._database.writing() as connection:
        connection.execute("UPDATE state SET crc = crc + 1")
    with pytest.raises(JournalError, match="is damaged: row state"):
        described(folder)


def test_a_copy_leaves_nothing_open(tmp_path: Path) -> None:
    """Nobody holds its files when it is made: another process may take it up."""
    with kept(tmp_path / "one", make) as (live, _):
        put(live, 1)
    copy = tmp_path / "copy"
    with opened(tmp_path / "one" / FOLDER) as (model, source):
        fill_folder(copy, model, source, JournalOptions())
        assert open_files(copy) == []


def test_a_copy_that_fails_says_where_and_why(tmp_path: Path) -> None:
    """Where a file is in place of a folder, nothing can be looked at or made."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    cannot = f"{file}/two cannot be used: .*Not a directory"
    with pytest.raises(StateUnavailable, match=cannot):
        described(file / "two")
    with kept(tmp_path / "one", make) as (live, _):
        put(live, 1)
    with (
        opened(tmp_path / "one" / FOLDER) as (model, source),
        pytest.raises(StateUnavailable, match=cannot),
    ):
        fill_folder(file / "two", model, source, JournalOptions())


def test_a_log_without_a_model_is_no_state(tmp_path: Path) -> None:
    """It is told so, and its files are closed."""
    with kept(tmp_path, make):
        pass
    with opened(tmp_path / FOLDER) as (_, journal), journal._database.writing() as connection:
        connection.execute("DELETE FROM state")
    with pytest.raises(JournalError, match="has no state"):
        described(tmp_path / FOLDER)
    with kept(tmp_path, make) as (live, _):  # nobody has it open
        assert live.header.revision == 0


CHANGE = KeptChange("v", Rows(np.array([1])), np.ones((1, 2), np.float32))
REQUEST = WriteRequest("r", b"f", "ann")
COMMIT = KeptCommit(3, 5, CommitKind.ASSIGN, Origin("ann", "why"), REQUEST, (CHANGE,))
RECORD = CommitRecord(2, 4, CommitKind.RUN, Origin("bob", "why"), "r", (WrittenBytes("v", 8),))
ANSWER = KeptAnswer(3, 5, REQUEST, {"v": np.zeros(2, np.float32)})
WORDS = KeptChange("word", None, np.array([b"a", b"bc"], object))


def state(**more: Any) -> Any:
    """What a journal gives back."""
    given = {
        "base": [KeptBase(2, CHANGE)],
        "records": [RECORD],
        "commits": [COMMIT],
        "answers": [ANSWER],
    } | {key: value for key, value in more.items() if isinstance(value, list)}
    rest = {"epoch": "e", "horizon": 2} | {k: v for k, v in more.items() if k not in given}
    lists: dict[str, Callable[[], Any]] = {
        key: lambda value=value: iter(value) for key, value in given.items()
    }
    return SimpleNamespace(**lists, **rest)


def changed(**more: Any) -> list[KeptCommit]:
    return [replace(COMMIT, changes=(replace(CHANGE, **more),))]


@pytest.mark.parametrize(
    "different",
    [
        {"epoch": "f"},
        {"horizon": 1},
        {"base": []},
        {"base": [KeptBase(1, CHANGE)]},
        {"base": [KeptBase(2, replace(CHANGE, path="w"))]},
        {"records": []},
        {"records": [replace(RECORD, request_id="s")]},
        {"records": [replace(RECORD, writes=())]},
        {"commits": []},
        {"commits": [replace(COMMIT, revision=4)]},
        {"commits": [replace(COMMIT, time=6)]},
        {"commits": [replace(COMMIT, kind=CommitKind.REVERT)]},
        {"commits": [replace(COMMIT, origin=Origin("ann", "because"))]},
        {"commits": [replace(COMMIT, request=None)]},
        {"commits": changed(path="w")},
        {"commits": changed(part=Rows(np.array([0])))},
        {"commits": changed(part=None)},
        {"commits": changed(part=Elements(np.array([1])))},
        {"commits": changed(value=np.zeros((1, 2), np.float32))},
        {"commits": changed(value=np.ones((2, 1), np.float32))},
        {"commits": changed(value=np.ones((1, 2), np.int32))},
        {"commits": [replace(COMMIT, changes=(WORDS,))]},
        {"answers": []},
        {"answers": [replace(ANSWER, request=None)]},
        {"answers": [replace(ANSWER, values=None)]},
        {"answers": [replace(ANSWER, values={})]},
        {"answers": [replace(ANSWER, values={"w": np.zeros(2, np.float32)})]},
        {"answers": [replace(ANSWER, values={"v": np.ones(2, np.float32)})]},
    ],
    ids=str,
)
def test_whatever_is_different_has_another_hash(different: dict[str, Any]) -> None:
    """Each part of what a journal gives back is in it."""
    answers = frozenset({3})
    assert digest(state(), answers) == digest(state(), answers)
    assert digest(state(**different), answers) != digest(state(), answers)


def test_what_is_not_kept_by_both_is_not_in_the_hash() -> None:
    """Answers of commits without values, and when an answer was given."""
    assert answered(state()) == {3}
    assert answered(state(answers=[ANSWER, replace(ANSWER, revision=2)])) == {3}
    more = [replace(ANSWER, time=9), replace(ANSWER, revision=2)]
    assert digest(state(answers=more), frozenset({3})) == digest(state(), frozenset({3}))


def test_words_are_told_apart_by_where_they_end() -> None:
    """The same letters, cut elsewhere, are other words."""
    words = [replace(COMMIT, changes=(WORDS,))]
    value = np.array([b"ab", b"c"], object)
    other = [replace(COMMIT, changes=(replace(WORDS, value=value),))]
    assert digest(state(commits=words), frozenset()) != digest(state(commits=other), frozenset())
