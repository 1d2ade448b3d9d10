"""Whether one order of a few calls explains what each was told, found by trying.

The search of Wing and Gong with Lowe's memory of what was tried before. It believes no revision of
a reply but those that conditions are about: what it goes by are the values. For some sixty calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.histories import Call, Start, Values

State = tuple[int, tuple[int, ...], tuple[int, ...]]
"""The model's revision, each variable's value, and the revision of its last write."""


def order_of(calls: Sequence[Call], start: Start) -> list[Call] | None:
    """An order that agrees with the clock and explains every answer; None when there is none."""
    names = list(start.values)
    written = tuple(start.written[name] for name in names)
    return _Search(calls, names).run((start.revision, tuple(start.values.values()), written))


class _Search:
    def __init__(self, calls: Sequence[Call], names: Sequence[str]) -> None:
        self._calls = sorted(calls, key=lambda call: call.called)
        self._names = names
        self._must = sum(1 << n for n, c in enumerate(self._calls) if c.outcome != "unknown")

    def run(self, initial: State) -> list[Call] | None:
        tried: set[tuple[int, State]] = set()
        order: list[int] = []
        # Each level: what was done so far, the state then, and what may come next.
        stack = [(0, initial, self._candidates(0))]
        while stack:
            done, state, candidates = stack[-1]
            if done & self._must == self._must:
                return [self._calls[n] for n in order]
            if not candidates:
                stack.pop()
                if order:
                    order.pop()
                continue
            number = candidates.pop()
            after = self._apply(self._calls[number], state)
            if after is None:
                continue
            following = (done | 1 << number, after)
            if following not in tried:
                tried.add(following)
                order.append(number)
                stack.append((*following, self._candidates(following[0])))
        return None

    def _candidates(self, done: int) -> list[int]:
        """Those that began before any of the others was over; the one that began first is last."""
        rest = [n for n in range(len(self._calls)) if not done >> n & 1]
        over = min((self._calls[n].returned for n in rest), default=0)
        return [n for n in reversed(rest) if self._calls[n].called <= over]

    def _apply(self, call: Call, state: State) -> State | None:
        """The state after a call; None when its answer is not the one that it would get."""
        revision, values, written = state
        now = dict(zip(self._names, values, strict=True))
        last = dict(zip(self._names, written, strict=True))
        if call.outcome == "failed":
            return state
        if not call.writes:
            return state if _agree(call.values, now) else None
        holds = call.conditions_hold(revision, last)
        if call.outcome == "refused":
            return None if holds else state
        if not holds:
            return state if call.outcome == "unknown" else None
        changed = call.changed(now)
        now |= changed
        if not _agree(call.values, now):
            return None
        last |= dict.fromkeys(changed, revision + 1)
        return revision + 1, tuple(now.values()), tuple(last.values())


def _agree(told: Values, values: Values) -> bool:
    return all(values[name] == value for name, value in told.items())
