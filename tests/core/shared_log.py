"""A log in memory that several models share, as replicas share a database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from varserve_service.core.commit.leases import lease_not_found
from varserve_service.core.errors import JournalError, StateStoreUnavailable
from varserve_service.core.ports.journal import Entry, KeptChange, KeptCommit, Position
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.shared_journal import (
    AppendUndecided,
    KeptHeld,
    LeaseChange,
    Standing,
    TurnNeeded,
)


class SharedLog:
    """The commits of all replicas, and the lock that one at a time has."""

    def __init__(self) -> None:
        self.commits: list[KeptCommit] = []
        self.changed = threading.Condition()
        self.row = threading.Lock()
        self.leases = Leases()

    def after(self, known: Position) -> list[KeptCommit]:
        if known.revision and self.commits[known.revision - 1].position != known:
            raise JournalError(f"{known} is on a fork")
        return self.commits[known.revision :]


class Leases:
    """The leases of all replicas, by the clock of this process."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[KeptHeld, ...]] = {}
        self._ends: dict[int, tuple[float, float]] = {}

    def change(self, changes: Sequence[LeaseChange]) -> None:
        for change in changes:
            if change.held is None:
                if change.only_if_due and not self.is_due(change.lease):
                    raise lease_not_found(change.lease)
                del self._held[change.lease], self._ends[change.lease]
                continue
            self._held[change.lease] = change.held
            if change.seconds:
                end = time.monotonic() + change.seconds
                self._ends[change.lease] = end, change.seconds

    def count(self) -> int:
        return len(self._held)

    def renew(self, lease: int) -> float | None:
        if lease not in self._ends:
            return None
        _, seconds = self._ends[lease]
        self._ends[lease] = time.monotonic() + seconds, seconds
        return seconds

    def due(self) -> tuple[Sequence[int], float | None]:
        remaining = {n: end - time.monotonic() for n, (end, _) in list(self._ends.items())}
        later = [seconds for seconds in remaining.values() if seconds > 0]
        return [n for n, s in remaining.items() if s <= 0], min(later, default=None)

    def is_due(self, lease: int) -> bool:
        return lease in self._ends and self._ends[lease][0] <= time.monotonic()

    def held(self, lease: int) -> Sequence[KeptHeld] | None:
        return self._held.get(lease)

    def beside(self, lease: int) -> Mapping[int, Sequence[KeptHeld]]:
        mine = {each.path for each in self._held.get(lease, ())}
        return {
            number: held
            for number, held in self._held.items()
            if number != lease and mine & {each.path for each in held}
        }


class Replica:
    """The journal of one replica. `after_append` may fail when the commit is in the log."""

    epoch = "shared"
    horizon = 0
    nbytes = 0
    max_commit_bytes = 2**20
    inline_bytes = 2**20

    def __init__(self, log: SharedLog, *, follows: bool = True) -> None:
        self._log = log
        self.follows = follows
        self._closed = False
        self._appends = 0
        self.after_append: Callable[[], None] = lambda: None
        self.before_append: Callable[[], None] = lambda: None
        self.resolutions: list[bool] = []
        self.confirmed = 0
        self.on_confirm: Callable[[], None] = lambda: None
        self.gave_up: list[Exception] = []
        self.unreachable = False
        self.position = Position(0)
        self._last: list[KeptCommit] = []
        self.staged: list[Staged] = []
        self.optimistic = False
        """Whether turns are, where they may be."""
        self.given: list[bool] = []
        """Those that were given: whether they were optimistic."""
        self.before_optimistic: Callable[[], None] = lambda: None

    @property
    def shared(self) -> Replica:
        return self

    def base(self) -> Iterator[Any]:
        return iter(())

    records = answers = base

    def commits(self) -> Iterator[KeptCommit]:
        for commit in list(self._log.commits):
            self.position = commit.position
            yield commit

    def start(self) -> None:
        pass

    def stage(self, values: Mapping[str, Value], deadline: float | None) -> Staged:
        self.staged.append(Staged(values))
        return self.staged[-1]

    @contextmanager
    def turn(self, known: Position, deadline: float | None, *, sure: bool) -> Iterator[Turn]:
        if self.unreachable:
            raise StateStoreUnavailable("away")
        self.given.append(self.optimistic and not sure)
        if self.given[-1]:
            yield OptimisticTurn(self, known)
            return
        assert self._log.row.acquire(timeout=30)
        try:
            yield Turn(self, self._log.after(known))
        finally:
            self._log.row.release()

    @property
    def last_position(self) -> Position:
        return self._log.commits[-1].position

    def write(self, entries: Sequence[Entry]) -> Position:
        self._appends += 1
        self._last = [_kept(entry, f"{id(self)}-{self._appends}") for entry in entries]
        self.before_append()
        with self._log.changed:
            assert self._last[0].revision == len(self._log.commits) + 1
            self._log.commits += self._last
            self._log.changed.notify_all()
        self.after_append()
        return self._last[-1].position

    def news(self, known: Position) -> Sequence[KeptCommit]:
        with self._log.changed:
            self._log.changed.wait_for(
                lambda: self._closed or (self.follows and len(self._log.commits) > known.revision),
                0.05,
            )
            return self._log.after(known) if self.follows else []

    @property
    def standing(self) -> Standing:
        behind = len(self._log.commits) - self.position.revision
        return Standing(0.0, behind, self.behind_seconds, True)

    @property
    def leases(self) -> Leases:
        return self._log.leases

    check_seconds = 0.0
    behind_seconds = 0.0

    def check_round(self) -> tuple[int, int] | None:
        return None

    def report(self, number: int, hashes: Mapping[str, str]) -> None:
        pass

    def reports(self, number: int) -> Sequence[Mapping[str, str]]:
        return []

    def newest(self, known: Position) -> Position:
        if self.unreachable:
            raise StateStoreUnavailable("away")
        with self._log.changed:
            self._log.after(known)
            return self._log.commits[-1].position if self._log.commits else Position(0)

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        if self.unreachable:
            raise StateStoreUnavailable("not known whether it was done", done="unknown")
        happened = any(commit in self._last for commit in self._log.commits)
        self.resolutions.append(happened)
        return happened, self._log.after(known)

    def give_up(self, error: Exception) -> None:
        self.gave_up.append(error)

    def close(self) -> None:
        self._closed = True


class Staged:
    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = values
        self.discarded = False

    def discard(self) -> None:
        self.discarded = True


class Turn:
    optimistic = False

    def __init__(
        self, replica: Replica, missed: Sequence[KeptCommit], *, behind: bool = False
    ) -> None:
        self._replica = replica
        self.behind = behind
        self.missed = missed

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        self._replica.leases.change(leases)
        if entries:
            return self._replica.write(entries)
        self._replica.after_append()
        return self._replica.last_position

    def confirm(self) -> None:
        self._replica.confirmed += 1
        self._replica.on_confirm()


class OptimisticTurn(Turn):
    """Of who guesses that nobody else has committed since `known`."""

    optimistic = True

    def __init__(self, replica: Replica, known: Position) -> None:
        super().__init__(replica, ())
        self._known = known

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        self._replica.before_optimistic()
        row = self._replica._log.row
        if leases or not entries or not row.acquire(blocking=False):
            raise TurnNeeded
        try:
            if self._replica._log.after(self._known):
                raise TurnNeeded
            return self._replica.write(entries)
        finally:
            row.release()

    def confirm(self) -> None:
        raise TurnNeeded


def _kept(entry: Entry, append: str) -> KeptCommit:
    commit = entry.commit
    return KeptCommit(
        commit.revision,
        commit.time,
        commit.kind,
        commit.origin,
        commit.request,
        tuple(
            KeptChange(each.variable.path, each.region, each.value.numpy().copy())
            for each in commit.changed
        ),
        append,
        {name: value.numpy().copy() for name, value in entry.answer.items()},
    )


def lost() -> None:
    """The connection goes."""
    raise AppendUndecided
