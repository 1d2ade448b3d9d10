"""Values that are too large for a row.

They go in chunks, before the lock is taken, and are swept when no commit keeps them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner

import varserve
from tests.conftest import Serve
from tests.core.test_live_model import ADD, SET, refusal, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres import stager as script
from tests.postgres.conftest import Start
from tests.waiting import join, until
from varserve_service.command_line import main
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.postgres import PostgresState, appending, blobs, compaction
from varserve_service.journal.postgres import journal as module
from varserve_service.journal.postgres.blobs import BlobReader, BlobWriter
from varserve_service.journal.postgres.schema import prepare
from varserve_service.journal.postgres.staging import Stager

MIB = 2**20
LARGE = 2 * MIB // 4 + 3
"""Elements of a value that takes two chunks and a bit."""


def made(size: int = LARGE) -> FakeModel:
    return FakeModel(
        [
            FakeVariable("large", np.zeros(size, np.float32)),
            FakeVariable("table", np.zeros((300, 1024), np.float32), in_place=True),
            FakeVariable("count", np.zeros((), np.int64)),
        ]
    )


def put(live: LiveModel, number: float, **options: Any) -> int:
    shape = value_of(live, "large").shape
    writes = [Write("large", SET, np.full(shape, number, np.float32))]
    return live.assign(writes, **options).header.revision


def add(live: LiveModel) -> int:
    return live.assign([Write("count", ADD, np.ones((), np.int64))]).header.revision


def asked(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def kept(database: str) -> list[tuple[Any, ...]]:
    """The revisions of all blobs."""
    return [r for (r,) in asked(database, "SELECT revision FROM varserve_blob ORDER BY revision")]


def chunks(database: str) -> int:
    return int(asked(database, "SELECT count(*) FROM varserve_chunk")[0][0])


def same(*lives: LiveModel) -> None:
    until(lambda: len({live.header.revision for live in lives}) == 1)
    for name in ("large", "table", "count"):
        assert len({value_of(live, name).tobytes() for live in lives}) == 1


@pytest.mark.slow
def test_a_value_of_80_mib_is_at_every_replica(database: str, replica: Start) -> None:
    """To the last bit: at one that follows, one that starts, one that starts after compaction.

    No row is larger than a chunk, and the log's has none of the bytes.
    """
    chance = np.random.default_rng(7)
    value = chance.integers(0, 2**32, 20 * MIB, np.uint32).view(np.float32)
    make = lambda: made(len(value))  # noqa: E731
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, make, **options)
    two, _ = replica(database, make, **options)
    one.assign([Write("large", SET, value.copy())])
    until(lambda: two.header.revision == 1, seconds=60)
    assert value_of(two, "large").tobytes() == value.tobytes()
    sizes = asked(database, "SELECT octet_length(data) FROM varserve_chunk")
    assert sizes == [(MIB,)] * 80
    ((in_the_row,),) = asked(database, "SELECT octet_length(payload) FROM varserve_log")
    assert in_the_row == 0
    late, _ = replica(database, make)
    assert value_of(late, "large").tobytes() == value.tobytes()
    late.close()
    add(two)
    before = asked(database, "SELECT blob FROM varserve_blob")
    journal.compact()
    assert journal.horizon == 0  # as it was when this replica began
    assert asked(database, "SELECT horizon FROM varserve_head") == [(1,)]
    assert asked(database, "SELECT blob FROM varserve_blob") == before  # not written once more
    late, late_journal = replica(database, make)
    assert late_journal.horizon == 1
    assert value_of(late, "large").tobytes() == value.tobytes()
    same(one, two, late)


@pytest.mark.full
def test_services_share_a_value_of_80_mib(serve: Serve, database: str) -> None:
    """Real ones: pushed to one, read at the other, and at one that starts after SIGKILL of both."""
    value = np.random.default_rng(7).random((80, 262_144), np.float32)
    flags = ("--state", database)
    with serve("large_80", arguments=flags) as one, serve("large_80", arguments=flags) as two:
        with varserve.connect(one.address) as first, varserve.connect(two.address) as second:
            commit = first.model("large_80").variables["big"].assign(value)
            model = second.model("large_80")
            model.see(commit)
            assert model.variables["big"].numpy().tobytes() == value.tobytes()
        for service in (one, two):
            os.kill(service.pid, signal.SIGKILL)
            service.process.wait(60)
    with serve("large_80", arguments=flags) as late, varserve.connect(late.address) as client:
        assert client.model("large_80").variables["big"].numpy().tobytes() == value.tobytes()
    flags = (*flags, "--state-commit-bytes", str(80 * MIB - 1))
    with (
        serve("large_80", arguments=flags) as small,
        varserve.connect(small.address) as client,
        pytest.raises(varserve.ValueTooLarge),
    ):
        client.model("large_80").variables["big"].assign(value)
    assert chunks(database) == 80


def test_nobody_waits_while_chunks_travel(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica, and the same one, commit between two chunks of a value that is staged."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    travels, go_on = threading.Event(), threading.Event()
    check = BlobWriter.write

    def slowly(writer: BlobWriter, values: Any, revision: Any) -> Any:
        def pause() -> None:
            if chunks_so_far:
                travels.set()
                assert go_on.wait(60)
            chunks_so_far.append(1)

        chunks_so_far: list[int] = []
        writer._check = pause
        return check(writer, values, revision)

    monkeypatch.setattr(BlobWriter, "write", slowly)
    writing = threading.Thread(target=put, args=(one, 7))
    writing.start()
    assert travels.wait(60)
    assert [add(two), add(one)] == [1, 2]
    go_on.set()
    join([writing])
    same(one, two)
    assert (value_of(two, "large")[-1], one.header.revision) == (7, 3)


def test_a_crash_between_staging_and_commit_leaves_no_value(database: str, replica: Start) -> None:
    """The chunks of a process that was killed there are there, name nothing, and are swept."""
    died = subprocess.run(
        [sys.executable, "-m", script.__name__, database], timeout=120, check=False
    )
    assert died.returncode == -9
    assert (kept(database), chunks(database)) == ([None], 3)
    one, journal = replica(database, made)
    assert (one.header.revision, value_of(one, "large").sum()) == (0, 0)
    assert journal.sweep(3600) == 0
    assert chunks(database) == 3
    assert journal.sweep(0) == 1
    assert (kept(database), chunks(database)) == ([], 0)
    assert put(one, 7) == 1


def test_housekeeping_sweeps_what_is_old(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, after the seconds that a value may be staged."""
    monkeypatch.setattr("varserve_service.journal.postgres.housekeeping._LOOK_SECONDS", 0.1)
    _, journal = replica(database, made)
    journal.stage({"large": HostValue(np.ones(LARGE, np.float32))}, None)
    assert (kept(database), chunks(database)) == ([None], 3)
    replica(database, made, blob_seconds=0.0)
    until(lambda: chunks(database) == 0)


def seeded_sweep(connection: Any, key: Any, seconds: float, staged: Any = None) -> int:
    """Looks which blobs nobody keeps, and removes them, without the lock."""
    rows = connection.execute(
        "SELECT blob FROM varserve_blob WHERE revision IS NULL AND model = %s AND version = %s", key
    ).fetchall()
    blobs.drop(connection, key, [row[0] for row in rows])
    blobs.remove_chunks(connection, key)
    return len(rows)


def lost_by(
    sweep: Callable[..., int], database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int, str]:
    """Commits beside a sweep of all that is staged: acknowledged, refused, and what was lost."""
    monkeypatch.setattr(blobs, "sweep", sweep)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    one, journal = replica(database, made)
    done, chance = threading.Event(), random.Random(seed)

    def sweeping() -> None:
        while not done.wait(chance.random() / 500):
            journal.sweep(0)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    acknowledged, refused, lost = 0, 0, ""
    try:
        while acknowledged < (8 if refused else 100) and refused < 1000 and not lost:
            try:
                put(one, acknowledged)
            except RequestError as error:
                if "swept; nothing was changed; retry" not in error.message:
                    raise
                refused += 1
                continue
            acknowledged += 1
            try:
                late = PostgresState(database).take_up(made, LiveModel)[0]
            except JournalError as error:
                lost = str(error)
            else:
                assert (value_of(late, "large") == acknowledged - 1).all()
                late.close()
    finally:
        done.set()
        join([sweeper])
    return acknowledged, refused, lost


@pytest.mark.slow
def test_a_sweep_takes_nothing_of_a_commit_that_comes_through(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the moment: either the commit is refused, or all of its chunks stay."""
    acknowledged, refused, lost = lost_by(blobs.sweep, database, replica, monkeypatch)
    assert lost == ""
    assert acknowledged >= 8
    assert refused > 0


def test_a_sweep_without_the_lock_is_found(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above finds it when chunks of a commit are gone."""
    *_, lost = lost_by(seeded_sweep, database, replica, monkeypatch)
    assert "is not in the database" in lost


def test_what_was_staged_for_nothing_is_removed(database: str, replica: Start) -> None:
    """At once, of a commit that was refused; a repeated request stages nothing."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    add(one)
    writes = [Write("large", SET, np.ones(LARGE, np.float32), if_revision_match=7)]
    assert refusal(one.assign, writes).reason is Reason.REVISION_MISMATCH
    until(lambda: chunks(database) == 0)
    assert kept(database) == []
    request = WriteRequest("r", b"")
    assert put(one, 7, request=request) == 2
    same(one, two)
    assert (put(one, 7, request=request), put(two, 7, request=request)) == (2, 2)
    assert kept(database) == [2]
    assert value_of(two, "large")[0] == 7


def test_values_that_were_overtaken_go_with_their_commit(database: str, replica: Start) -> None:
    """Adding at two replicas at once: what was staged is not the result, which is kept instead."""
    models = [replica(database, made)[0] for _ in range(2)]

    def adding(live: LiveModel) -> None:
        for _ in range(5):
            live.assign([Write("large", ADD, np.ones(LARGE, np.float32))])

    threads = [threading.Thread(target=adding, args=(live,)) for live in models]
    for thread in threads:
        thread.start()
    join(threads)
    late, _ = replica(database, made)
    same(*models, late)
    assert (value_of(late, "large") == 10).all()
    until(lambda: kept(database) == list(range(1, 11)))
    until(lambda: chunks(database) == 30)


def test_many_small_values_share_a_blob(database: str, replica: Start) -> None:
    """Of every kind, with the rows that were written: strings, bytes of odd lengths, nothing."""
    values = {
        "bytes": np.arange(700_001, dtype=np.uint8),
        "doubles": np.arange(90_001, dtype=np.float64),
        "empty": np.zeros(0, np.float32),
        "words": np.array([b"x" * 300_000, b"", b"\0\xff"], object),
        "one": np.array(7, np.int16),
    }

    def every() -> FakeModel:
        empty = {
            name: np.full(value.shape, b"", object)
            if value.dtype.hasobject
            else np.zeros_like(value)
            for name, value in values.items()
        }
        variables = [FakeVariable(name, value) for name, value in empty.items()]
        table = np.zeros((200_000, 1), np.int8)
        return FakeModel([*variables, FakeVariable("rows", table, in_place=True)])

    one, _ = replica(database, every)
    two, _ = replica(database, every)
    one.assign([Write(name, SET, value.copy()) for name, value in values.items()])
    assert (kept(database), chunks(database)) == ([1], 2)
    # The indices take eight times the bytes of the rows.
    rows = Rows(np.arange(199_999, 0, -1))
    one.assign([Write("rows", SET, np.ones((199_999, 1), np.int8), rows)])
    assert kept(database) == [1, 2, 2]
    late, _ = replica(database, every)
    until(lambda: two.header.revision == 2)
    for live in (two, late):
        for name, value in values.items():
            assert value_of(live, name).tolist() == value.tolist()
        assert value_of(live, "rows").sum() == 199_999


def test_large_parts_are_folded_into_the_base(database: str, replica: Start) -> None:
    """Over a large base, over what the SavedModel had, and again; no chunk is left over."""
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, made, **options)
    column = Slices((Slice(), Slice(3, 903)))
    for number in range(1, 4):
        one.assign(
            [Write("table", SET, np.full((299, 1024), number, np.float32), Rows(np.arange(299)))]
        )
        one.assign([Write("table", ADD, np.full((300, 900), 0.5, np.float32), column)])
        put(one, number)
        one.assign([Write("large", ADD, np.ones(1, np.float32), Slices((Slice(5, 6),)))])
        journal.compact()
        late, late_journal = replica(database, made)
        assert late_journal.horizon == one.header.revision - 1
        same(one, late)
        late.close()
    # In the base: one of a whole value, one of elements, one of their indices.
    until(lambda: len(kept(database)) == 3)
    named = asked(database, "SELECT sum(chunks)::int FROM varserve_blob")[0][0]
    until(lambda: chunks(database) == named)


def test_compaction_does_not_hold_the_lock_while_it_folds(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others commit meanwhile; of two that fold at once one has no effect and leaves nothing."""
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, made, **options)
    two, other = replica(database, made, **options)
    put(one, 1)
    one.assign([Write("large", ADD, np.ones(1, np.float32), Slices((Slice(5, 6),)))])
    put(one, 2)
    fold, revisions = compaction._fold, []

    def folding(*arguments: Any) -> Any:
        base = fold(*arguments)
        with monkeypatch.context() as unpatched:
            unpatched.setattr(compaction, "_fold", fold)
            revisions.append(add(two))
            other.compact()
        return base

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_fold", folding)
        journal.compact()
    assert revisions[0] == 4
    late, late_journal = replica(database, made)
    assert late_journal.horizon == 3
    same(one, two, late)
    assert kept(database) == [3]  # the base names the last one
    until(lambda: chunks(database) == 3)


def test_a_large_value_stays_in_the_log_for_a_while(database: str, replica: Start) -> None:
    """So that a replica which is busy can follow, whatever the log's bounds."""
    one, journal = replica(database, made, history_bytes=MIB, blob_seconds=3600.0)
    put(one, 1)
    journal.compact()
    assert asked(database, "SELECT horizon FROM varserve_head") == [(0,)]
    late, late_journal = replica(database, made, history_bytes=MIB, blob_seconds=0.0)
    late_journal.compact()
    assert asked(database, "SELECT horizon FROM varserve_head") == [(1,)]
    same(one, late)


def test_a_writer_that_is_behind_reads_without_the_lock(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it missed is large: others commit while it reads that, and then it commits, too."""
    monkeypatch.setattr(appending, "_LOCKED_BYTES", MIB)
    one, _ = replica(database, made)
    monkeypatch.setattr(module.Listener, "news", lambda *_: threading.Event().wait(0.1) and [])
    two, _ = replica(database, made)
    put(one, 7)
    read, reads = BlobReader.read, []

    def reading(reader: BlobReader, record: Any, payload: bytes) -> Any:
        # Not where the other replica reads what it has just written.
        if "blob" in record and threading.current_thread() is threading.main_thread():
            reads.append(add(one))
        return read(reader, record, payload)

    with monkeypatch.context() as patched:
        patched.setattr(BlobReader, "read", reading)
        assert add(two) == 3
    assert reads == [2]
    assert (value_of(two, "large") == 7).all()


def test_a_writer_does_not_read_what_it_wrote(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its follower finds its commits, whose values it has; another replica reads each once."""
    one, journal = replica(database, made)
    two, _ = replica(database, made)
    read, reads = BlobReader.read, []

    def reading(reader: BlobReader, record: Any, payload: bytes) -> Any:
        reads.append(reader._connection)
        return read(reader, record, payload)

    monkeypatch.setattr(BlobReader, "read", reading)
    for number in range(1, 4):
        put(one, number)
        same(one, two)
        journal._listener._look_at = 0.0
        until(lambda: journal._listener._look_at > 0)
    assert len(reads) == 3
    assert journal._listener._open not in reads


def test_values_are_read_in_pieces(database: str, replica: Start) -> None:
    """A value of 48 MiB is read with its own memory, which is not traced here, and a few chunks."""
    size = 48 * MIB // 4
    one, _ = replica(database, lambda: made(size))
    put(one, 7)
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT revision, append, record, payload, crc FROM varserve_log")
        found = module.read_log_row(*row.fetchone())  # type: ignore[misc]
        place = found.row.record["changes"][0]["value"]
        reader = BlobReader(connection, ("fake", 1))
        tracemalloc.start()
        try:
            value = reader.read(place, b"")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (value == 7).all()
    assert 4 * MIB < peak < 24 * MIB


@pytest.mark.parametrize("damage", ["data = substr(data, 2)", "data = set_byte(data, 5, 9)"])
def test_damage_is_found(database: str, replica: Start, damage: str) -> None:
    """A chunk that is not what was written, or not as long: no replica starts from it."""
    one, _ = replica(database, made)
    put(one, 7)
    with psycopg.connect(database) as connection:
        connection.execute(f"UPDATE varserve_chunk SET {damage} WHERE number = 1")  # type: ignore[arg-type]
    with pytest.raises(JournalError, match=r"is not what was written|is not in the database"):
        replica(database, made)


def test_a_lease_on_a_large_value_ends(database: str, replica: Start) -> None:
    """At another replica, with what was there before; what it held is gone then."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    put(one, 3)
    lease = put(one, 7, lease_seconds=60)
    same(one, two)
    assert 0 in kept(database)
    two.leases.revoke(lease)
    same(one, two)
    assert (value_of(one, "large") == 3).all()
    assert 0 not in kept(database)


def test_what_is_beyond_the_setting_is_refused_before_it_travels(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers and the setting; at the setting itself it is kept."""
    size = 4 * LARGE
    one, _ = replica(database, made, commit_bytes=size)
    assert put(one, 1) == 1
    small, _ = replica(database, made, commit_bytes=size - 1)
    monkeypatch.setattr(Stager, "stage", lambda *_: pytest.fail("it was staged"))
    error = refusal(put, small, 7)
    assert error.reason is Reason.VALUE_TOO_LARGE
    assert f"at most {size - 1} bytes" in error.message
    assert "state_commit_bytes" in error.message
    assert f"found {size};" in error.message


def test_a_deadline_ends_staging(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the value is in the database, and the connection is used no more."""
    one, _ = replica(database, made)
    write = BlobWriter.write

    def late(writer: BlobWriter, values: Any, revision: Any) -> Any:
        until(lambda: time.monotonic() > deadline)
        return write(writer, values, revision)

    monkeypatch.setattr(BlobWriter, "write", late)
    deadline = time.monotonic() + 0.3
    assert refusal(put, one, 7, deadline=deadline).reason is Reason.DEADLINE_EXCEEDED
    monkeypatch.undo()
    assert (kept(database), chunks(database)) == ([], 0)
    assert put(one, 8) == 1


def test_a_connection_that_ended_is_replaced(database: str, replica: Start) -> None:
    """One by which values were staged, while nobody used it."""
    one, journal = replica(database, made)
    put(one, 1)
    for connection in journal._stager._idle:
        connection.close()
    assert put(one, 2) == 2


def test_a_large_value_is_copied_both_ways(
    tmp_path: Path, database: str, replica: Start, server: Any
) -> None:
    """Into a directory and into another database, base and log; the copy says its hash."""
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, made, **options)
    put(one, 1)
    one.assign([Write("table", SET, np.ones((300, 1024), np.float32))])
    put(one, 2)
    journal.compact()
    expected = [value_of(one, name).tobytes() for name in ("large", "table")]
    one.close()
    other = server.fresh("copied")
    for source, target in ((database, tmp_path / "state"), (tmp_path / "state", other)):
        done = CliRunner().invoke(main, ["state", "copy", str(source), str(target)])
        assert done.exit_code == 0, done.output
        assert "revision 3, sha256 " in done.output
    assert kept(other) == [0, 0, 3]
    copy, _ = replica(other, made, **options)
    assert [value_of(copy, name).tobytes() for name in ("large", "table")] == expected
    assert put(copy, 4) == 4


def test_a_state_of_the_format_before_gets_large_values(database: str, replica: Start) -> None:
    """Its tables are made at the start of a service, and its commits stay."""
    one, _ = replica(database, made)
    add(one)
    one.close()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE varserve_blob, varserve_chunk")
        connection.execute("DROP TABLE IF EXISTS varserve_label, varserve_replica")
        connection.execute("UPDATE varserve_format SET format = 3")
        prepare(connection)
    two, _ = replica(database, made)
    assert (put(two, 7), value_of(two, "count")) == (2, 1)
