"""Variables of real SavedModels in sealed memory, which other processes have mapped."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_models
from tests.savedmodel.looking import variable
from tests.waiting import until
from varserve import lane
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.arrays.sealed import SealedMemory, memory_of
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel, Operation
from varserve_service.core.ports.messages import Read
from varserve_service.rpc.lane import lend_memory

Load = Callable[[str], LoadedModel]
COUNT = 1 << 19
"""2 MiB of float32."""


@saved_models.builder
def weights_and_table(folder: Path) -> Path:
    """A large variable that a function adds to, as training does, and a table that is looked up."""

    class Model(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(tf.zeros([COUNT]), name="w")
            self.table = tf.Variable(tf.zeros([COUNT // 16, 16]), name="table")

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="by")])
        def train(self, by: tf.Tensor) -> dict[str, tf.Tensor]:
            self.w.assign_add(tf.fill([COUNT], by))
            self.w.assign_sub(tf.fill([COUNT], by / 2))
            return {"first": self.w[0]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="rows")])
        def look_up(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"found": tf.gather(self.table, rows)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="rows")])
        def add_rows(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
            self.table.scatter_add(tf.IndexedSlices(tf.ones([tf.size(rows), 16]), rows))
            return {"sum": tf.reduce_sum(self.table)}

    model = Model()
    signatures = {"train": model.train, "look_up": model.look_up, "add_rows": model.add_rows}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    return folder


@pytest.fixture
def live(load: Load) -> LiveModel:
    return LiveModel(load("weights_and_table"))


def sealed(value: np.ndarray[Any, Any]) -> SealedMemory:
    fd = lane.new_memory(value.nbytes)
    lane.write(fd, [value.reshape(-1).view(np.uint8).data])
    lane.seal(fd)
    return SealedMemory(fd, value.nbytes)


def array_of(memory: SealedMemory, *shape: int) -> np.ndarray[Any, Any]:
    return memory.array().view(np.float32).reshape(shape)


def seen_by_others(memory: SealedMemory) -> np.ndarray[Any, Any]:
    """What another process has mapped."""
    mapped = mmap.mmap(memory.fd, memory.size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    return np.frombuffer(mapped, np.float32)


def value_of(live: LiveModel, name: str) -> Any:
    (entry,) = live.read([Read(name)]).entries
    assert entry.value is not None
    return entry.value


def lent(live: LiveModel, name: str) -> SealedMemory:
    """The memory of a variable as the lane gives it."""
    with live.memory.reserve({}, "a test") as copies:
        snapshot = live.read([Read(name)])
        found = lend_memory(live, [Read(name)], snapshot.entries, "", copies)
    assert found is not None
    (memory,) = found.memories
    return memory


def test_a_memory_that_is_assigned_becomes_the_variables_own(live: LiveModel) -> None:
    """Read again it is the same memory, without a copy."""
    memory = sealed(np.arange(COUNT, dtype=np.float32))
    array = array_of(memory, COUNT)
    address = array.ctypes.data
    live.assign([Write("w", Operation.SET, array)])
    assert value_of(live, "w").numpy().ctypes.data == address
    assert lent(live, "w") is memory


@pytest.mark.parametrize("again", [False, True])
def test_a_function_does_not_reach_what_was_given_away(live: LiveModel, again: bool) -> None:
    """It adds in place where TensorFlow has the only reference; here it gets other memory."""
    memory = sealed(np.zeros(COUNT, np.float32))
    others = seen_by_others(memory)
    live.assign([Write("w", Operation.SET, array_of(memory, COUNT))])
    if again:
        assert lent(live, "w") is memory
    for number in range(1, 4):
        live.run("train", {"by": np.float32(2)}, {})
        assert (value_of(live, "w").numpy() == number).all()
        assert not others.any()
        other = lent(live, "w")
        assert other is not memory
        assert (seen_by_others(other) == number).all()


def test_writes_of_parts_do_not_reach_it_either(live: LiveModel) -> None:
    """Regions, sums and reverts."""
    memory = sealed(np.zeros(COUNT, np.float32))
    others = seen_by_others(memory)
    live.assign([Write("w", Operation.SET, array_of(memory, COUNT))])
    live.assign([Write("w", Operation.SET, np.ones(2, np.float32), Rows(np.array([0, 9])))])
    assert lent(live, "w") is not memory
    live.assign([Write("w", Operation.ADD, np.ones(COUNT, np.float32))])
    assert value_of(live, "w").numpy()[:2].tolist() == [2, 1]
    live.revert(1)
    assert not value_of(live, "w").numpy().any()
    live.run("train", {"by": np.float32(2)}, {})
    assert (value_of(live, "w").numpy() == 1).all()
    assert not others.any()


def test_a_table_is_copied_first(live: LiveModel) -> None:
    """TensorFlow writes its rows in place whoever else has them: in memory of its own."""
    memory = sealed(np.zeros(COUNT, np.float32))
    others = seen_by_others(memory)
    live.assign([Write("table", Operation.SET, array_of(memory, COUNT // 16, 16))])
    assert variable(live._loaded, "table").writes_in_place  # type: ignore[attr-defined]
    given = lent(live, "table")
    assert given is not memory
    before = seen_by_others(given)
    for number in range(1, 3):
        live.run("add_rows", {"rows": np.array([0, 1], np.int32)}, {})
        live.assign(
            [Write("table", Operation.SET, np.full((1, 16), 9, np.float32), Rows(np.array([5])))]
        )
        found = live.run("look_up", {"rows": np.array([0, 5], np.int32)}, {}).values["found"]
        assert found.numpy()[:, 0].tolist() == [number, 9]
    assert not others.any()
    assert not before.any()


def test_a_value_that_is_lent_moves_once(live: LiveModel) -> None:
    """The variable and the history live in that memory then: nothing is there twice."""
    live.assign([Write("w", Operation.SET, np.full(COUNT, 3, np.float32))])
    before = value_of(live, "w").numpy().ctypes.data
    memory = lent(live, "w")
    now = value_of(live, "w").numpy()
    assert now.ctypes.data != before
    assert (now == 3).all()
    assert lent(live, "w") is memory
    (changed,) = live._parts.history.changes_after("w", 0)
    assert changed.value.numpy().ctypes.data == now.ctypes.data
    assert live.header.revision == 1
    live.run("train", {"by": np.float32(2)}, {})
    live.revert(1)
    assert (value_of(live, "w").numpy() == 3).all()


def test_a_value_that_was_overtaken_does_not_move(live: LiveModel) -> None:
    """A write between the copy and the move counts."""
    memory = sealed(np.zeros(COUNT, np.float32))
    live.assign([Write("w", Operation.SET, np.full(COUNT, 3, np.float32))])
    live.move("w", 0, array_of(memory, COUNT))
    assert (value_of(live, "w").numpy() == 3).all()


def test_nobody_waits_for_a_move(live: LiveModel) -> None:
    """While a function runs, which may take minutes, a value is lent and stays where it is."""
    before = value_of(live, "w").numpy().ctypes.data
    with live._parts.lock.shared():
        began = time.monotonic()
        memory = lent(live, "w")
        assert time.monotonic() - began < 30
        assert not seen_by_others(memory).any()
        with live._parts.lock.shared(time.monotonic() + 5):
            assert value_of(live, "w").numpy().ctypes.data == before
    assert lent(live, "w") is not memory
    assert value_of(live, "w").numpy().ctypes.data != before


def test_memory_goes_with_its_last_reference(live: LiveModel) -> None:
    """Nothing of the service keeps a memory whose variable has another one."""
    import gc
    import weakref

    memory = sealed(np.zeros(COUNT, np.float32))
    gone = weakref.ref(memory)
    live.move("w", 0, array_of(memory, COUNT))
    del memory
    assert gone() is not None
    live.run("train", {"by": np.float32(2)}, {})
    live._parts.history.max_bytes = 0
    live.assign([Write("w", Operation.SET, np.zeros(COUNT, np.float32))])
    value_of(live, "w")
    gc.collect()
    until(lambda: gone() is None)


def test_which_memory_an_array_is_in() -> None:
    """One from its first byte on; views of it that begin elsewhere are in none."""
    memory = sealed(np.zeros(COUNT, np.float32))
    array = array_of(memory, 2, COUNT // 2)
    assert memory_of(array) is memory
    assert memory_of(array[0]) is memory
    assert memory_of(array[1]) is None
    assert memory_of(array.T) is None
    assert memory_of(np.zeros(3)) is None
