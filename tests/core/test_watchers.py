"""What a watcher is told, at a place in the history and from then on."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET, array, refusal, two
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import join
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.watchers import Event, EventLimits, Watcher, Watchers, _Link
from varserve_service.core.errors import Reason
from varserve_service.core.model import timeline
from varserve_service.core.model.live_model import LiveModel


def watch(live: LiveModel, after: int | None = None) -> tuple[list[Event], Watcher]:
    """All events up to now, and the watcher that goes on."""
    events: list[Event] = []
    while True:
        batch = live.timeline.watch(after)
        events += batch.events
        if batch.watcher is not None:
            return events, batch.watcher
        after = events[-1].revision


def taken(watcher: Watcher) -> list[int]:
    return [event.revision for event in iter(watcher.take, None)]


def links() -> int:
    """Places in chains that are still in memory."""
    gc.collect()
    return sum(type(each) is _Link for each in gc.get_objects())


def test_a_watcher_gets_what_was_and_what_comes() -> None:
    """From the history and then live: every commit once, in order, with its values."""
    live, *_ = two()
    for n in range(600):
        live.assign([Write("a", SET, array(n, n, n))])
    events, watcher = watch(live, 100)
    assert [event.revision for event in events] == list(range(101, 601))
    live.assign([Write("a", SET, array(7, 7, 7)), Write("b", SET, array(1, 2))])
    event = watcher.take()
    assert event is not None
    changes = {
        change.variable.name: (change.value.value.numpy().tolist(), change.previous.value.numpy())
        for change in event.changes
        if change.value.value and change.previous and change.previous.value
    }
    assert changes["a"][0] == [7, 7, 7]
    assert changes["a"][1].tolist() == [599, 599, 599]
    assert changes["b"][0] == [1, 2]
    assert (event.revision, watcher.revision, watcher.take()) == (601, 601, None)


def test_the_history_comes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many events, or of so many bytes and one event; the last one has the watcher."""
    live, *_ = two()
    for n in range(7):
        live.assign([Write("a", SET, array(n, n, n))])
    monkeypatch.setattr(timeline, "_BATCH_COMMITS", 3)
    batches = [live.timeline.watch(after) for after in (0, 3, 6, 4)]
    found = [[event.revision for event in batch.events] for batch in batches]
    assert found == [[1, 2, 3], [4, 5, 6], [7], [5, 6, 7]]
    assert [batch.watcher is None for batch in batches] == [True, True, False, False]
    nbytes = batches[0].events[0].nbytes
    for bound, count in ((2 * nbytes, 3), (2 * nbytes - 1, 2), (0, 1)):
        monkeypatch.setattr(timeline, "_BATCH_COMMITS", 100)
        monkeypatch.setattr(timeline, "_BATCH_BYTES", bound)
        batch = live.timeline.watch(0)
        assert (len(batch.events), batch.watcher) == (count, None)
    assert live.timeline.watch(6).watcher is not None
    assert live.timeline.watch(None).events == ()


def test_what_an_event_takes() -> None:
    """Its values as far as they are kept, its rows, and something for itself and each change."""
    limits = EventLimits(value_bytes=12, event_bytes=24)
    live = LiveModel(
        FakeModel([FakeVariable("a", array(1, 2, 3)), FakeVariable("b", array(1, 2))]),
        watchers=Watchers(limits),
    )
    rows = Rows(np.array([2, 0]))
    live.assign([Write("a", SET, array(7, 8), rows), Write("b", SET, array(5, 6))])
    ((event,), _) = watch(live, 0)
    kept = [
        (c.value.value is not None, c.previous.value is not None)
        for c in event.changes
        if c.previous
    ]
    assert kept == [(True, True), (True, False)]  # 8 + 8 + 8 of 24 bytes
    # Three values of eight bytes.
    assert event.nbytes == 24 + rows.indices.nbytes + 512 + 2 * 512


def test_a_watcher_leaves_once_and_listeners_are_told_while_there_are_any() -> None:
    """Nobody is told of what nobody watches."""
    live, *_ = two()
    told: list[int] = []

    def listener() -> None:
        told.append(live.header.revision)

    live.timeline.watchers.listen(listener)
    live.assign([Write("b", SET, array(0, 0))])
    assert told == []
    _, watcher = watch(live)
    live.assign([Write("b", SET, array(1, 1))])
    assert (told, watcher.is_cut) == ([2], False)
    live.timeline.watchers.leave(watcher)
    live.timeline.watchers.leave(watcher)
    assert (len(live.timeline.watchers), watcher.is_cut) == (0, True)
    assert refusal(watcher.take).reason is Reason.WATCH_TOO_SLOW
    _, watcher = watch(live)
    live.timeline.watchers.unlisten(listener)
    live.assign([Write("b", SET, array(2, 2))])
    assert told == [2]
    assert taken(watcher) == [3]


def test_none_is_lost_or_doubled_between_history_and_live() -> None:
    """Watchers that come while commits are made all see the same, each from its own start."""
    live, *_ = two()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            live.assign([Write("b", ADD, array(1, 1))])

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    watching = []
    while len(watching) < 200 or live.header.revision <= 200:
        after = max(0, live.header.revision - 3)
        watching.append((after, *watch(live, after)))
    stop.set()
    join(writers)
    last = live.header.revision
    for after, events, watcher in watching:
        assert [e.revision for e in events] + taken(watcher) == list(range(after + 1, last + 1))


def test_a_slow_watcher_is_cut_off_and_the_others_go_on() -> None:
    """Beyond the bound a watcher is told where to go on; what waited for it is let go of."""
    limits = EventLimits(value_bytes=100, event_bytes=200, waiting_bytes=20_000)
    watchers = Watchers(limits)
    live = LiveModel(FakeModel([FakeVariable("a", array(0))]), watchers=watchers)
    elsewhere = links() - 1
    (_, slow), (_, fast) = watch(live), watch(live)
    live.assign([Write("a", SET, array(1))])
    assert taken(slow) == taken(fast) == [1]
    for n in range(2, 100):
        live.assign([Write("a", SET, array(n))])
        watchers.cut_slow()
        assert slow.waiting_bytes(watchers._tail) <= limits.waiting_bytes
        assert taken(fast) == [n]
    assert links() == elsewhere + 1
    error = refusal(slow.take)
    assert (error.reason, error.metadata["resume_revision"]) == (Reason.WATCH_TOO_SLOW, "1")
    assert (len(watchers), fast.revision) == (1, 99)
    assert (slow.is_cut, fast.is_cut) == (True, False)
    events, _ = watch(live, slow.revision)
    assert [event.revision for event in events] == list(range(2, 100))


def test_what_nobody_waits_for_is_not_kept() -> None:
    """Events that every watcher has taken are garbage, and without watchers none are made."""
    watchers = Watchers()
    live = LiveModel(FakeModel([FakeVariable("a", array(0))]), watchers=watchers)
    live.assign([Write("a", SET, array(1))])
    assert watchers._tail.event is None
    elsewhere = links() - 1
    _, watcher = watch(live)
    for n in range(2, 50):
        live.assign([Write("a", SET, array(n))])
    assert links() == elsewhere + 49
    assert taken(watcher) == list(range(2, 50))
    assert links() == elsewhere + 1
    watchers.leave(watcher)
    live.assign([Write("a", SET, array(4))])
    assert watchers._tail.revision == 49


def test_what_is_too_large_is_told_without_its_value() -> None:
    """A value beyond the bound, and all beyond that of the event, are announced alone."""
    large = FakeVariable("large", np.zeros(100, np.float32))
    small = [FakeVariable(f"small{n}", np.zeros(10, np.float32)) for n in range(4)]
    watchers = Watchers(EventLimits(value_bytes=100, event_bytes=130))
    live = LiveModel(FakeModel([large, *small]), watchers=watchers)
    _, watcher = watch(live)
    writes = [Write(v.spec.name, SET, np.ones(v.shape(), np.float32)) for v in (large, *small)]
    live.assign(writes)
    event = watcher.take()
    assert event is not None
    told = [(c.variable.name, c.value.nbytes, c.value.value is not None) for c in event.changes]
    assert told == [
        ("large", 400, False),
        ("small0", 40, True),
        ("small1", 40, True),
        ("small2", 40, True),
        ("small3", 40, False),
    ]
    assert all(c.previous and c.previous.value is None for c in event.changes)
