"""The right to append, as a commit has it: the lock of the head row, or a guess that it is free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from varserve_service.core.ports.journal import Entry, KeptCommit, Position
from varserve_service.core.ports.shared_journal import LeaseChange, TurnNeeded

from .head import Head
from .schema import Connection

if TYPE_CHECKING:
    from .appending import Appender


class Turn:
    """The lock of a model's head row, until it is committed or given back."""

    optimistic = False

    def __init__(
        self,
        appender: Appender,
        connection: Connection,
        head: Head,
        missed: Sequence[KeptCommit],
        *,
        behind: bool,
    ) -> None:
        self._appender = appender
        self._connection = connection
        self._head = head
        self.missed = missed
        self.behind = behind
        self.ended = behind

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        self.ended = True
        self._appender._guard.rest()
        try:
            return self._appender._append(self._connection, self._head, entries, leases)
        except BaseException:
            self._appender._roll_back()
            raise

    def confirm(self) -> None:
        self.ended = True
        self._appender._guard.rest()
        self._appender._confirm(self._connection)


class OptimisticTurn:
    """Nothing is locked, and nothing was asked."""

    optimistic = True
    behind = False
    missed: Sequence[KeptCommit] = ()

    def __init__(self, appender: Appender, known: Position) -> None:
        self._appender = appender
        self._known = known

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        if leases or not entries:
            raise TurnNeeded
        return self._appender._append_optimistically(self._known, entries)

    def confirm(self) -> None:
        raise TurnNeeded
