"""The format of a log: its number, its tables, and the check that comes before anything is read.

The number is in the header of the SQLite file, where a reader finds it without knowing a table.
"""

from __future__ import annotations

import sqlite3

from varserve_service.core.errors import JournalError

FORMAT = 2
_APPLICATION = int.from_bytes(b"vars")

# Every row has the CRC32C of its content: SQLite has checksums for its write-ahead log alone.
_TABLES = {
    "state": {"id": "INTEGER PRIMARY KEY CHECK (id = 1)"},
    "base": {"path": "TEXT PRIMARY KEY"},
    "history": {"revision": "INTEGER PRIMARY KEY"},
    "commits": {"revision": "INTEGER PRIMARY KEY"},
    "answers": {"revision": "INTEGER PRIMARY KEY", "time": "INTEGER NOT NULL"},
}
_CONTENT = {
    "record": "BLOB NOT NULL",
    "payload": "BLOB NOT NULL",
    "crc": "INTEGER NOT NULL",
}


class OtherFormat(JournalError):
    """A log was written by another version of the service, or by another program."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty log, in one transaction. Raises sqlite3.Error."""
    tables = "".join(
        f"CREATE TABLE {name} ("
        + ", ".join(f"{column} {kind}" for column, kind in (key | _CONTENT).items())
        + ") STRICT;"
        for name, key in _TABLES.items()
    )
    connection.executescript(
        f"BEGIN; PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {FORMAT}; {tables}"
        "COMMIT;"
    )


def check_format(connection: sqlite3.Connection) -> None:
    """Raises OtherFormat unless the log has this format and exactly its tables; sqlite3.Error."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    columns: dict[str, list[str]] = {}
    for table, column in connection.execute(
        "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c "
        "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid"
    ):
        columns.setdefault(table, []).append(column)
    if not application and not number and "state" in columns and "commits" in columns:
        application, number = _APPLICATION, 1  # the first format did not carry its number here
    if application != _APPLICATION:
        raise OtherFormat("expected a log of this service, found a database of another program")
    if number != FORMAT:
        age = "a newer" if number > FORMAT else "an older"
        raise OtherFormat(
            f"expected format {FORMAT}, found format {number}: {age} version of this service "
            "wrote it; start that version"
        )
    expected = {name: [*key, *_CONTENT] for name, key in _TABLES.items()}
    for table in sorted(expected.keys() | columns.keys()):
        if expected.get(table) != columns.get(table):
            raise OtherFormat(
                f"table {table!r}: expected {_shown(expected.get(table))}, found "
                f"{_shown(columns.get(table))}: another program changed the log"
            )


def _shown(columns: list[str] | None) -> str:
    return "no such table" if columns is None else f"the columns {', '.join(columns)}"
