"""Replicas that share a database: one order of commits, none lost, none twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import refusal, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Replica
from tests.postgres.server import Server
from tests.waiting import join, until
from varserve.tensors import DTYPES, numpy_dtype
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Conditions, Read
from varserve_service.journal import JournalOptions
from varserve_service.journal.failures import StateUnavailable
from varserve_service.journal.postgres import PostgresState, compaction, housekeeping
from varserve_service.journal.postgres.schema import FORMAT

SET, ADD = Operation.SET, Operation.ADD
Start = Callable[..., Replica]
WRITERS, WRITES = 6, 40


def make() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("count", np.zeros((), np.int64)),
            FakeVariable("table", np.zeros((6, 3), np.float32), in_place=True),
            FakeVariable("plain", np.zeros((6, 3), np.float32)),
        ]
    )


def add(live: LiveModel, **options: Any) -> Any:
    return live.assign([Write("count", ADD, np.ones((), np.int64))], **options)


def count(live: LiveModel) -> int:
    return int(value_of(live, "count"))


def some_writes(chance: random.Random) -> list[Write]:
    value = np.full((2, 3), chance.randrange(100), np.float32)
    rows = Rows(np.array(chance.sample(range(6), 2)))
    column = Slices((Slice(), Slice(1, 2)))
    return chance.choice(
        [
            [Write("table", SET, value, rows), Write("count", ADD, np.int64(1))],
            [Write("plain", ADD, value, rows)],
            [Write("plain", SET, np.full((6, 1), chance.randrange(100), np.float32), column)],
            [Write("table", SET, np.full((6, 1), chance.randrange(100), np.float32), column)],
            [Write("plain", SET, np.full((6, 3), chance.randrange(100), np.float32))],
        ]
    )


def state(live: LiveModel) -> Any:
    names = ("count", "table", "plain")
    revisions = [v.revision for v in live.describe().variables]
    return live.header, revisions, [value_of(live, name).tolist() for name in names]


def test_a_state_is_what_it_was_after_a_restart(database: str, replica: Start) -> None:
    """Values, revisions, epoch, history and request ids, of a replica that comes later."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    one, _ = replica(database, make)
    for number in range(30):
        one.assign(
            some_writes(chance),
            request=WriteRequest(f"r{number}", b""),
            origin=Origin("ann", f"number {number}"),
            read_back=Read("plain"),
        )
    expected = state(one)
    one.close()
    two, _ = replica(database, make)
    assert state(two) == expected
    assert two.timeline.commits(3).commits[0].origin == Origin("ann", "number 29")
    again = two.assign(some_writes(chance), request=WriteRequest("r29", b""))
    assert again.header.revision == 30
    assert again.values["plain"].numpy().tolist() == value_of(two, "plain").tolist()
    two.revert(0)
    assert not value_of(two, "table").any()


def empty(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if value.dtype.hasobject:
        return np.full(value.shape, b"", object)
    return np.zeros_like(value)


def test_every_dtype_comes_back(database: str, replica: Start) -> None:
    """To the last bit, at another replica and after a restart."""
    values = {
        dtype: np.array([[b"a\0", b""], [b"\xff", b"bb"]], object)
        if dtype == "string"
        else np.array([[0, 1], [1, 0]]).astype(numpy_dtype(dtype))
        for dtype in DTYPES
    }

    def every() -> FakeModel:
        return FakeModel([FakeVariable(dtype, empty(value)) for dtype, value in values.items()])

    one, _ = replica(database, every)
    two, _ = replica(database, every)
    one.assign([Write(dtype, SET, value) for dtype, value in values.items()])
    until(lambda: two.header.revision == 1)
    three, _ = replica(database, every)
    for live in (two, three):
        for dtype, value in values.items():
            assert value_of(live, dtype).tobytes() == value.tobytes() or dtype == "string"
            assert value_of(live, dtype).tolist() == value.tolist()


def test_writers_at_three_replicas_make_one_order(database: str, replica: Start) -> None:
    """No revision twice and no gap; every replica comes to the same bits, one that starts too."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    models = [replica(database, make)[0] for _ in range(3)]
    revisions: list[int] = []

    def write(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(WRITES):
            revisions.append(models[number % 3].assign(some_writes(chance)).header.revision)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    join(threads)
    total = WRITERS * WRITES
    assert sorted(revisions) == list(range(1, total + 1))
    until(lambda: {live.header.revision for live in models} == {total})
    late, _ = replica(database, make)
    assert [state(live) for live in models] == [state(late)] * 3
    page = late.timeline.commits(1000).commits
    assert [commit.revision for commit in page] == list(range(total, 0, -1))


def test_a_request_is_done_once_by_all_replicas(database: str, replica: Start) -> None:
    """Asked of three replicas at the same time, again and again: one commit, one answer."""
    models = [replica(database, make)[0] for _ in range(3)]
    answers: dict[int, set[int]] = {}

    def ask(live: LiveModel) -> None:
        for number in range(20):
            answer = add(live, request=WriteRequest(f"r{number}", b""), read_back=Read("count"))
            assert answer.values["count"].numpy() == answer.header.revision
            answers.setdefault(number, set()).add(answer.header.revision)

    threads = [threading.Thread(target=ask, args=(live,)) for live in models]
    for thread in threads:
        thread.start()
    join(threads)
    assert all(len(revisions) == 1 for revisions in answers.values())
    until(lambda: {count(live) for live in models} == {20})


def test_another_model_is_refused_with_what_differs(database: str, replica: Start) -> None:
    """The state stays, and the message has no password."""
    one, _ = replica(database, make)
    add(one)
    other = lambda: FakeModel([FakeVariable("count", np.zeros(2, np.int64))])  # noqa: E731
    address = database.replace("varserve@", "varserve:secret@")
    with pytest.raises(JournalError) as caught:
        PostgresState(address).take_up(other, LiveModel)
    assert "variable 'count': expected shape [], found [2]" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert add(one).header.revision == 2


def test_a_server_that_does_not_tell_its_timeline(
    database: str, replica: Start, server: Server
) -> None:
    """A role that may not ask for it serves all the same."""
    server.execute("CREATE ROLE kept_short LOGIN")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO kept_short")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC")
    one, _ = replica(database.replace("varserve@", "kept_short@"), make)
    assert add(one).header.revision == 1


def test_a_database_that_is_not_there_is_named(server: Server) -> None:
    """Host, port and database, and no suggestion that the state is damaged."""
    missing = server.address.removesuffix("postgres") + "missing"
    with pytest.raises(JournalError, match=r'database missing cannot be used.*"missing"'):
        PostgresState(missing)
    with pytest.raises(JournalError, match="cannot be read"):
        PostgresState("postgresql://a b")


def test_a_database_that_goes_before_a_state_is_taken_up(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named as what is away, and the state is not called refused."""
    state = PostgresState(database)

    def away() -> None:
        raise psycopg.OperationalError("the server\n  has gone")

    monkeypatch.setattr(state._connector, "connect", away)
    with pytest.raises(StateUnavailable, match=r"cannot be used: the server has gone$"):
        state.take_up(make, LiveModel)


def test_a_database_of_another_format_is_refused(
    database: str, replica: Start, server: Server
) -> None:
    """The format is read before any other table."""
    replica(database, make)[0].close()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE varserve_format SET format = 99")
        connection.execute("DROP TABLE varserve_log")
    with pytest.raises(
        JournalError, match=f"format 99, expected at most {FORMAT}: a newer version"
    ):
        PostgresState(database)


def test_replicas_that_start_together_make_the_tables_once(database: str) -> None:
    """None of them fails."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        try:
            barrier.wait(30)
            PostgresState(database)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    join(threads)
    assert failures == []


def test_a_commit_that_is_too_large_is_refused_alone(database: str, replica: Start) -> None:
    """With both numbers and the setting, and nothing of it done."""
    one, _ = replica(database, make, commit_bytes=72)
    plain = Write("plain", SET, np.ones((6, 3), np.float32))
    error = refusal(one.assign, [plain, Write("count", SET, np.int64(7))])
    assert error.reason is Reason.VALUE_TOO_LARGE
    assert "at most 72 bytes, the setting state_commit_bytes" in error.message
    assert "found 80" in error.message
    assert value_of(one, "plain").sum() == 0
    assert add(one).header.revision == 1
    assert one.assign([plain]).header.revision == 2


def test_compaction_leaves_the_state_and_the_records(database: str, replica: Start) -> None:
    """The log is bounded, replicas follow through it, and a new one begins behind it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = {"history_commits": 10}
    one, journal = replica(database, make, **options)
    two, _ = replica(database, make, **options)
    for number in range(1, 41):
        (one if number % 2 else two).assign(some_writes(chance))
        if number % 15 == 0:
            journal.compact()
    journal.compact()
    until(lambda: one.header.revision == two.header.revision == 40)
    with psycopg.connect(database) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM varserve_log").fetchone() or ()
    assert rows == 10
    late, late_journal = replica(database, make, **options)
    assert late_journal.horizon == 30
    assert state(one) == state(two) == state(late)
    late.assign(some_writes(chance))
    until(lambda: one.header.revision == 41)
    assert state(one) == state(late)


@pytest.mark.parametrize("bound", [{"history_commits": 10}, {"history_bytes": 80}])
def test_compaction_is_due_a_tenth_beyond_each_bound(
    database: str, replica: Start, bound: dict[str, int]
) -> None:
    """Not at the tenth itself; afterwards it is not due any more."""
    one, journal = replica(database, make, **bound)
    options = JournalOptions(**bound)
    with psycopg.connect(database, autocommit=True) as connection:

        def due() -> bool:
            return compaction.is_due(connection, ("fake", 1), options)

        for _ in range(11):
            add(one)
        assert not due()
        add(one)
        assert due()
        journal.compact()
        assert not due()
    late, late_journal = replica(database, make, **bound)
    assert (late_journal.horizon, count(late)) == (2, 12)


def test_the_record_of_every_commit_stays_when_values_go(database: str, replica: Start) -> None:
    """By count alone: values are bounded by their bytes, in the log of all replicas too."""
    options = {"history_commits": 8, "history_bytes": 300}
    one, journal = replica(database, make, **options)
    for number in range(1, 13):
        one.assign(
            [Write("plain", SET, np.full((6, 3), number, np.float32))],
            origin=Origin("ann", f"number {number}"),
        )
    journal.compact()
    late, late_journal = replica(database, make, **options)
    assert late_journal.horizon > 4
    listed = list(late.timeline.commits(100).commits)
    assert listed == list(one.timeline.commits(len(listed)).commits)
    assert [(c.revision, c.origin.message) for c in listed] == [
        (number, f"number {number}") for number in range(12, 4, -1)
    ]


def test_a_compaction_that_fails_changes_nothing(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, all of the log, the base and the records are as they were."""
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 1e9)  # or it compacts beside the test
    one, journal = replica(database, make, history_commits=9, history_bytes=40)
    for _ in range(8):
        add(one)

    def tables() -> list[Any]:
        with psycopg.connect(database) as connection:
            return [
                connection.execute(f"SELECT * FROM varserve_{table} ORDER BY 1, 2, 3").fetchall()
                for table in ("head", "log", "base", "history")
            ]

    before = tables()
    for name in ("_read", "_fold", "_keep_records", "_replace_base", "_move_horizon"):
        step = getattr(compaction, name)

        def fails(*arguments: Any, step: Any = step) -> None:
            step(*arguments)
            raise JournalError("it ends here")

        with monkeypatch.context() as failing:
            failing.setattr(compaction, name, fails)
            with pytest.raises(JournalError, match="it ends here"):
                journal.compact()
        assert tables() == before
    journal.compact()
    assert tables() != before
    late, late_journal = replica(database, make)
    assert (count(late), late_journal.horizon) == (8, 3)


def test_a_turn_that_appends_nothing_leaves_the_connection_alone(
    database: str, replica: Start
) -> None:
    """The thread that keeps a turn awake has nothing to do after it, whatever became of it."""
    one, journal = replica(database, make)
    guard = journal._appender._guard
    assert add(one).header.revision == 1
    assert guard._ping_at == float("inf")
    error = refusal(add, one, conditions=Conditions(model_revision=7))
    assert error.reason is Reason.REVISION_MISMATCH
    assert guard._ping_at == float("inf")


def test_a_replica_that_is_closed_leaves_nothing_behind(
    database: str, replica: Start, server: Server
) -> None:
    """No thread and no connection, also of one whose model could not be taken up."""
    threads = {thread.name for thread in threading.enumerate()}
    connections = "SELECT pid FROM pg_stat_activity WHERE application_name = 'varserve'"
    one, _ = replica(database, make)
    add(one)
    one.close()

    def failing(loaded: FakeModel, **options: Any) -> LiveModel:
        LiveModel(loaded, **options)
        raise MemoryError("no room for what comes next")

    with pytest.raises(MemoryError):
        PostgresState(database).take_up(make, failing)
    until(lambda: {thread.name for thread in threading.enumerate()} <= threads)
    until(lambda: not server.execute(connections))
