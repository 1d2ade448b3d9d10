"""Values in chunks: which share a blob, when one is seen, what is kept with a commit, and swept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from varserve_service.core.arrays.regions import Rows
from varserve_service.core.errors import JournalError
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.payloads import Inline
from varserve_service.journal.postgres import blobs
from varserve_service.journal.postgres.blobs import CHUNK_BYTES, BlobReader, BlobWriter
from varserve_service.journal.postgres.rows import placed
from varserve_service.journal.postgres.schema import Connection, prepare

KEY = ("m", 1)
LOCK = "SELECT FROM varserve_head WHERE model = 'm' FOR NO KEY UPDATE NOWAIT"


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """To a database with one state."""
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        connection.execute("INSERT INTO varserve_head VALUES ('m', 1, 'e', 0, '', 0, '', '{}')")
        yield connection


def value(nbytes: int) -> HostValue:
    return HostValue((np.arange(nbytes) % 251).astype(np.uint8))


def written(connection: Connection, *sizes: int, revision: int | None = None) -> list[Any]:
    """Where values of these sizes are."""
    values = {str(number): value(size) for number, size in enumerate(sizes)}
    return list(BlobWriter(connection, KEY).write(values, revision).values())


def rows(connection: Connection) -> tuple[int, int]:
    """How many blobs there are, and how many chunks."""
    query = "SELECT (SELECT count(*) FROM varserve_blob), (SELECT count(*) FROM varserve_chunk)"
    return connection.execute(query).fetchone() or (-1, -1)  # type: ignore[return-value]


@pytest.mark.parametrize(("nbytes", "alone"), [(CHUNK_BYTES - 1, False), (CHUNK_BYTES, True)])
def test_a_value_of_a_chunk_has_a_blob_of_its_own(
    connection: Connection, nbytes: int, alone: bool
) -> None:
    """A smaller one shares it: the blob is not the value's alone, and goes with no other value."""
    large, small = written(connection, nbytes, 3)
    assert (large["blob"] != small["blob"], blobs.is_alone(large)) == (alone, alone)
    assert not blobs.is_alone(small)
    assert not blobs.is_alone({"at": 0, "bytes": CHUNK_BYTES})  # it is in its row
    reader = BlobReader(connection, KEY)
    assert [reader.read(place, b"").nbytes for place in (large, small)] == [nbytes, 3]


def test_nobody_sees_a_blob_that_is_being_written(connection: Connection, database: str) -> None:
    """Its chunks alone would be taken for what is left of a blob that is gone."""
    seen: list[tuple[int, int]] = []
    with psycopg.connect(database, autocommit=True) as other:
        writer = BlobWriter(connection, KEY, lambda: seen.append(rows(other)))
        writer.write({"v": value(2 * CHUNK_BYTES + 1)}, None)
        assert seen == [(0, 0)] * 3
        assert rows(other) == (1, 3)


def test_a_commit_keeps_what_is_there_as_a_whole(connection: Connection) -> None:
    """Not one of which a chunk is missing, nor one that is gone or belongs to a commit already."""
    names = [place["blob"] for place in written(connection, *[CHUNK_BYTES + 1] * 3)]
    assert blobs.keep(connection, KEY, {names[0]: 7})
    query = "SELECT revision FROM varserve_blob WHERE blob = %s"
    assert connection.execute(query, names[:1]).fetchone() == (7,)
    assert not blobs.keep(connection, KEY, {names[0]: 8})
    connection.execute("DELETE FROM varserve_chunk WHERE blob = %s AND number = 1", names[1:2])
    assert not blobs.keep(connection, KEY, {names[1]: 8})
    assert not blobs.keep(connection, KEY, {names[2]: 8, "gone": 8})
    assert not blobs.keep(connection, KEY, {"gone": 8})


@pytest.mark.parametrize("missing", [0, 1, 4])
def test_a_chunk_that_is_missing_is_named(connection: Connection, missing: int) -> None:
    """The first, one in the middle, and the last: of it, or of where reading would go on."""
    (place,) = written(connection, 4 * CHUNK_BYTES + 1)
    connection.execute("DELETE FROM varserve_chunk WHERE number = %s", (missing,))
    expected = "4" if missing == 4 else "0"
    with pytest.raises(JournalError, match=f"chunk {expected} of blob {place['blob']} is not in"):
        BlobReader(connection, KEY).read(place, b"")


def test_what_is_swept_is_found_under_the_lock(connection: Connection, database: str) -> None:
    """A commit that would keep it has the lock before, or comes too late."""
    written(connection, 1)
    held = 0
    with psycopg.connect(database, autocommit=True) as other:

        class Watched(psycopg.Connection[tuple[Any, ...]]):
            def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
                nonlocal held
                if "DELETE FROM varserve_blob" in query:
                    with pytest.raises(psycopg.errors.LockNotAvailable):
                        other.execute(LOCK)
                    held += 1
                return super().execute(query, *arguments, **options)

        with Watched.connect(database, autocommit=True) as sweeping:
            assert blobs.sweep(sweeping, KEY, 0) == 1
        other.execute(LOCK)
    assert (held, rows(connection)) == (1, (0, 0))


def test_only_what_is_old_and_kept_by_nobody_is_swept(connection: Connection) -> None:
    """Or, of these names, what is kept by nobody."""
    old, named, kept = (each["blob"] for each in written(connection, *[CHUNK_BYTES] * 3))
    assert blobs.keep(connection, KEY, {kept: 1})
    assert not blobs.has_orphans(connection, KEY, 60)
    assert blobs.sweep(connection, KEY, 60) == 0
    assert blobs.sweep(connection, KEY, 0, [named, kept]) == 1
    move = "UPDATE varserve_blob SET staged = staged - interval '61 seconds' WHERE blob = %s"
    for name in (old, kept):
        connection.execute(move, (name,))
    assert blobs.has_orphans(connection, KEY, 60)
    assert blobs.sweep(connection, KEY, 60) == 1
    assert not blobs.has_orphans(connection, KEY, 0)
    assert rows(connection) == (1, 1)


def test_all_chunks_of_a_blob_that_is_gone_go(connection: Connection) -> None:
    """Some at a time, whatever their number; those of others stay."""
    written(connection, CHUNK_BYTES + 1)
    connection.execute(
        "INSERT INTO varserve_chunk SELECT 'm', 1, 'gone', number, '' "
        "FROM generate_series(0, %s) AS number",
        (3 * blobs._REMOVE_CHUNKS,),
    )
    blobs.remove_chunks(connection, KEY)
    assert rows(connection) == (1, 2)


def test_what_is_let_go_of_is_what_was_named(connection: Connection) -> None:
    """Without names nothing is."""
    first, _ = (each["blob"] for each in written(connection, CHUNK_BYTES, CHUNK_BYTES))
    blobs.drop(connection, KEY, [])
    assert rows(connection) == (2, 2)
    blobs.drop(connection, KEY, [first])
    assert rows(connection) == (1, 2)


@pytest.mark.parametrize("beyond", [0, 1])
def test_what_fits_into_a_row_is_in_the_row(connection: Connection, beyond: int) -> None:
    """With the indices of a part: all of it, or none."""
    rows = Rows(np.arange(5))
    values = {"whole": value(blobs.INLINE_BYTES - 50 + beyond), "rows": value(10)}
    inline = Inline()
    writer = BlobWriter(connection, KEY)
    places = placed(values, {"whole": None, "rows": rows}, inline, writer, 1)
    assert len(places) == 3
    assert ["blob" in place for place in places.values()] == [beyond == 1] * 3
    assert len(inline.payload()) == (0 if beyond else blobs.INLINE_BYTES)
