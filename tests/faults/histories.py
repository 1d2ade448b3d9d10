"""What clients asked and were told, and whether the service's log of commits explains all of it.

Owns the record of a call and the check by revisions: every reply says at which revision it is true,
so that one pass over the log and one over the calls tell whether some order of the calls, which
agrees with the clock, gives each the answer that it got. O(n log n). Knows no wire.
"""

from __future__ import annotations

import heapq
import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Values = Mapping[str, int]

NEVER = math.inf


class Inconsistent(AssertionError):
    """No order of commits explains what somebody was told."""


@dataclass(slots=True)
class Call:
    """One call of one client.

    `called` and `returned` are in seconds of one clock; `returned` is NEVER for a write of which
    nobody knows whether it was done. A variable holds one integer. What a call asks for: to read
    `variables`, or to `set` and `add`, if variables or the model were last written at a revision.
    What it was told: `done`, with `revision`, `values` and `revisions` of last writes; `refused`
    for a condition, with the `current` revision of `refused_for` (a variable, or "" the model);
    `failed` by its own fault, with nothing changed; or `unknown`.
    """

    id: str
    called: float
    returned: float = NEVER
    outcome: Literal["done", "refused", "failed", "unknown"] = "unknown"
    variables: tuple[str, ...] = ()
    set: dict[str, int] = field(default_factory=dict)
    add: dict[str, int] = field(default_factory=dict)
    if_variables: dict[str, int] = field(default_factory=dict)
    if_model: int | None = None
    revision: int = -1
    values: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    refused_for: str = ""
    current: int = -1

    @property
    def writes(self) -> bool:
        """Whether it asks for a change."""
        return bool(self.set or self.add)

    def changed(self, before: Values) -> dict[str, int]:
        """What it leaves in the variables that it writes."""
        added = {name: before[name] + number for name, number in self.add.items()}
        return {**self.set, **added}

    def conditions_hold(self, model: int, written: Values) -> bool:
        """Whether it may go on where the model and its variables were last written then."""
        return self.if_model in (None, model) and all(
            written[name] == revision for name, revision in self.if_variables.items()
        )


@dataclass(frozen=True, slots=True)
class Logged:
    """A commit as the service lists it: `id` is that of the call that made it."""

    revision: int
    id: str
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """What there was before: the model's revision, values, and revisions of last writes."""

    revision: int
    values: Values
    written: Values


class States:
    """All values that each variable had, and since which revision."""

    def __init__(self, start: Start) -> None:
        self.first = self.last = start.revision
        self._since = {name: [start.written[name]] for name in start.values}
        self._values = {name: [value] for name, value in start.values.items()}

    @property
    def variables(self) -> Sequence[str]:
        """Names."""
        return list(self._since)

    def commit(self, changed: Values) -> None:
        """The next revision."""
        self.last += 1
        for name, value in changed.items():
            self._since[name].append(self.last)
            self._values[name].append(value)

    def value(self, name: str, revision: int) -> int:
        """What a variable held."""
        return self._values[name][bisect_right(self._since[name], revision) - 1]

    def written(self, name: str, revision: int) -> int:
        """The revision of the last write until then."""
        return self._since[name][bisect_right(self._since[name], revision) - 1]

    def next_written(self, name: str, revision: int) -> float:
        """The revision of the first write after that."""
        at = bisect_right(self._since[name], revision)
        return self._since[name][at] if at < len(self._since[name]) else math.inf

    def at(self, revision: int) -> dict[str, int]:
        """All values."""
        return {name: self.value(name, revision) for name in self._since}


def check(calls: Sequence[Call], log: Sequence[Logged], start: Start) -> States:
    """The states that the log stands for. Raises Inconsistent with the first thing that is wrong.

    The log has every commit since `start`, and calls are those that began then.
    """
    states = _follow(calls, log, start)
    for call in calls:
        if call.outcome == "done":
            _check_told(call, states)
    _check_clock(calls, {entry.id: entry.revision for entry in log}, states)
    return states


def _follow(calls: Sequence[Call], log: Sequence[Logged], start: Start) -> States:
    """Do what the log says was done. Each call is in it once when it was acknowledged, else once
    at the most, and not at all when it was refused; and its conditions held where it is."""
    by_id = {call.id: call for call in calls if call.writes}
    states, found = States(start), set()
    for entry in sorted(log, key=lambda each: each.revision):
        if entry.revision != states.last + 1:
            raise Inconsistent(f"expected commit {states.last + 1}, found {entry}")
        call = by_id.get(entry.id)
        if call is None or entry.id in found:
            raise Inconsistent(f"nobody asked for {entry}, or not twice")
        found.add(entry.id)
        if call.outcome in ("refused", "failed"):
            raise Inconsistent(f"{entry} was done though its caller was told: {call}")
        if call.outcome == "done" and call.revision != entry.revision:
            raise Inconsistent(f"{entry} was acknowledged as another revision: {call}")
        written = {name: states.written(name, states.last) for name in states.variables}
        if not call.conditions_hold(states.last, written):
            raise Inconsistent(f"{entry} was done though its conditions do not hold: {call}")
        changed = call.changed(states.at(states.last))
        if sorted(changed) != sorted(entry.variables):
            raise Inconsistent(f"expected {sorted(changed)} changed, found {entry}")
        states.commit(changed)
    for call in by_id.values():
        if call.outcome == "done" and call.id not in found:
            raise Inconsistent(f"a write was acknowledged and is not there: {call}")
    return states


def _check_told(call: Call, states: States) -> None:
    if not states.first <= call.revision <= states.last:
        raise Inconsistent(f"there is no such revision, the last is {states.last}: {call}")
    for name, value in call.values.items():
        expected = states.value(name, call.revision)
        if value != expected:
            raise Inconsistent(f"expected {expected} in {name}, found {value}: {call}")
    for name, revision in call.revisions.items():
        written = states.written(name, call.revision)
        if revision != written:
            raise Inconsistent(f"{name} was last written at {written}, found {revision}: {call}")


def _check_clock(calls: Sequence[Call], made: Mapping[str, int], states: States) -> None:
    """What was over before a call began comes before it: its revision is not behind."""
    returned: list[tuple[float, int]] = []
    seen = 0
    for call in sorted(calls, key=lambda each: each.called):
        while returned and returned[0][0] < call.called:
            seen = max(seen, heapq.heappop(returned)[1])
        if call.outcome == "done":
            behind = call.revision <= seen if call.writes else call.revision < seen
            if behind:
                raise Inconsistent(f"revision {seen} was known before this call began: {call}")
            heapq.heappush(returned, (call.returned, call.revision))
        elif call.outcome == "unknown" and made.get(call.id, math.inf) <= seen:
            raise Inconsistent(f"{made[call.id]} was known before this call began: {call}")
        elif call.outcome == "refused":
            heapq.heappush(returned, (call.returned, _refused_at(call, seen, states)))


def _refused_at(call: Call, seen: int, states: States) -> int:
    """The first revision at which this refusal was right, at or after what was known before."""
    name, current = call.refused_for, call.current
    if not 0 <= current <= states.last:
        raise Inconsistent(f"there is no such revision, the last is {states.last}: {call}")
    expected = call.if_variables[name] if name else call.if_model
    if expected == current:
        raise Inconsistent(f"refused though it was as expected: {call}")
    if not name:
        if current < seen:
            raise Inconsistent(f"revision {seen} was known before this call began: {call}")
        return current
    if states.written(name, current) != current:
        raise Inconsistent(f"{name} was not written at {current}: {call}")
    at = max(seen, current)
    if at >= states.next_written(name, current):
        raise Inconsistent(f"{name} was written again, which was known before: {call}")
    return at


@contextmanager
def kept_on_failure(path: Path, calls: Sequence[Call], **more: object) -> Iterator[None]:
    """When the block fails, what was recorded is in a file, which the failure names."""
    try:
        yield
    except BaseException as error:
        recorded = {"calls": [asdict(call) for call in calls], **more}
        path.write_text(json.dumps(recorded, indent=1, default=str))
        error.add_note(f"the history is in {path}")
        raise
