"""Large variables that are written in place are read part by part, as they were at one revision."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.core.test_history import random_region
from tests.core.test_live_model import SET, refusal
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import join
from varserve_service.core.arrays.regions import Region, Rows, index_of
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import partwise
from varserve_service.core.commit.history import History
from varserve_service.core.commit.partwise import PartwiseValue
from varserve_service.core.errors import Reason
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import HistogramSpec, hash_of, summarize


class Watched(FakeVariable):
    """Counts the reads, and the bytes of what is read at once."""

    most = 0
    reads = 0

    def read(self, region: Region | None = None) -> Value:
        value = super().read(region)
        self.reads += 1
        self.most = max(self.most, value.nbytes)
        return value


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partwise, "PART_BYTES", 24)


def table(rows: int = 5, columns: int = 4, **options: Any) -> tuple[LiveModel, Watched]:
    array = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    variable = Watched("a", array, in_place=True)
    return LiveModel(FakeModel([variable]), **options), variable


def value_of(live: LiveModel, **options: Any) -> Value:
    (entry,) = live.read([Read("a", **options)]).entries
    assert isinstance(entry.value, PartwiseValue)
    return entry.value


@pytest.mark.usefixtures("small_parts")
def test_no_read_takes_more_than_a_part_at_once() -> None:
    """Whoever asks for bytes, statistics, a hash or all: and no memory for a copy is asked."""
    budget = MemoryBudget("host", lambda: Room(0, 2**40))
    live, variable = table(50, host_memory=budget)
    expected = np.arange(200, dtype=np.float32).reshape(50, 4)
    admitted: list[bool] = []
    snapshot = live.read([Read("a")], admit=lambda *asked: admitted.append(asked[3]))
    value = snapshot.entries[0].value
    assert value is not None
    assert (value.shape, value.dtype, value.nbytes) == ((50, 4), "float32", 800)
    assert bytes(value.buffer(0, 800)) == expected.tobytes()
    assert value.numpy().tolist() == expected.tolist()
    ours = summarize(value, histogram=HistogramSpec(7), content_hash=True)
    theirs = summarize(HostValue(expected), histogram=HistogramSpec(7), content_hash=True)
    assert ours.content_hash == theirs.content_hash
    assert ours.moments == theirs.moments
    assert ours.histogram is not None
    assert theirs.histogram is not None
    assert ours.histogram.counts.tolist() == theirs.histogram.counts.tolist()
    assert variable.most <= 24
    assert admitted == [False]


@pytest.mark.usefixtures("small_parts")
def test_random_runs_are_the_bytes_of_the_whole() -> None:
    """Wherever a run begins and ends, in a part or over several."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    live, variable = table(11, 3)
    assert variable.array is not None
    expected, value = variable.array.tobytes(), value_of(live)
    for _ in range(300):
        start, stop = sorted(chance.choices(range(len(expected) + 1), k=2))
        assert bytes(value.buffer(start, stop)) == expected[start:stop]


@pytest.mark.usefixtures("small_parts")
def test_a_part_is_read_once_for_all_of_its_chunks() -> None:
    """As long as nobody asks for another part in between."""
    live, variable = table()
    value, before = value_of(live), variable.reads
    for start in range(0, 16, 4):
        value.buffer(start, start + 4)
    assert variable.reads == before + 1


@pytest.mark.usefixtures("small_parts")
def test_two_who_go_along_some_parts_apart_read_each_once() -> None:
    """As a hash does and a sum, of which each takes its own runs."""
    live, variable = table(rows=20)
    value, before, apart = value_of(live), variable.reads, partwise._KEPT_PARTS - 1
    for number in range(19):  # the last one would let go of all
        for row in (number, number - apart):
            value.buffer(16 * max(0, row), 16 * max(0, row + 1))
    assert variable.reads == before + 19


@pytest.mark.usefixtures("small_parts")
def test_a_part_is_let_go_of_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them than that are in memory at once, and none when the last was read."""
    live, variable = table(rows=3 * partwise._KEPT_PARTS)
    value = value_of(live)
    read, there = variable.read, list[int]()

    def reading(region: Region | None = None) -> Value:
        there.append(len(value._kept))
        return read(region)

    monkeypatch.setattr(variable, "read", reading)
    value.numpy()
    assert len(there) > partwise._KEPT_PARTS
    assert max(there) == partwise._KEPT_PARTS - 1
    assert not value._kept


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kept", [0, 2**30])
def test_what_is_written_meanwhile_is_not_seen(kept: int) -> None:
    """Rows, slices and wholes, between any two parts, kept in the history or not."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, changed = random.Random(seed), 0
    for _ in range(40):
        live, variable = table(history=History(max_bytes=kept))
        assert variable.array is not None
        values: list[tuple[Value, np.ndarray[Any, Any]]] = []
        for number in range(12):
            if chance.random() < 0.5:
                values.append((value_of(live), variable.array.copy()))
            region = None if chance.random() < 0.1 else random_region(chance)
            shape = (
                variable.array.shape if region is None else variable.array[index_of(region)].shape
            )
            live.assign([Write("a", SET, np.full(shape, 100 + number, np.float32), region)])
            for value, expected in chance.sample(values, len(values) // 2):
                start = 4 * chance.randrange(20)
                assert (
                    bytes(value.buffer(start, start + 4)) == expected.tobytes()[start : start + 4]
                )
        for value, expected in values:
            changed += not np.array_equal(expected, variable.array)
            assert value.numpy().tolist() == expected.tolist()
            assert hash_of(value) == hash_of(HostValue(expected))
    assert changed > 50


@pytest.mark.usefixtures("small_parts")
def test_earlier_revisions_are_read_by_parts() -> None:
    """With what was written since, and what is written meanwhile, put back."""
    live, variable = table()
    assert variable.array is not None
    expected = [variable.array.copy()]
    for row in (1, 3, 1):
        new = np.full((1, 4), row + 50, np.float32)
        live.assign([Write("a", SET, new, Rows(np.array([row])))])
        expected.append(variable.array.copy())
    entries = [live.timeline.read([Read("a")], revision).entries[0] for revision in range(4)]
    live.assign([Write("a", SET, np.zeros((5, 4), np.float32))])
    for entry, array in zip(entries, expected, strict=True):
        assert isinstance(entry.value, PartwiseValue)
        assert entry.value.numpy().tolist() == array.tolist()
    assert [entry.revision for entry in entries] == [0, 1, 2, 3]


@pytest.mark.usefixtures("small_parts")
def test_a_cast_is_made_part_by_part() -> None:
    """The bytes are those of the dtype that was asked for."""
    live, variable = table()
    value = value_of(live, dtype="float64")
    assert variable.array is not None
    assert (value.dtype, value.nbytes) == ("float64", 160)
    assert bytes(value.buffer(0, 160)) == variable.array.astype(np.float64).tobytes()


@pytest.mark.usefixtures("small_parts")
def test_a_write_waits_for_a_part_at_most() -> None:
    """Between two parts the lock is free: a commit goes through while a value is being read."""
    live, _ = table(50)
    value = value_of(live)
    value.buffer(0, 4)
    writer = threading.Thread(
        target=lambda: live.assign([Write("a", SET, np.zeros((50, 4), np.float32))])
    )
    writer.start()
    join([writer], 20)
    assert float(value.numpy()[-1, -1]) == 199


@pytest.mark.usefixtures("small_parts")
def test_a_value_that_is_gone_is_told_of_no_commit() -> None:
    """Nothing of it is kept: neither itself nor what was overwritten."""
    live, _ = table()
    value = value_of(live)
    readers = live._parts.history._readers
    assert len(readers["a"]) == 1
    del value
    gc.collect()
    live.assign([Write("a", SET, np.zeros((1, 4), np.float32), Rows(np.array([0])))])
    assert not readers


@pytest.mark.usefixtures("small_parts")
def test_after_the_model_is_gone_a_part_says_so() -> None:
    """It neither waits nor reads what another version has there."""
    live, _ = table()
    value = value_of(live)
    live.close()
    assert refusal(value.buffer, 0, 4).reason is Reason.MODEL_NOT_READY


def test_small_ones_and_strings_are_read_at_once() -> None:
    """One part is read no faster, and the bytes of strings are not known."""
    words = FakeVariable("words", np.full((9, 9), b"x" * 99, object), in_place=True)
    small = FakeVariable("a", np.zeros((4, 4), np.float32), in_place=True)
    live = LiveModel(FakeModel([words, small]))
    with mock.patch.object(partwise, "PART_BYTES", 64):
        entries = live.read([Read("words"), Read("a")]).entries
    assert not any(isinstance(entry.value, PartwiseValue) for entry in entries)
