"""Large embedding tables on real SavedModels: assigned by a swap, read by parts, beside lookups."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from tests.savedmodel.looking import variable
from tests.waiting import join
from varserve_service.core.arrays.regions import Region, Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.partwise import PART_BYTES, PartwiseValue, read_by_parts
from varserve_service.core.errors import OutOfMemory, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.running import EarlierCopy
from varserve_service.core.ports.commits import Commit
from varserve_service.core.ports.loaded_model import LoadedModel, Operation, Value
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import hash_of

Load = Callable[[str], LoadedModel]
ROWS, COLUMNS = 40_000, 64
"""10 MiB of float32."""
IDS = np.array([0, 7, ROWS - 1], np.int64)


def lookup(live: LiveModel) -> list[float]:
    values = live.run("lookup", {"ids": IDS.copy()}, {}).values
    return [float(row[0]) for row in next(iter(values.values())).numpy()]


def whole(number: float) -> np.ndarray:
    return np.full((ROWS, COLUMNS), number, np.float32)


def test_a_whole_assign_is_seen_by_every_way_to_read(load: Load) -> None:
    """By a function, whole, by rows, by a summary of parts; and again after each further write."""
    live = LiveModel(load("large_table"))
    assert variable(live._loaded, "table").writes_in_place  # type: ignore[attr-defined]
    for number in range(3):
        live.assign([Write("table", Operation.SET, whole(number))])
        assert lookup(live) == [number] * 3
        row = np.full((1, COLUMNS), 100 + number, np.float32)
        live.assign([Write("table", Operation.SET, row, Rows(np.array([7])))])
        assert lookup(live) == [number, 100 + number, number]
        live.assign([Write("table", Operation.ADD, whole(1))])
        assert lookup(live) == [number + 1, 101 + number, number + 1]
        (entry,) = live.read([Read("table")]).entries
        assert isinstance(entry.value, PartwiseValue)
        expected = whole(number + 1)
        expected[7] = 101 + number
        assert np.array_equal(entry.value.numpy(), expected)
    live.revert(3)
    assert lookup(live) == [1, 101, 1]
    live.revert(0)
    assert lookup(live) == [0, 0, 0]


def test_what_fails_after_a_swap_is_swapped_back(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has the values that it had, for functions and for reads."""
    live = LiveModel(load("large_table"))
    live.assign([Write("table", Operation.SET, whole(1))])
    bias = variable(live._loaded, "bias")

    def fail(*_: object) -> None:
        raise OutOfMemory("no memory, on purpose")

    monkeypatch.setattr(type(live._loaded), "write", lambda *_: fail())
    with pytest.raises(OutOfMemory):
        live.assign(
            [
                Write("table", Operation.SET, whole(2)),
                Write("bias", Operation.SET, np.ones(COLUMNS, np.float32)),
            ]
        )
    monkeypatch.undo()
    assert lookup(live) == [1, 1, 1]
    assert bias.read().numpy().tolist() == [0] * COLUMNS
    (entry,) = live.read([Read("table")]).entries
    assert entry.value is not None
    assert np.array_equal(entry.value.numpy(), whole(1))


def test_a_value_that_is_read_stays_while_the_table_is_assigned(load: Load) -> None:
    """Parts come from before the assigns, whatever is swapped in meanwhile."""
    live = LiveModel(load("large_table"))
    live.assign([Write("table", Operation.SET, whole(1))])
    (entry,) = live.read([Read("table")]).entries
    value = entry.value
    assert value is not None
    first = bytes(value.buffer(0, 4096))
    for number in (2, 3):
        live.assign([Write("table", Operation.SET, whole(number))])
    assert first == whole(1).tobytes()[:4096]
    assert np.array_equal(value.numpy(), whole(1))


def test_after_an_assign_the_next_lookup_does_not_copy_the_table(load: Load) -> None:
    """TensorFlow gathers from the memory that was swapped in: nobody else holds it."""
    live = LiveModel(load("large_table"))
    table = variable(live._loaded, "table")
    live.assign([Write("table", Operation.SET, whole(1))])
    lookup(live)

    def address() -> int:
        tf.raw_ops.DisableCopyOnRead(resource=table.handle)  # type: ignore[attr-defined]
        alias = table._whole()  # type: ignore[attr-defined]
        return int(np.asarray(alias).ctypes.data)

    owned = table.own(table.stage(whole(2)))
    tensor = owned._tensor  # type: ignore[attr-defined]
    expected = int(np.asarray(tensor).ctypes.data)
    del tensor
    table.swap(owned)
    lookup(live)
    assert address() == expected


def test_memory_that_a_table_gave_becomes_the_tables(load: Load) -> None:
    """What was received into it is neither copied on its way nor by the next lookup."""
    live = LiveModel(load("large_table"))
    table = variable(live._loaded, "table")
    for number in range(2):
        write = Write("table", Operation.SET, whole(number))
        assert live.swaps(write)
        write.value = live.blank(write)
        write.value[...] = number + 5
        address = write.value.ctypes.data
        commits: list[Commit] = []
        live.assign([write], on_commit=lambda _, commit, commits=commits: commits.append(commit))
        assert lookup(live) == [number + 5] * 3
        tf.raw_ops.DisableCopyOnRead(resource=table.handle)  # type: ignore[attr-defined]
        alias = table._whole()  # type: ignore[attr-defined]
        assert int(np.asarray(alias).ctypes.data) == address
        del alias
        row = np.full((1, COLUMNS), 100, np.float32)
        live.assign([Write("table", Operation.SET, row, Rows(IDS[1:2]))])
        # What the commit left is told as it was, though the table holds it alone and was written.
        (changed,) = commits[0].changed
        assert hash_of(changed.value) == hash_of(HostValue(whole(number + 5)))


def test_memory_that_somebody_still_holds_is_copied(load: Load) -> None:
    """A reference that was forgotten costs a copy, and never another's value."""
    live = LiveModel(load("large_table"))
    write = Write("table", Operation.SET, whole(0))
    write.value = held = live.blank(write)
    held[...] = 5
    live.assign([write])
    row = np.full((1, COLUMNS), 100, np.float32)
    live.assign([Write("table", Operation.SET, row, Rows(IDS[:1]))])
    assert lookup(live) == [100, 5, 5]
    assert np.array_equal(held, whole(5))
    held[...] = 6
    assert lookup(live) == [100, 5, 5]


def test_a_function_that_scatters_is_a_commit(load: Load) -> None:
    """What it replaced comes back, also when it fails; what it wrote is told as it was."""
    live = LiveModel(load("large_table"))
    live.assign([Write("table", Operation.SET, whole(1))])
    commits: list[Commit] = []

    def add(value: float) -> list[float]:
        answer = live.run(
            "add_rows",
            {"ids": IDS.copy(), "value": np.float32(value)},
            {},
            on_commit=lambda _, commit: commits.append(commit),
        )
        return next(iter(answer.values.values())).numpy().tolist()

    assert add(2) == [3, 3, 3]
    assert add(3) == [6, 6, 6]
    with pytest.raises(RequestError):
        add(-1)
    assert lookup(live) == [6, 6, 6]
    for commit, rows in zip(commits, (3, 6), strict=True):
        (changed,) = commit.changed
        assert isinstance(changed.region, Rows)
        assert np.array_equal(changed.region.indices, IDS)
        assert np.array_equal(changed.value.numpy(), np.full((3, COLUMNS), rows, np.float32))
    live.revert(2)
    assert lookup(live) == [3, 3, 3]
    live.revert(1)
    assert lookup(live) == [1, 1, 1]


def test_what_is_written_while_a_function_waits_is_kept(load: Load) -> None:
    """The copy that is made before the run has what others wrote until then, rows and wholes."""
    live = LiveModel(load("large_table"))
    parts = live._parts
    table = variable(live._loaded, "table")
    expected = whole(0)
    for number, region in enumerate((Rows(IDS[:2]), None, Rows(IDS[1:]))):
        with parts.lock.shared():
            value = read_by_parts(table, parts.lock, parts.history, (), None)
        copy = EarlierCopy(table, value)
        written = whole(number + 1) if region is None else whole(number + 1)[:2]
        live.assign([Write("table", Operation.SET, written.copy(), region)])
        expected[slice(None) if region is None else region.indices] = number + 1
        with parts.lock.exclusive():
            assert np.array_equal(copy.present().numpy(), expected)


def test_lookups_go_on_while_a_function_copies_the_table(load: Load) -> None:
    """What a run replaces is copied part by part before it, and not while others have to wait.

    Where the rows that it writes are not known.
    """
    live = LiveModel(load("row_writers"))
    table = variable(live._loaded, "table")
    read, most = type(table).read, 0

    def watched(self: Any, region: Region | None = None) -> Value:
        nonlocal most
        value = read(self, region)
        most = max(most, value.nbytes)
        return value

    with mock.patch.object(type(table), "read", watched):
        live.run("looped", {"ids": IDS.copy()}, {})
    assert 0 < most <= PART_BYTES
    (entry,) = live.read([Read("table", Rows(IDS))]).entries
    assert entry.value is not None
    assert entry.value.numpy()[:, 0].tolist() == [1, 1, 1]


def test_a_whole_is_added_part_by_part(load: Load) -> None:
    """What is there is never read as a whole, and what others write meanwhile is added to."""
    live = LiveModel(load("large_table"))
    table = variable(live._loaded, "table")
    live.assign([Write("table", Operation.SET, whole(1))])
    blank, read, most = type(table).blank, type(table).read, 0

    def watched(self: Any, region: Region | None = None) -> Value:
        nonlocal most
        value = read(self, region)
        most = max(most, value.nbytes)
        return value

    def write_row(number: float) -> None:
        row = np.full((1, COLUMNS), number, np.float32)
        live.assign([Write("table", Operation.SET, row, Rows(IDS[1:2]))])

    for operation, expected in ((Operation.ADD, [3, 12, 3]), (Operation.SUB, [2, 19, 2])):

        def overtaken(self: Any, shape: Any, operation: Operation = operation) -> np.ndarray:
            write_row(5)  # while the sum is worked out, and before its commit
            array = blank(self, shape)
            write_row(10 if operation is Operation.ADD else 20)
            return array

        amount = 2 if operation is Operation.ADD else 1
        with (
            mock.patch.object(type(table), "read", watched),
            mock.patch.object(type(table), "blank", overtaken),
        ):
            live.assign([Write("table", operation, whole(amount))])
        assert 0 < most <= PART_BYTES
        assert lookup(live) == expected
        (entry,) = live.read([Read("table")]).entries
        assert entry.value is not None
        assert entry.value.numpy()[[0, 7, 8], 0].tolist() == [expected[0], expected[1], expected[0]]
    live.revert(1)
    assert lookup(live) == [1, 1, 1]


def test_a_whole_that_is_added_while_another_is_assigned(load: Load) -> None:
    """It is added to that other one."""
    live = LiveModel(load("large_table"))
    table = variable(live._loaded, "table")
    blank, once = type(table).blank, [True]

    def overtaken(self: Any, shape: Any) -> np.ndarray:
        if once.pop():
            once.append(False)
            live.assign([Write("table", Operation.SET, whole(5))])
        else:
            once.append(False)
        return blank(self, shape)

    with mock.patch.object(type(table), "blank", overtaken):
        live.assign([Write("table", Operation.ADD, whole(2))])
    assert lookup(live) == [7, 7, 7]


def test_a_function_that_scatters_where_rows_are_not_known(load: Load) -> None:
    """The commit of one that fails changes nothing, and of others it has the rows that differ."""
    live = LiveModel(load("row_writers"))
    live.run("looped", {"ids": IDS.copy()}, {})
    with pytest.raises(RequestError):
        live.run("looped", {"ids": np.array([0, ROWS], np.int64)}, {})
    (entry,) = live.read([Read("table")]).entries
    assert entry.value is not None
    assert entry.value.numpy().sum() == 3 * COLUMNS


def test_lookups_go_on_while_a_table_a_table_is_assigned(load: Load) -> None:
    """Each sees the table before or after, never a mixture."""
    live = LiveModel(load("large_table"))
    live.assign([Write("table", Operation.SET, whole(0))])
    stop, seen = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            seen.append(lookup(live))

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 6):
        live.assign([Write("table", Operation.SET, whole(number))])
        time.sleep(0)
    stop.set()
    join([thread])
    assert seen
    assert all(len(set(row)) == 1 for row in seen)
