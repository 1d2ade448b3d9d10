"""A state goes from a directory into a database and back, and is the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner, Result

from tests.core.test_live_model import ADD, SET, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.waiting import until
from varserve_service.command_line import main
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.messages import Read
from varserve_service.journal import JournalOptions, SqliteJournal, StateDirectory
from varserve_service.journal import copying as module
from varserve_service.journal.failures import StateUnavailable
from varserve_service.journal.postgres.copying import CopyingDatabase

OPTIONS: dict[str, Any] = {"history_commits": 20, "inline_bytes": 256}
COMMITS = 60


def made() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("a", np.zeros((4, 3), np.float32)),
            FakeVariable("large", np.zeros(500, np.float64)),
            FakeVariable("table", np.zeros((30, 2), np.int32), in_place=True),
            FakeVariable("word", np.array([b"a", b"bb"], object)),
        ]
    )


@contextmanager
def from_folder(path: Path) -> Iterator[tuple[LiveModel, SqliteJournal]]:
    """A service's model over a state directory."""
    with closing(StateDirectory(path, JournalOptions(**OPTIONS))) as directory:
        live, journal = directory.take_up(made, LiveModel)
        with closing(live):
            yield live, journal


def write_all_kinds(live: LiveModel) -> None:
    """More commits than are kept, so that there is a base and a history, too."""
    for n in range(COMMITS):
        writes = [
            Write("a", ADD, np.full((2, 3), n, np.float32), Rows(np.array([3, n % 3]))),
            Write(
                "table",
                SET,
                np.full((2, 1), n, np.int32),
                Slices((Slice(n % 8, n % 8 + 2), Slice(1, 2))),
            ),
        ]
        if n % 7 == 0:
            writes.append(Write("large", SET, np.full(500, n, np.float64)))
        if n % 5 == 0:
            writes.append(Write("word", SET, np.array([b"", b"x" * n], object)))
        live.assign(
            writes,
            request=WriteRequest(f"request {n}", b"f", "ann"),
            origin=Origin("ann", f"number {n}"),
            read_back=Read("a"),
        )


def seen(live: LiveModel) -> Any:
    """All that a caller can see of a state."""
    commits = live.timeline.commits(1000)
    names = ("a", "large", "table", "word")
    return (
        live.header,
        {name: value_of(live, name).tolist() for name in names},
        [(variable.spec.path, variable.revision) for variable in live.describe().variables],
        commits.commits,
    )


def again(live: LiveModel) -> Any:
    """The last write, sent once more."""
    answer = live.assign(
        [Write("a", ADD, np.ones((2, 3), np.float32), Rows(np.array([3, 0])))],
        request=WriteRequest(f"request {COMMITS - 1}", b"f", "ann"),
    )
    return answer.header.revision, answer.values["a"].numpy().tolist()


def copy(source: object, target: object) -> Result:
    return CliRunner().invoke(main, ["state", "copy", str(source), str(target)])


def test_a_state_is_copied_into_a_database_and_back(
    tmp_path: Path, database: str, replica: Start
) -> None:
    """Values of every kind, base, history, revisions, epoch, and answers to requests."""
    with from_folder(tmp_path / "first") as (first, journal):
        write_all_kinds(first)
        until(lambda: journal.horizon > 0)
    with from_folder(tmp_path / "first") as (first, _):
        expected, answered = seen(first), again(first)
    done = copy(tmp_path / "first", database)
    assert done.exit_code == 0, done.output
    assert f"revision {COMMITS}, sha256 " in done.output
    live, _ = replica(database, made, **OPTIONS)
    assert (seen(live), again(live)) == (expected, answered)
    live.assign([Write("a", SET, np.ones((4, 3), np.float32))])
    expected = seen(live)
    live.close()
    done = copy(database, tmp_path / "back")
    assert done.exit_code == 0, done.output
    with from_folder(tmp_path / "back") as (back, _):
        assert seen(back) == expected
        more = back.assign([Write("a", SET, np.zeros((4, 3), np.float32))])
        assert more.header.revision == COMMITS + 2


def test_a_copy_that_is_not_the_same_is_refused(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both hashes, and the exit code of a command that failed."""
    with from_folder(tmp_path / "state") as (live, _):
        live.assign([Write("a", SET, np.ones((4, 3), np.float32))])
    content: Callable[..., Any] = module.commit_content
    monkeypatch.setattr(
        "varserve_service.journal.postgres.copying.commit_content",
        lambda commit, changes: content(commit, changes) | {"message": "another"},
    )
    done = copy(tmp_path / "state", database)
    assert done.exit_code == 2
    assert "the copy has hash" in done.output


def test_what_is_there_already_is_not_overwritten(
    tmp_path: Path, database: str, replica: Start
) -> None:
    """Neither in a database nor in a directory; nor is a directory in use copied."""
    live, _ = replica(database, made)
    live.assign([Write("a", SET, np.ones((4, 3), np.float32))])
    with from_folder(tmp_path / "state"):
        for source, target, expected in (
            (tmp_path / "state", database, "is in use by another server"),
            (database, tmp_path / "state", "is in use by another server"),
            (tmp_path / "none", database, "is no state directory"),
            (database, "postgresql://nobody@127.0.0.1:1/none", "cannot be used"),
        ):
            done = copy(source, target)
            assert done.exit_code == 2
            assert expected in done.output
    for source, target, expected in (
        (tmp_path / "state", database, "the database has a state of model"),
        (database, tmp_path / "state", "exists: expected no state"),
    ):
        done = copy(source, target)
        assert done.exit_code == 2
        assert expected in done.output


def test_a_database_that_goes_while_it_is_copied(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of it, the command is told that it is away."""
    target = CopyingDatabase(database, JournalOptions())

    def away() -> None:
        raise psycopg.OperationalError("the server\n  has gone")

    monkeypatch.setattr(target._connector, "connect", away)
    source: Any = None
    for ask in (
        target.states,
        lambda: target.open("fake", 1, {}),
        lambda: target.fill("fake", 1, {}, source),
    ):
        with pytest.raises(StateUnavailable, match="cannot be used: the server has gone"):
            ask()


def test_a_copy_may_take_its_time(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends neither a statement of it nor its transaction while a value is read."""
    said: list[Any] = []

    def filling(connection: psycopg.Connection[Any], *_: object) -> None:
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            said.append(connection.execute(f"SHOW {setting}").fetchone())

    monkeypatch.setattr("varserve_service.journal.postgres.copying._fill", filling)
    source: Any = None
    CopyingDatabase(database, JournalOptions()).fill("fake", 1, {}, source)
    assert said == [("0",), ("0",)]
