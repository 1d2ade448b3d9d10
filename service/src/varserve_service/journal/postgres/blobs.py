"""Blobs: values that are too large for a row, in chunks of 1 MiB.

A blob is staged, in a transaction of its own and before its commit has the lock of the head row.
The commit keeps it, under the lock and with all of its chunks counted. A blob that no commit keeps
is swept under the same lock, so that none is swept which a commit keeps. A row of the log, of the
base or of a lease that names a blob is the only one that does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from crc32c import crc32c

from varserve import tensors
from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.patches import Array
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.journal.payloads import array_of, bytes_of, read_inline
from varserve_service.journal.records import TensorRecord

from .head import OF_MODEL, Key
from .schema import Connection

CHUNK_BYTES = 2**20
INLINE_BYTES = 2**20
"""Of all values of a row. Where there are more, they are in blobs."""

OF_NO_COMMIT = 0
"""The revision of a blob that the base or a lease names."""

_READ_CHUNKS = 4
_REMOVE_CHUNKS = 64
_PUT_CHUNK = "INSERT INTO varserve_chunk VALUES (%s, %s, %s, %s, %b)"
_PUT_BLOB = "INSERT INTO varserve_blob VALUES (%s, %s, %s, %s, %s, clock_timestamp(), %s)"
_READ = (
    f"SELECT number, data FROM varserve_chunk WHERE {OF_MODEL} AND blob = %s "
    "AND number >= %s AND number < %s ORDER BY number"
)
_KEEP = f"""
    WITH kept AS (
        UPDATE varserve_blob AS blob SET revision = named.revision
        FROM unnest(%s::text[], %s::bigint[]) AS named (blob, revision)
        WHERE {OF_MODEL} AND blob.blob = named.blob AND blob.revision IS NULL
        RETURNING blob.chunks
    )
    SELECT count(*), coalesce(sum(chunks), 0)::bigint, (
        SELECT count(*) FROM varserve_chunk WHERE {OF_MODEL} AND blob = ANY(%s)
    ) FROM kept
"""
_WITHOUT_BLOB = f"""
    SELECT DISTINCT blob FROM varserve_chunk AS chunk WHERE {OF_MODEL} AND NOT EXISTS (
        SELECT FROM varserve_blob AS blob WHERE blob.model = chunk.model
        AND blob.version = chunk.version AND blob.blob = chunk.blob
    )
"""
_REMOVE = f"""
    DELETE FROM varserve_chunk WHERE {OF_MODEL} AND blob = %s AND number < {_REMOVE_CHUNKS} + (
        SELECT min(number) FROM varserve_chunk WHERE {OF_MODEL} AND blob = %s
    )
"""


class BlobWriter:
    """Writes blobs by one connection, in its transaction or in one of their own."""

    def __init__(
        self, connection: Connection, key: Key, check: Callable[[], None] = lambda: None
    ) -> None:
        """`check` is called between chunks, and may raise."""
        self._connection = connection
        self._key = key
        self._check = check
        self.names: list[str] = []
        """Of the blobs that were written."""

    def write(self, values: Mapping[str, Value], revision: int | None) -> dict[str, TensorRecord]:
        """Write values; the result says where each of them is.

        `revision`: of the commit that keeps them, None where that is not known yet. A value of a
        chunk or more has a blob of its own, the others share one. Raises psycopg.Error.
        """
        places: dict[str, TensorRecord] = {}
        together = {}
        for name, value in values.items():
            if sent_bytes(value) >= CHUNK_BYTES:
                places |= self._write({name: value}, revision)
            else:
                together[name] = value
        if together:
            places |= self._write(together, revision)
        return places

    def _write(self, values: Mapping[str, Value], revision: int | None) -> dict[str, TensorRecord]:
        blob = secrets.token_hex(8)
        places: dict[str, TensorRecord] = {}
        chunks, put = 0, self._connection.execute
        with self._connection.transaction():  # A blob and its chunks become visible together.
            for chunk in _chunks(blob, values, places):
                self._check()
                put(_PUT_CHUNK, (*self._key, blob, chunks, chunk), prepare=True)
                chunks += 1
            nbytes = sum(place["bytes"] for place in places.values())
            put(_PUT_BLOB, (*self._key, blob, nbytes, chunks, revision))
        self.names.append(blob)
        return places


def _chunks(
    blob: str, values: Mapping[str, Value], places: dict[str, TensorRecord]
) -> Iterator[bytes | memoryview]:
    """The chunks of values, one after the other; `places` gets where each of them is."""
    at, rest = 0, bytearray()
    for name, value in values.items():
        nbytes, read = _body(value)
        crc, start = 0, 0
        while start < nbytes:
            piece = read(start, min(nbytes, start + CHUNK_BYTES - len(rest)))
            start += piece.nbytes
            crc = crc32c(piece, crc)
            if not rest and piece.nbytes == CHUNK_BYTES:
                yield piece
                continue
            rest += piece
            if len(rest) == CHUNK_BYTES:
                yield bytes(rest)
                rest.clear()
        places[name] = {
            "dtype": value.dtype,
            "shape": list(value.shape),
            "blob": blob,
            "at": at,
            "bytes": nbytes,
            "crc": int(crc),
        }
        at += nbytes
    if rest:
        yield bytes(rest)


def _body(value: Value) -> tuple[int, Callable[[int, int], memoryview]]:
    """How many bytes a value is, and how to read some of them."""
    if value.dtype != tensors.STRING:
        return value.nbytes, value.buffer
    data = bytes_of(value.numpy()).data
    return data.nbytes, lambda start, stop: data[start:stop]


class BlobReader:
    """Reads values by one connection: implements Payloads."""

    def __init__(self, connection: Connection, key: Key) -> None:
        self._connection = connection
        self._key = key

    def read(self, record: TensorRecord, payload: bytes) -> Array:
        """A value, some chunks at a time. Raises JournalError, psycopg.Error."""
        if "blob" not in record:
            return read_inline(record, payload)
        value = aligned_empty((record["bytes"],), np.uint8)
        crc, done = 0, 0
        number, skip = divmod(record["at"], CHUNK_BYTES)
        while done < value.nbytes:
            rows = self._connection.execute(
                _READ,
                (*self._key, record["blob"], number, number + _READ_CHUNKS),
                prepare=True,
                binary=True,
            ).fetchall()
            if [row[0] for row in rows] != list(range(number, number + len(rows))) or not rows:
                raise JournalError(
                    f"chunk {number} of blob {record['blob']} is not in the database: it was "
                    "compacted meanwhile, or the database is damaged"
                )
            for _, data in rows:
                piece = np.frombuffer(data, np.uint8)[skip : skip + value.nbytes - done]
                value[done : done + piece.nbytes] = piece
                crc, done, skip = crc32c(piece.data, crc), done + piece.nbytes, 0
            number += len(rows)
        if crc != record["crc"]:
            raise JournalError(f"blob {record['blob']} is damaged: it is not what was written")
        return array_of(value, record)


def blob_bytes(places: Iterable[TensorRecord]) -> int:
    """Bytes of the values that are in blobs."""
    return sum(place["bytes"] for place in places if "blob" in place)


def is_alone(place: TensorRecord) -> bool:
    """Whether a value has a blob of its own."""
    return "blob" in place and place["bytes"] >= CHUNK_BYTES


def keep(connection: Connection, key: Key, blobs: Mapping[str, int]) -> bool:
    """Let commits keep what was staged, by name their revisions; False: some of it is gone.

    Under the lock of the head row, in the transaction that names them. Raises psycopg.Error.
    """
    names = list(blobs)
    row = connection.execute(
        _KEEP, (names, list(blobs.values()), *key, *key, names), prepare=True
    ).fetchone()
    assert row is not None
    return bool(row[0] == len(names) and row[1] == row[2])


def drop(connection: Connection, key: Key, names: Sequence[str]) -> None:
    """Let go of blobs that no row names any more; their chunks go later. Raises psycopg.Error."""
    if names:
        query = f"DELETE FROM varserve_blob WHERE {OF_MODEL} AND blob = ANY(%s)"
        connection.execute(query, (*key, list(names)))


def sweep(
    connection: Connection, key: Key, seconds: float, staged: Sequence[str] | None = None
) -> int:
    """Remove blobs that were staged so long ago and that no commit keeps; how many there were.

    `staged`: none but these. The lock of the head row is held while it is decided, as it is by
    whoever keeps them: or a row could name a blob that is gone. Raises psycopg.Error.
    """
    with connection.transaction():
        connection.execute(f"SELECT FROM varserve_head WHERE {OF_MODEL} FOR NO KEY UPDATE", key)
        swept = connection.execute(
            f"DELETE FROM varserve_blob WHERE {OF_MODEL} AND revision IS NULL "
            "AND staged <= clock_timestamp() - %s * interval '1 second' "
            "AND (%s::text[] IS NULL OR blob = ANY(%s))",
            (*key, seconds, *(None if staged is None else list(staged),) * 2),
        )
    remove_chunks(connection, key)
    return swept.rowcount


def has_orphans(connection: Connection, key: Key, seconds: float) -> bool:
    """Whether there is something to sweep. Raises psycopg.Error."""
    row = connection.execute(
        f"SELECT FROM varserve_blob WHERE {OF_MODEL} AND revision IS NULL "
        "AND staged <= clock_timestamp() - %s * interval '1 second' LIMIT 1",
        (*key, seconds),
    ).fetchone()
    return row is not None


def remove_chunks(connection: Connection, key: Key) -> None:
    """Remove the chunks of blobs that are gone, some at a time and without the lock.

    Nobody can keep them any more: a blob and its chunks become visible together. Raises
    psycopg.Error.
    """
    for (blob,) in connection.execute(_WITHOUT_BLOB, key).fetchall():
        while connection.execute(_REMOVE, (*key, blob) * 2).rowcount:
            pass
