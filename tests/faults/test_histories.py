"""The checks of histories find what is wrong: told what cannot be, they say so."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import pytest

from tests.faults.histories import NEVER, Call, Inconsistent, Logged, Start, States, check
from tests.faults.linearizable import order_of
from tests.faults.watched import Heard, Watched, check_watch

INITIAL = {"a": 0, "b": 0, "c": 0}
START = Start(0, INITIAL, INITIAL)


def write(name: str, at: tuple[float, float], revision: int, **more: object) -> Call:
    """A write that was done."""
    return Call(name, *at, outcome="done", revision=revision, **more)  # type: ignore[arg-type]


def read(at: tuple[float, float], revision: int, **values: int) -> Call:
    """A read, and what it gave."""
    return Call("", *at, "done", tuple(values), revision=revision, values=values)


def refused(name: str, at: tuple[float, float], variable: str, expected: int, current: int) -> Call:
    """A write under a condition that did not hold."""
    return Call(
        name,
        *at,
        outcome="refused",
        set={"a": 99},
        if_variables={variable: expected} if variable else {},
        if_model=None if variable else expected,
        refused_for=variable,
        current=current,
    )


def log(*entries: tuple[str, str]) -> list[Logged]:
    """The commits 1, 2, ...: whose call it was, and what it changed."""
    return [Logged(n, name, tuple(what)) for n, (name, what) in enumerate(entries, 1)]


ONE = write("w1", (0, 1), 1, set={"a": 1})
TWO = write("w2", (2, 3), 2, set={"a": 2, "b": 2})
BOTH = log(("w1", "a"), ("w2", "ab"))

GOOD: dict[str, tuple[list[Call], list[Logged]]] = {
    "one after the other": ([ONE, TWO, read((4, 5), 2, a=2, b=2, c=0)], BOTH),
    "a read beside a write, before it": (
        [ONE, replace(TWO, returned=9), read((3, 4), 1, a=1)],
        BOTH,
    ),
    "a read beside a write, after it": (
        [ONE, replace(TWO, returned=9), read((3, 4), 2, a=2)],
        BOTH,
    ),
    "adding": (
        [write("w1", (0, 1), 1, add={"a": 2}, values={"a": 2}), read((2, 3), 1, a=2)],
        log(("w1", "a")),
    ),
    "a lost answer to what was done": (
        [Call("w1", 0, set={"a": 1}), read((2, 3), 1, a=1)],
        log(("w1", "a")),
    ),
    "a lost answer to what was not done": ([Call("w1", 0, set={"a": 1}), read((2, 3), 0, a=0)], []),
    "a failure that changes nothing": (
        [Call("w1", 0, 1, "failed", set={"a": 1}), read((2, 3), 0, a=0)],
        [],
    ),
    "a condition that holds": (
        [ONE, write("w2", (2, 3), 2, set={"a": 2, "b": 2}, if_variables={"a": 1}, if_model=1)],
        BOTH,
    ),
    "a condition that does not hold": ([ONE, TWO, refused("w3", (4, 5), "a", 1, 2)], BOTH),
    "a condition on the model": ([ONE, TWO, refused("w3", (4, 5), "", 1, 2)], BOTH),
    "a refusal beside the write that it is for": (
        [ONE, replace(TWO, returned=9), refused("w3", (3, 4), "a", 1, 2)],
        BOTH,
    ),
}

BAD: dict[str, tuple[list[Call], list[Logged]]] = {
    "a lost write": ([ONE, TWO, read((4, 5), 1, a=1)], log(("w1", "a"))),
    "a stale read": ([ONE, TWO, read((4, 5), 1, a=1)], BOTH),
    "a read of the future": ([ONE, read((0.1, 0.2), 2, a=2), TWO], BOTH),
    "half a transaction": ([ONE, TWO, read((4, 5), 2, a=2, b=0)], BOTH),
    "what nobody wrote": ([ONE, TWO, read((4, 5), 2, a=7)], BOTH),
    "reads that go back": (
        [ONE, replace(TWO, returned=9), read((3, 4), 2, a=2), read((5, 6), 1, a=1)],
        BOTH,
    ),
    "a write done twice": (
        [write("w1", (0, 1), 1, add={"a": 1}), read((2, 3), 2, a=2)],
        log(("w1", "a"), ("w1", "a")),
    ),
    "two winners of one condition": (
        [
            write("w1", (0, 5), 1, set={"a": 1}, if_variables={"a": 0}),
            write("w2", (0, 5), 2, set={"a": 2}, if_variables={"a": 0}),
        ],
        log(("w1", "a"), ("w2", "a")),
    ),
    "two winners of one condition on the model": (
        [
            write("w1", (0, 5), 1, set={"a": 1}, if_model=0),
            write("w2", (0, 5), 2, set={"b": 2}, if_model=0),
        ],
        log(("w1", "a"), ("w2", "b")),
    ),
    "a lost addition": (
        [
            write("w1", (0, 5), 1, add={"a": 1}, values={"a": 1}),
            write("w2", (0, 5), 2, add={"a": 1}, values={"a": 1}),
        ],
        log(("w1", "a"), ("w2", "a")),
    ),
    "a refusal without a reason": ([ONE, refused("w3", (4, 5), "a", 1, 1)], log(("w1", "a"))),
    "a failure that changed something": (
        [Call("w1", 0, 1, "failed", set={"a": 1}), read((2, 3), 0, a=1)],
        [],
    ),
    "a refused write that was done": (
        [ONE, refused("w3", (2, 3), "a", 0, 1), read((4, 5), 2, a=99)],
        log(("w1", "a"), ("w3", "a")),
    ),
}

# What the values alone do not show.
BAD_REVISIONS: dict[str, tuple[list[Call], list[Logged]]] = {
    "a refusal with an old revision": ([ONE, TWO, refused("w3", (4, 5), "a", 0, 1)], BOTH),
    "a refusal with another's revision": (
        [ONE, write("w2", (2, 3), 2, set={"b": 2}), refused("w3", (4, 5), "a", 0, 2)],
        log(("w1", "a"), ("w2", "b")),
    ),
    "a refusal by an old revision of the model": (
        [ONE, TWO, refused("w3", (4, 5), "", 0, 1)],
        BOTH,
    ),
    "a revision that is not there": ([ONE, read((2, 3), 2, a=1)], log(("w1", "a"))),
    "another revision than was told": (
        [replace(ONE, revision=2), replace(TWO, revision=1)],
        BOTH,
    ),
    "a gap": ([ONE, TWO], [BOTH[0], replace(BOTH[1], revision=3)]),
    "a stranger's commit": ([ONE], BOTH),
    "other variables than were written": (
        [ONE, TWO],
        [BOTH[0], replace(BOTH[1], variables=("a",))],
    ),
    "a wrong revision of the last write": (
        [ONE, TWO, replace(read((4, 5), 2, b=2), revisions={"b": 1})],
        BOTH,
    ),
    "done before it was asked for": (
        [Call("w1", 6, set={"a": 1}), read((2, 3), 1, a=1)],
        log(("w1", "a")),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_is_accepted(name: str) -> None:
    """By the revisions and by the search."""
    calls, entries = GOOD[name]
    check(calls, entries, START)
    assert order_of(calls, START) is not None


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_found_twice(name: str) -> None:
    """By the revisions, and by the search, which believes none of them."""
    calls, entries = BAD[name]
    with pytest.raises(Inconsistent):
        check(calls, entries, START)
    assert order_of(calls, START) is None


@pytest.mark.parametrize("name", BAD_REVISIONS)
def test_wrong_revisions_are_found(name: str) -> None:
    """Where the values alone could be right."""
    with pytest.raises(Inconsistent):
        check(*BAD_REVISIONS[name], START)


class Pretended:
    """A store that does everything right, and clients whose calls overlap."""

    def __init__(self, chance: random.Random, count: int) -> None:
        self.calls: list[Call] = []
        self.log: list[Logged] = []
        states = States(START)
        for number in range(count):
            # It takes effect at `number`; it began before that and was over after it.
            call = Call(f"w{number}", number - chance.random() * 4, number + chance.random() * 4)
            self._do(chance, call, states)
            self.calls.append(call)

    def _do(self, chance: random.Random, call: Call, states: States) -> None:
        names = chance.sample(list(INITIAL), chance.randint(1, 3))
        if chance.random() < 0.5:
            call.variables = tuple(names)
        else:
            target = call.set if chance.random() < 0.7 else call.add
            target |= {name: chance.randrange(1, 1000) for name in names}
        if call.writes and chance.random() < 0.5:
            name = names[0]
            written, back = states.written(name, states.last), chance.random() < 0.3
            call.if_variables = {name: written - back}
            if back:
                call.outcome, call.refused_for, call.current = "refused", name, written
                return
        if call.writes:
            states.commit(call.changed(states.at(states.last)))
            self.log.append(Logged(states.last, call.id, tuple(names)))
        call.outcome, call.revision = "done", states.last
        call.values = {name: states.value(name, states.last) for name in names}
        if call.writes and chance.random() < 0.1:
            call.outcome, call.returned, call.values = "unknown", NEVER, {}


def test_what_a_right_store_tells_is_accepted() -> None:
    """300 random histories of overlapping calls, by the revisions and by the search."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(300):
        store = Pretended(chance, 30)
        check(store.calls, store.log, START)
        assert order_of(store.calls, START) is not None


def test_one_wrong_value_is_found() -> None:
    """In 300 random histories one value that was told is another: all of them are found."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(300):
        store = Pretended(chance, 30)
        told = [call for call in store.calls if call.outcome == "done"]
        call = chance.choice(told)
        name = chance.choice(list(call.values))
        call.values[name] += 100_000  # what nobody ever wrote
        with pytest.raises(Inconsistent):
            check(store.calls, store.log, START)
        assert order_of(store.calls, START) is None


def test_a_stale_value_is_found() -> None:
    """A read that gives what was there before a write that was over: in 100 histories all found."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, found = random.Random(seed), 0
    while found < 100:
        store = Pretended(chance, 30)
        states = check(store.calls, store.log, START)
        for call in store.calls:
            over = [c for c in store.calls if c.writes and c.returned < call.called and c.set]
            if call.writes or not over:
                continue
            last = max(over, key=lambda each: each.revision)
            stale = {n: states.value(n, last.revision - 1) for n in call.variables}
            if last.revision < 1 or not set(last.set) & set(stale):
                continue
            call.values, call.revision = stale, last.revision - 1
            with pytest.raises(Inconsistent):
                check(store.calls, store.log, START)
            found += 1
            break


EVENTS = [
    Heard(0),
    Heard(1, "w1", {"a": (1, 0)}),
    Heard(2, "w2", {"a": (2, 1), "b": (2, 0)}),
    Heard(2),
]


def changed(at: int, **fields: object) -> Callable[[list[Heard]], None]:
    def change(events: list[Heard]) -> None:
        events[at] = replace(events[at], **fields)  # type: ignore[arg-type]

    return change


WRONG: dict[str, Callable[[list[Heard]], object]] = {
    "left out": lambda events: events.pop(1),
    "twice": lambda events: events.insert(2, events[1]),
    "out of order": lambda events: events.insert(1, events.pop(2)),
    "half of it": changed(2, changes={"a": (2, 1)}),
    "another value": changed(1, changes={"a": (3, 0)}),
    "another previous value": changed(2, changes={"a": (2, 0), "b": (2, 0)}),
    "a commit that never was": lambda events: events.append(Heard(3, "w3", {"a": (3, 2)})),
    "somebody else's": changed(1, id="w2"),
    "a bookmark that goes back": lambda events: events.append(Heard(1)),
    "a bookmark ahead of the commits": lambda events: events.insert(1, Heard(1)),
    "a bookmark of the future": lambda events: events.append(Heard(3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_watch_must_not_tell_is_found(name: str) -> None:
    """Left out, twice, out of order, half, wrong, or never committed."""
    states = check([ONE, TWO], BOTH, START)
    events = deepcopy(EVENTS)
    WRONG[name](events)
    with pytest.raises(Inconsistent):
        check_watch(Watched(0, heard=events), BOTH, states)


@pytest.mark.parametrize(
    ("after", "patterns", "events", "commits"),
    [
        (0, ("*",), EVENTS, 2),
        (1, ("*",), EVENTS[2:], 1),
        (0, ("b",), [Heard(0), Heard(2, "w2", {"b": (2, 0)})], 1),
        (0, ("c",), [Heard(0), Heard(2)], 0),
        (2, ("*",), [], 0),
    ],
)
def test_what_a_watch_tells_is_accepted(
    after: int, patterns: Sequence[str], events: list[Heard], commits: int
) -> None:
    """All that concerns it, from where it began to where it is."""
    states = check([ONE, TWO], BOTH, START)
    assert check_watch(Watched(after, tuple(patterns), events), BOTH, states) == commits


def test_what_is_not_watched_is_not_told() -> None:
    """A change of another variable than the patterns fit."""
    states = check([ONE, TWO], BOTH, START)
    with pytest.raises(Inconsistent):
        check_watch(Watched(0, ("b",), EVENTS[2:]), BOTH, states)
