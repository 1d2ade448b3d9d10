"""Values that are too large for a row: they go in chunks, before the lock is taken."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner

import varserve
from tests.conftest import Serve
from tests.core.test_live_model import SET, refusal, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.postgres.large import LARGE, MIB, add, asked, chunks, kept, made, put, same
from tests.waiting import join, until
from varserve_service.command_line import main
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason
from varserve_service.journal.postgres import appending
from varserve_service.journal.postgres import journal as module
from varserve_service.journal.postgres.blobs import BlobReader, BlobWriter
from varserve_service.journal.postgres.schema import prepare
from varserve_service.journal.postgres.staging import Stager


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
