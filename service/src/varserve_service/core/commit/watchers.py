"""Commits on their way to the watchers of a model: one chain of events that all of them follow.

A commit is appended to the chain once, however many watch. A watcher is a position in the chain, so
publishing a commit costs the same for one watcher and for a thousand, and a watcher has no queue
and no thread. Events that every watcher has passed are garbage. The bytes that wait for a watcher
are bounded: one that falls behind is cut off. Knows commits and values; nothing of who watches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from varserve_service.core.arrays.regions import Region, Rows
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import Commit, CommitKind, Origin
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import sent_bytes

# What an event and each of its changes take in memory beside the values.
_EVENT_BYTES = 512
_CHANGE_BYTES = 512


@dataclass(frozen=True, slots=True, eq=False)
class EventValue:
    """A value in an event: its dtype and shape, and the value itself unless it is too large."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    """Bytes that the value takes on its way."""
    value: Value | None


@dataclass(frozen=True, slots=True, eq=False)
class ChangeEvent:
    """What a commit did to one variable, or to a region of it; see Changed."""

    variable: VariableSpec
    region: Region | None
    value: EventValue
    previous: EventValue | None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A commit as watchers get it, without those of its values that are too large."""

    revision: int
    time: int
    kind: CommitKind
    origin: Origin
    request_id: str
    changes: tuple[ChangeEvent, ...]
    nbytes: int
    """Bytes of memory that it keeps."""


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bytes of one value, of all values of one event, and of all events that wait for a watcher.

    An event leaves out the values that are larger.
    """

    value_bytes: int = 3 * 2**20
    event_bytes: int = 16 * 2**20
    waiting_bytes: int = 64 * 2**20


def event_of(commit: Commit, limits: EventLimits) -> Event:
    """The event of a commit. Where room is short, values go before previous values."""
    room = limits.event_bytes

    def event_value(value: Value) -> EventValue:
        nonlocal room
        nbytes = sent_bytes(value)
        kept = nbytes <= min(room, limits.value_bytes)
        room -= nbytes if kept else 0
        return EventValue(value.dtype, value.shape, nbytes, value if kept else None)

    values = [event_value(changed.value) for changed in commit.changed]
    replaced = [None if c.previous is None else event_value(c.previous) for c in commit.changed]
    changes = tuple(
        ChangeEvent(changed.variable, changed.region, value, previous)
        for changed, value, previous in zip(commit.changed, values, replaced, strict=True)
    )
    regions = sum(c.region.indices.nbytes for c in changes if isinstance(c.region, Rows))
    return Event(
        commit.revision,
        commit.time,
        commit.kind,
        commit.origin,
        commit.request.id if commit.request is not None else "",
        changes,
        limits.event_bytes - room + regions + _EVENT_BYTES + _CHANGE_BYTES * len(changes),
    )


class _Link:
    """A place in the chain: an event, and what comes after it."""

    __slots__ = ("end", "event", "next", "revision")

    def __init__(self, revision: int, event: Event | None, end: int) -> None:
        self.revision = revision
        self.event = event
        self.end = end
        """Bytes of all events up to this one, since the chain began."""
        self.next: _Link | None = None


class Watcher:
    """A position in the chain. Belongs to the thread that calls `cut_slow`."""

    def __init__(self, at: _Link) -> None:
        self._at: _Link | None = at
        self.revision = at.revision
        """Every event up to here has been taken."""

    def next_event(self) -> Event | None:
        """The next event, which `take` will give; None when there is none, or no more."""
        following = None if self._at is None else self._at.next
        return None if following is None else following.event

    @property
    def is_cut(self) -> bool:
        """It was cut off, or has left."""
        return self._at is None

    def take(self) -> Event | None:
        """The next event; None when there is none yet. Raises RequestError WATCH_TOO_SLOW."""
        if self._at is None:
            raise RequestError(
                Reason.WATCH_TOO_SLOW,
                f"commits come faster than this watcher takes them; it was sent all up to revision "
                f"{self.revision}: watch again after that",
                resume_revision=self.revision,
            )
        following = self._at.next
        if following is None:
            return None
        self._at = following
        self.revision = following.revision
        return following.event

    def waiting_bytes(self, tail: _Link) -> int:
        """Bytes of the events that the watcher has not taken."""
        return 0 if self._at is None else tail.end - self._at.end

    def cut(self) -> None:
        """Drop what waits."""
        self._at = None


class Watchers:
    """All watchers of one model."""

    def __init__(self, limits: EventLimits | None = None) -> None:
        self.limits = limits or EventLimits()
        # Joining needs the model's lock shared only, and leaving not at all.
        self._changing = threading.Lock()
        self._watchers: set[Watcher] = set()
        self._tail = _Link(0, None, 0)
        self._listeners: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._watchers)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` at each commit while there are watchers. The lock is held then."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)

    def publish(self, commit: Commit) -> None:
        """Append a commit to the chain. The caller holds the model's lock exclusively."""
        if not self._watchers:
            return
        event = event_of(commit, self.limits)
        link = _Link(event.revision, event, self._tail.end + event.nbytes)
        self._tail.next = link
        self._tail = link
        for listener in self._listeners:
            listener()

    def join(self, revision: int) -> Watcher:
        """Watch from now on, which is this revision. The caller holds the model's lock, shared."""
        with self._changing:
            if not self._watchers:
                self._tail = _Link(revision, None, 0)
            watcher = Watcher(self._tail)
            self._watchers.add(watcher)
            return watcher

    def leave(self, watcher: Watcher) -> None:
        """End a watch. Does nothing the second time."""
        with self._changing:
            self._watchers.discard(watcher)
        watcher.cut()

    def cut_slow(self) -> int:
        """Cut off the watchers for which too much waits. Returns how many."""
        tail, limit = self._tail, self.limits.waiting_bytes
        with self._changing:
            slow = [w for w in self._watchers if w.waiting_bytes(tail) > limit]
        for watcher in slow:
            self.leave(watcher)
        return len(slow)
