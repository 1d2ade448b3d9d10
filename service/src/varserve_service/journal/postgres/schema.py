"""The tables in the database, how they are made, and how an older format becomes this one.

The format is in a table of its own, which is read before any other. A step adds to the one before
it, so that services of the older version go on while they are replaced.
"""

from __future__ import annotations

from typing import Any

import psycopg

from varserve_service.core.errors import JournalError

FORMAT = 5
CHANNEL = "varserve_log"
_LOCK = int.from_bytes(b"varserve", "big")  # of all that make or change tables

# A row per model and version. Whoever has its lock may append.
_HEAD = """
    CREATE TABLE varserve_head (
        model text, version bigint,
        epoch text NOT NULL,
        revision bigint NOT NULL,
        append text NOT NULL,
        horizon bigint NOT NULL,
        horizon_append text NOT NULL,
        description jsonb NOT NULL,
        PRIMARY KEY (model, version)
    )
"""
_ROWS = """
    CREATE TABLE varserve_{name} (
        model text, version bigint, {key},
        record bytea NOT NULL, payload bytea NOT NULL, crc bigint NOT NULL,
        PRIMARY KEY (model, version, {column}),
        FOREIGN KEY (model, version) REFERENCES varserve_head
    );
    ALTER TABLE varserve_{name} ALTER COLUMN payload SET STORAGE EXTERNAL
"""
_TABLES = {
    "log": "revision bigint, append text NOT NULL",
    "base": "path text",
    "history": "revision bigint",
}

_LEASE = """
    CREATE TABLE varserve_lease (
        model text, version bigint, lease bigint,
        seconds double precision NOT NULL, ends timestamptz NOT NULL,
        record bytea NOT NULL, payload bytea NOT NULL, crc bigint NOT NULL,
        PRIMARY KEY (model, version, lease),
        FOREIGN KEY (model, version) REFERENCES varserve_head
    );
    CREATE INDEX varserve_lease_ends ON varserve_lease (model, version, ends);
    ALTER TABLE varserve_lease ALTER COLUMN payload SET STORAGE EXTERNAL
"""
_CHECKS = """
    CREATE TABLE varserve_round (
        model text, version bigint,
        number bigint NOT NULL, revision bigint NOT NULL, began timestamptz NOT NULL,
        PRIMARY KEY (model, version)
    );
    CREATE TABLE varserve_report (
        model text, version bigint, number bigint, replica text, hashes jsonb NOT NULL,
        PRIMARY KEY (model, version, number, replica)
    )
"""
# `revision`: of the commit that keeps it, 0: the base or a lease does, NULL: nothing does yet.
_BLOBS = """
    CREATE TABLE varserve_blob (
        model text, version bigint, blob text,
        nbytes bigint NOT NULL, chunks bigint NOT NULL,
        staged timestamptz NOT NULL, revision bigint,
        PRIMARY KEY (model, version, blob),
        FOREIGN KEY (model, version) REFERENCES varserve_head
    );
    CREATE TABLE varserve_chunk (
        model text, version bigint, blob text, number bigint, data bytea NOT NULL,
        PRIMARY KEY (model, version, blob, number)
    );
    ALTER TABLE varserve_chunk ALTER COLUMN data SET STORAGE EXTERNAL
"""
_LABELS = """
    CREATE TABLE varserve_label (
        model text, label text,
        wanted bigint NOT NULL, current bigint, attempt bigint NOT NULL,
        PRIMARY KEY (model, label)
    );
    CREATE TABLE varserve_replica (
        replica text PRIMARY KEY, seen timestamptz NOT NULL,
        models jsonb NOT NULL, loaded jsonb NOT NULL, failed jsonb NOT NULL
    )
"""
_STEPS = {1: _LEASE, 2: _CHECKS, 3: _BLOBS, 4: _LABELS}
"""By format, what makes the next one of it."""

Connection = psycopg.Connection[tuple[Any, ...]]


def prepare(connection: Connection) -> None:
    """Make the tables where there are none, and bring them to this format.

    Raises JournalError, psycopg.Error.
    """
    with connection.transaction():
        # Replicas that start at the same time would make them twice.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        (name,) = _one(connection, "SELECT to_regclass('varserve_format')::text")
        if name is None:
            connection.execute("CREATE TABLE varserve_format (format integer NOT NULL)")
            connection.execute("INSERT INTO varserve_format VALUES (1)")
            connection.execute(_HEAD)
            for table, key in _TABLES.items():
                connection.execute(_ROWS.format(name=table, key=key, column=key.split()[0]))
        (number,) = _one(connection, "SELECT format FROM varserve_format")
        if number > FORMAT:
            raise JournalError(
                f"the database has format {number}, expected at most {FORMAT}: a newer version of "
                "this service made its tables; use that version, or another database"
            )
        for step in range(number, FORMAT):
            connection.execute(_STEPS[step])
        if number < FORMAT:
            connection.execute("UPDATE varserve_format SET format = %s", (FORMAT,))


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)
