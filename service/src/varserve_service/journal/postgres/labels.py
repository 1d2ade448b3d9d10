"""Labels as rows: what each means in all replicas, and what each replica has in memory."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from varserve_service.core.errors import StateStoreUnavailable
from varserve_service.core.ports.shared_labels import Attempt, Loaded, SharedLabel
from varserve_service.journal.disk import log

from .connection import Connector, cut_after
from .schema import Connection

_SECONDS = 3.0
_LIVE_SECONDS = 5.0
"""A replica that has said nothing for so long is not waited for."""
_BEAT_SECONDS = 1.0

_LIVE = f"seen > clock_timestamp() - {_LIVE_SECONDS} * interval '1 second'"
_SAY = """
    INSERT INTO varserve_replica VALUES (%s, clock_timestamp(), %s, %s, %s)
    ON CONFLICT (replica) DO UPDATE SET seen = excluded.seen, models = excluded.models,
        loaded = excluded.loaded, failed = excluded.failed
"""
# One statement: what is wanted, and who lives, are of one moment.
_MOVE = f"""
    UPDATE varserve_label SET current = wanted
    WHERE current IS DISTINCT FROM wanted AND NOT EXISTS (
        SELECT FROM varserve_replica WHERE {_LIVE} AND models @> to_jsonb(varserve_label.model)
        AND NOT loaded @> to_jsonb(varserve_label.model || '@' || varserve_label.wanted)
    )
    RETURNING model, label, current
"""
_BEGIN = """
    INSERT INTO varserve_label SELECT %s, label, version, version, 0
    FROM unnest(%s::text[], %s::bigint[]) AS first (label, version)
    WHERE NOT EXISTS (SELECT FROM varserve_label WHERE model = %s)
    ON CONFLICT DO NOTHING
"""
_WANT = """
    INSERT INTO varserve_label VALUES (%s, %s, %s, NULL, 1)
    ON CONFLICT (model, label) DO UPDATE SET
        wanted = excluded.wanted, attempt = varserve_label.attempt + 1
    RETURNING attempt
"""


class LabelRows:
    """Implements the core's SharedLabels, by a connection of its own."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._replica = secrets.token_hex(8)
        self._one_at_a_time = threading.Lock()
        self._open: Connection | None = None
        self._models: set[str] = set()
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="varserve-live", daemon=True)

    def begin(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        self._models = set(labels)
        self.say((), {})
        self._beating.start()
        for model, versions in labels.items():
            self._ask(_BEGIN, (model, list(versions), list(versions.values()), model))

    def _beat(self) -> None:
        """Say that this replica lives, also while it loads and says nothing else."""
        query = "UPDATE varserve_replica SET seen = clock_timestamp() WHERE replica = %s"
        while not self._left.wait(_BEAT_SECONDS):
            with suppress(StateStoreUnavailable):
                self._ask(query, (self._replica,))
        self._close()  # it may have connected again after the replica left

    def is_alone(self, model: str) -> bool:
        query = (
            f"SELECT 1 FROM varserve_replica WHERE {_LIVE} AND replica <> %s "
            "AND models @> to_jsonb(%s::text) LIMIT 1"
        )
        return not self._ask(query, (self._replica, model))

    def all(self) -> Sequence[SharedLabel]:
        columns = "model, label, wanted, current, attempt"
        query = f"SELECT {columns} FROM varserve_label ORDER BY model, label"
        return [SharedLabel(*row) for row in self._ask(query)]

    def want(self, model: str, label: str, version: int) -> int:
        return int(self._ask(_WANT, (model, label, version))[0][0])

    def give_up(self, model: str, label: str, version: int) -> None:
        which = (model, label, version)
        where = "WHERE model = %s AND label = %s AND wanted = %s"
        self._ask(f"DELETE FROM varserve_label {where} AND current IS NULL", which)
        self._ask(f"UPDATE varserve_label SET wanted = current {where}", which)

    def remove(self, model: str, label: str | None) -> None:
        query = "DELETE FROM varserve_label WHERE model = %s AND (%s::text IS NULL OR label = %s)"
        self._ask(query, (model, label, label))

    def replace(self, model: str, labels: Mapping[str, int]) -> None:
        self.remove(model, None)
        self._ask(_BEGIN, (model, list(labels), list(labels.values()), model))

    def say(self, loaded: Collection[Loaded], failed: Mapping[Attempt, str]) -> None:
        names = sorted(_name(*each) for each in loaded)
        models = sorted(self._models | {model for model, _ in loaded})
        reasons = {_attempt(*each): reason for each, reason in failed.items()}
        self._ask(_SAY, (self._replica, Jsonb(models), Jsonb(names), Jsonb(reasons)))

    def move(self) -> None:
        for model, label, version in self._ask(_MOVE):
            log.info("a label moves at all replicas", model=model, label=label, version=version)

    def failures(self, attempt: Attempt) -> Sequence[str]:
        query = (
            f"SELECT failed ->> %s FROM varserve_replica WHERE {_LIVE} "
            "AND models @> to_jsonb(%s::text) AND failed ->> %s <> ''"
        )
        key = _attempt(*attempt)
        return [row[0] for row in self._ask(query, (key, attempt[0], key))]

    def leave(self) -> None:
        self._left.set()
        with suppress(StateStoreUnavailable):  # then it is not waited for after some seconds
            self._ask(
                "DELETE FROM varserve_replica WHERE replica = %s "
                "OR seen < clock_timestamp() - interval '1 day'",
                (self._replica,),
            )
        self._close()

    def _ask(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._one_at_a_time:
            reused = self._open is not None
            while True:
                try:
                    if self._open is None:
                        self._open = self._connector.connect()
                    self._connector.check(self._open)
                    with cut_after(self._open, _SECONDS):
                        cursor = self._open.execute(query, values)
                        return cursor.fetchall() if cursor.description else []
                except psycopg.Error as error:
                    self._drop()
                    if not reused:
                        raise StateStoreUnavailable(
                            "the database that keeps the labels of all replicas cannot be reached; "
                            "retry"
                        ) from error
                    reused = False  # it ended while nobody used it; all questions may come twice

    def _close(self) -> None:
        with self._one_at_a_time:
            self._drop()

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _name(model: str, version: int) -> str:
    return f"{model}@{version}"


def _attempt(model: str, version: int, attempt: int) -> str:
    return f"{_name(model, version)} {attempt}"
