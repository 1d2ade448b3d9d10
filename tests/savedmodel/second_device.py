"""What the service does with a model that is not on the host: `test_placement` runs these tests.

In a process of its own: devices are fixed by the first use of TensorFlow in one. Where there is no
GPU the device is a second logical CPU, which has no kernels here that a GPU has not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_resource_variable_ops

from tests import saved_models
from tests.savedmodel.looking import variable
from varserve.tensors import numpy_dtype
from varserve_service import savedmodel
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices, index_of
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory, RequestError
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.core.ports.loaded_model import Operation, Value
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.summaries import HistogramSpec, summarize
from varserve_service.journal import JournalOptions, StateDirectory, save_safetensors
from varserve_service.lifecycle import SaveRoom
from varserve_service.savedmodel import Placement, casts, configure_devices, values, variables
from varserve_service.savedmodel.placement import is_host

# TensorFlow has no variables of these on a GPU: they are on the host.
HOST_ONLY = ("string", "int32", "float8_e5m2", "float8_e4m3fn")
# By TensorFlow's own list of its kernels.
NO_GATHER = ("int8", "int16", "uint8", "uint16", "uint32", "uint64")
NO_SCATTER = ("bool", "float16", "bfloat16", *NO_GATHER)


class Place(Placement):
    """A device with room that the tests set."""

    room = Room(10**9, 10**9)

    def memory(self) -> Room | None:
        return self.room


@pytest.fixture(scope="session")
def place() -> Placement:
    if tf.config.list_physical_devices("GPU"):
        return Place(configure_devices().logical, "GPU:3")
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(cpu, two)
    return Place("CPU:1", "GPU:3")


class Wide(tf.Module):
    """`d_DTYPE`, and `t_DTYPE` whose rows are gathered, [64, 8] of each dtype of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        numbers = np.arange(512).reshape(64, 8) % 120
        tables = []
        for name in saved_models.DTYPES:
            if name not in HOST_ONLY:
                value = tf.constant(numbers.astype(numpy_dtype(name)))
                setattr(self, f"d_{name}", tf.Variable(value, name=f"d_{name}"))
                setattr(self, f"t_{name}", tf.Variable(value, name=f"t_{name}"))
                tables.append(getattr(self, f"t_{name}"))
        self.tables = tables
        self.step = tf.Variable(np.zeros([64, 8], np.int32), name="step")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def look(self, ids: Any) -> Any:
        return [tf.gather(table, ids) for table in self.tables]


@pytest.fixture(scope="session")
def root(place: Placement, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tf.saved_model.save(Wide(), str(folder / "wide"))
    return folder


Load = Callable[..., LiveModel]


@pytest.fixture
def live(root: Path, place: Placement) -> Load:
    def loaded(name: str, **options: Any) -> LiveModel:
        path = saved_models.build(name, root) if name != "wide" else root / name
        return LiveModel(savedmodel.load(name, path, placement=place), **options)

    return loaded


def tensor_of(value: Value) -> Any:
    if isinstance(value, values.RegionValue):
        value = value.cut()
    assert isinstance(value, values.TensorValue), type(value)
    return value.tensor


def on_device(value: Value) -> bool:
    return not is_host(tensor_of(value).backing_device)


_brought: list[int] = []


def note_copy(tensor: Any) -> None:
    if not is_host(tensor.backing_device):
        _brought.append(int(np.prod(tensor.shape)) * tensor.dtype.size)


@contextmanager
def brought() -> Iterator[list[int]]:
    """Bytes of each copy that is brought to the host within the block."""
    _brought.clear()

    def count(tensor: Any) -> Any:
        note_copy(tensor)
        return real(tensor)

    real = values.host_array
    with (
        mock.patch.object(values, "host_array", count),
        mock.patch.object(variables, "host_array", count),
        mock.patch.object(casts, "host_array", count),
    ):
        yield _brought


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    """No kernels but those of a GPU: what has none is done on the host, and its result is there."""

    def handle(*, dtype: Any, **options: Any) -> Any:
        name = tf.as_dtype(dtype).name
        with tf.device("CPU:0") if name in HOST_ONLY else nullcontext():
            return made(dtype=dtype, **options)

    made = gen_resource_variable_ops.var_handle_op

    def without(call: Callable[..., Any], dtypes: tuple[str, ...]) -> Callable[..., Any]:
        def called(tensor: Any, *rest: Any) -> Any:
            if tf.executing_eagerly() and tensor.dtype.name in dtypes:
                note_copy(tensor)
                with tf.device("CPU:0"):
                    return call(tensor, *rest)
            return call(tensor, *rest)

        return called

    scatter = "tensor_scatter_nd_update"
    with (
        mock.patch.object(gen_resource_variable_ops, "var_handle_op", handle),
        mock.patch.object(tf, "gather", without(tf.gather, NO_GATHER)),
        mock.patch.object(tf, scatter, without(getattr(tf, scatter), NO_SCATTER)),
    ):
        yield


def read(live: LiveModel, name: str, region: Region | None = None, dtype: Any = None) -> Value:
    (entry,) = live.read([Read(name, region, dtype)]).entries
    assert entry.value is not None
    return entry.value


def number(live: LiveModel, name: str, region: Region | None = None) -> np.ndarray[Any, Any]:
    return read(live, name, region).numpy()


def rows(*indices: int) -> Rows:
    return Rows(np.array(indices, np.int64))


REGIONS = (
    rows(3),
    rows(5, 1, 5, 63),
    rows(),
    Slices((Slice(2, 5),)),
    Slices((Slice(0, 64, 7), Slice(1, 8, 3))),
    Slices((Slice(), Slice(2, 3))),
    Slices((Slice(4, 4),)),
    Slices((Slice(0, 1), Slice())),
)
WIDE = [f"d_{dtype}" for dtype in saved_models.DTYPES if dtype not in HOST_ONLY]
WIDE += [f"t_{dtype}" for dtype in ("float32", "bfloat16", "int8", "uint64", "complex64")]


def test_what_is_read_is_cut_on_the_device(live: Load) -> None:
    """Whole or a region, of every dtype, by any chunks: no more comes to the host than is sent."""
    model = live("wide")
    for name in WIDE:
        whole = read(model, name)
        assert on_device(whole)
        expected = whole.numpy()
        assert expected.shape == (64, 8)
        for region in REGIONS:
            part = expected[index_of(region)]
            with brought() as found:
                value = read(model, name, region)
                assert value.shape == part.shape
                assert on_device(value), (name, region)
                data = part.tobytes()
                for start, stop in ((0, len(data)), (1, len(data) - 1), (3, 9)):
                    assert bytes(value.buffer(start, stop)) == data[start:stop]
                assert value.numpy().tobytes() == data
            assert max(found, default=0) <= len(data), (name, region)


def test_a_chunk_brings_no_more_than_itself(live: Load) -> None:
    """Cast or not."""
    model = live("wide")
    for name, dtype in (("d_float32", None), ("d_float32", "bfloat16"), ("t_float16", "float64")):
        value = read(model, name, None, dtype)
        size = tf.as_dtype(value.dtype).size
        with brought() as found:
            for start in range(0, value.nbytes, 100):
                value.buffer(start, min(start + 100, value.nbytes))
        assert found
        assert max(found) <= 100 + 2 * size


def test_what_is_written_stays_on_the_device(live: Load) -> None:
    """SET, ADD and SUB of wholes and regions, of every dtype, come to the same as in numpy."""
    model = live("wide")
    for name in WIDE:
        dtype = name[2:]
        for region in (None, *REGIONS[:1], rows(7, 2), *REGIONS[2:]):
            for operation in Operation:
                if operation is not Operation.SET and dtype == "bool":
                    continue
                expected = number(model, name).copy()
                index = (...,) if region is None else index_of(region)
                operand = np.array(expected[index][..., ::-1], order="C")
                change = {
                    Operation.SET: lambda old, new: new,
                    Operation.ADD: np.add,
                    Operation.SUB: np.subtract,
                }[operation]
                with np.errstate(all="ignore"):
                    expected[index] = change(expected[index], operand)
                with brought() as found:
                    model.assign([Write(name, operation, operand, region)])
                by_host = dtype == "bool" and isinstance(region, Rows)
                assert not found or by_host, (name, region, operation)
                whole = read(model, name)
                assert on_device(whole)
                assert whole.numpy().tobytes() == expected.tobytes(), (name, region, operation)


def test_history_and_reverts(live: Load) -> None:
    """The past is on the device too; what replaced regions held does not keep the wholes there."""
    model = live("wide")
    for name in ("d_float32", "t_float32", "d_int8", "d_bfloat16", "t_uint64", "d_complex64"):
        before, at = number(model, name).copy(), model.header.revision
        for region in (rows(1, 9), Slices((Slice(8, 24),)), Slices((Slice(0, 2), Slice(0, 2)))):
            operand = np.array(before[index_of(region)][::-1], order="C")
            model.assign([Write(name, Operation.SET, operand, region)])
            commit = model._parts.history._commits[-1]  # type: ignore[attr-defined]
            previous = commit.changed[0].previous
            assert previous is not None
            assert on_device(previous)
            assert on_device(past(model, name, at))
        assert past(model, name, at).numpy().tobytes() == before.tobytes()
        assert past(model, name, at, rows(9)).numpy().tobytes() == before[[9]].tobytes()
        model.revert(at)
        assert number(model, name).tobytes() == before.tobytes()
        assert on_device(read(model, name))


def past(model: LiveModel, name: str, at: int, region: Region | None = None) -> Value:
    (entry,) = model.timeline.read([Read(name, region)], at).entries
    assert entry.value is not None
    return entry.value


def test_a_part_has_memory_of_its_own(live: Load) -> None:
    """A run of rows, too, which TensorFlow would cut without a copy."""
    model = live("wide")
    loaded: Any = model._loaded
    for name in WIDE:
        found = variable(loaded, name)
        whole = found.read()
        for region in REGIONS:
            part = found.part(whole, region)
            assert on_device(part), (name, region)
            assert part.numpy().tobytes() == whole.numpy()[index_of(region)].tobytes()
            assert not np.shares_memory(part.numpy(), whole.numpy()), (name, region)


def test_leases_conditions_and_reading_back(live: Load) -> None:
    """A lease that ends puts back what was there."""
    model = live("wide")
    ones = np.ones((1, 8), np.float32)
    for name in ("d_float32", "t_float32"):
        before = number(model, name).copy()
        answer = model.assign(
            [Write(name, Operation.ADD, ones, rows(2))],
            lease_seconds=60,
            read_back=Read(name, rows(2)),
        )
        assert answer.values[name].numpy().tolist() == (before[[2]] + 1).tolist()
        assert on_device(answer.values[name])
        model.leases.revoke(answer.header.revision)
        assert number(model, name).tobytes() == before.tobytes()


def test_many_at_once(live: Load) -> None:
    """Variables of the device and of the host in one snapshot and one commit."""
    model = live("many")
    names = [spec.path for spec in model.specs]
    snapshot = model.read([Read(name) for name in names])
    for spec, entry in zip(model.specs, snapshot.entries, strict=True):
        assert entry.value is not None
        assert on_device(entry.value) == (spec.device == "GPU:3") == (spec.dtype != "string")
    floats = [name for name in names if name.startswith("f/")]
    writes = [Write(name, Operation.SET, np.full(2, 7, np.float32)) for name in floats]
    model.assign(writes)
    model.run("step", {}, {})
    for name in floats:
        assert number(model, name).tolist() == [8, 8]
        assert on_device(read(model, name))
    model.revert(0)
    assert number(model, "f/3").tolist() == [3, -3]


def test_what_a_gpu_does_not_keep_is_on_the_host(live: Load) -> None:
    """Every dtype in one model: read, written, summarized and taken back, each where it is."""
    model = live("every_dtype")
    names = [spec.name for spec in model.specs]
    assert {s.dtype for s in model.specs if s.device == "CPU:0"} == set(HOST_ONLY)
    before = {name: number(model, name).tolist() for name in names}
    for region in (None, rows(1), Slices((Slice(), Slice(0, 2)))):
        parts = {name: number(model, name, region).copy() for name in names}
        writes = [Write(n, Operation.SET, part[::-1].copy(), region) for n, part in parts.items()]
        model.assign(writes)
        for name in names:
            assert number(model, name, region).tolist() == parts[name][::-1].tolist()
            assert on_device(read(model, name)) == (name.removeprefix("v_") not in HOST_ONLY)
            summarize(read(model, name, region), content_hash=True)
    assert {name: past(model, name, 0).numpy().tolist() for name in names} == before
    model.revert(0)
    assert {name: number(model, name).tolist() for name in names} == before


def test_a_variable_without_a_value(live: Load) -> None:
    """Gets one by a SET of the whole, on the device."""
    model = live("tf1_uninitialized")
    (state, *_) = [s for s in model.describe().variables if s.shape is None]
    with pytest.raises(RequestError, match="has no value yet"):
        read(model, state.spec.path)
    shape = tuple(size or 1 for size in state.spec.shape or ())
    new = np.ones(shape, numpy_dtype(state.spec.dtype))
    model.assign([Write(state.spec.path, Operation.SET, new.copy())])
    value = read(model, state.spec.path)
    assert value.numpy().tolist() == new.tolist()
    assert on_device(value)


@pytest.mark.parametrize("count", [2, 6])
def test_many_regions_of_one_variable(live: Load, count: int) -> None:
    """One value comes of them, on the device, and one revert takes them back."""
    model = live("wide")
    for name in ("d_float32", "t_float32", "d_int8", "t_bfloat16"):
        before, at = number(model, name).copy(), model.header.revision
        expected, writes = before.copy(), []
        for row in range(count):
            region = rows(row) if row % 2 else Slices((Slice(row, row + 3), Slice(1, 4)))
            operand = np.array(before[index_of(region)][::-1], order="C")
            expected[index_of(region)] = operand
            writes.append(Write(name, Operation.SET, operand, region))
        model.assign(writes)
        assert number(model, name).tobytes() == expected.tobytes()
        assert on_device(read(model, name))
        model.revert(at)
        assert number(model, name).tobytes() == before.tobytes()


def test_functions(live: Load) -> None:
    """Inputs, outputs and captures; what a function that fails has written is put back."""
    counter = live("counter")
    answer = counter.run("serving_default", {"x": np.ones(3, np.float32)}, {})
    assert answer.values["output_0"].numpy() == 6
    assert on_device(answer.values["output_0"])
    assert counter.run("add", {"n": np.array(4, np.int64)}, {}).values["count"].numpy() == 4
    with pytest.raises(Exception, match="count too large"):
        counter.run("fail", {}, {})
    assert (number(counter, "count"), number(counter, "v").tolist()) == (4, [1, 2, 3])
    words = live("strings_and_ints")
    joined = words.run("join", {"parts": np.array([b"a", b"b"], object)}, {})
    assert joined.values["output_0"].numpy() == b"a-b"
    table = live("embedding")
    ids = np.array([3, 1], np.int64)
    new = np.full((2, 4), 9, np.float32)
    table.run("set_rows", {"ids": ids, "rows": new}, {})
    assert number(table, "table", rows(3)).tolist() == [[9] * 4]
    table.run("draw", {}, {})
    table.revert(0)
    assert number(table, "table", rows(3)).tolist() == [[3] * 4]
    grown = live("partial_shapes")
    grown.run("grow", {}, {})
    assert number(grown, "rows").shape == (4, 3)


def test_summaries(live: Load) -> None:
    """Of wholes and regions."""
    model = live("wide")
    for name in WIDE:
        for region in (None, rows(1, 2), Slices((Slice(0, 9, 2),))):
            value = read(model, name, region)
            with brought() as found:
                summary = summarize(value, histogram=HistogramSpec(3))
            assert summary.moments.reduced.count == np.prod(value.shape)
            assert not found, name


def test_what_was_kept_is_put_back(
    live: Load, root: Path, place: Placement, tmp_path: Path
) -> None:
    """A start over a journal gives every variable the bits that it had, on the device."""
    expected = {}
    for again in range(2):
        directory = StateDirectory(tmp_path, JournalOptions(inline_bytes=300))
        make = lambda: savedmodel.load("wide", root / "wide", placement=place)  # noqa: E731
        model, journal = directory.take_up(make, LiveModel)
        if not again:
            for name in WIDE:
                old = number(model, name)
                model.assign([Write(name, Operation.SET, np.array(old[::-1], order="C"))])
                for region in (rows(1, 4), Slices((Slice(2, 9), Slice(0, 3)))):
                    part = np.array(old[index_of(region)], order="C")
                    model.assign([Write(name, Operation.SET, part, region)])
                expected[name] = number(model, name).tobytes()
        for name in WIDE:
            assert number(model, name).tobytes() == expected[name], name
            assert on_device(read(model, name))
        revision = model.header.revision
        journal.close()
        directory.close()
    assert revision == 3 * len(WIDE)


def test_a_journal_asks_for_room_on_the_host(root: Path, place: Placement, tmp_path: Path) -> None:
    """It keeps what is brought there: of an assign, a function that writes and a revert."""
    path = saved_models.build("counter", root)
    available = [10**9]
    budget = MemoryBudget("host", lambda: Room(available[0], 10**9))
    directory = StateDirectory(tmp_path, JournalOptions())
    model, journal = directory.take_up(
        lambda: savedmodel.load("counter", path, placement=place),
        lambda loaded, **options: LiveModel(loaded, host_memory=budget, **options),
    )
    changes: list[tuple[int, Callable[[], Any]]] = [
        (12, lambda: model.assign([Write("v", Operation.SET, np.zeros(3, np.float32))])),
        (8, lambda: model.run("add", {"n": np.array(1, np.int64)}, {})),
        (20, lambda: model.revert(0)),
    ]
    with mock.patch("varserve_service.core.memory.SMALL_BYTES", 1):
        for revision, (nbytes, change) in enumerate(changes, 1):
            available[0] = nbytes - 1
            with pytest.raises(OutOfMemory, match=f"what is kept of .* needs {nbytes} bytes"):
                change()
            available[0] = nbytes
            assert change().header.revision == revision
    assert budget.reserved == 0
    journal.close()
    directory.close()


@pytest.mark.parametrize("form", list(SaveFormat))
def test_saving(form: SaveFormat, live: Load, root: Path, tmp_path: Path) -> None:
    """Every format takes values from the device, and asks for room on the host first."""
    available = [10**9]
    budget = MemoryBudget("host", lambda: Room(available[0], 10**9))
    model = live("nested", host_memory=budget)
    model.assign([Write("loose/0", Operation.SET, np.array(5, np.int32))])
    savers = {
        SaveFormat.SAVED_MODEL: savedmodel.save_saved_model,
        SaveFormat.CHECKPOINT: savedmodel.save_checkpoint,
        SaveFormat.SAFETENSORS: save_safetensors,
    }
    room = SaveRoom(tmp_path / "saves", savers)
    assert room.save(model, root / "nested", "one", form).header.revision == 1
    there = [spec.path for spec in model.specs if spec.device == "GPU:3"]
    nbytes = sum(read(model, path).nbytes for path in there)
    with mock.patch("varserve_service.core.memory.SMALL_BYTES", 1):
        available[0] = nbytes
        room.save(model, root / "nested", "two", form)
        available[0] = nbytes - 1
        with pytest.raises(OutOfMemory, match=r"the save needs \d+ bytes of host memory"):
            room.save(model, root / "nested", "three", form)
    assert sorted(path.name for path in (tmp_path / "saves").iterdir()) == ["one", "two"]
    assert budget.reserved == 0


def test_memory_of_the_device(live: Load) -> None:
    """What is staged there is refused where it does not fit; what is on the host is not."""
    model = live("wide")
    assert {spec.name: spec.device for spec in model.specs}["step"] == "CPU:0"
    with (
        mock.patch.object(Place, "room", Room(0, 10**9)),
        mock.patch("varserve_service.core.memory.SMALL_BYTES", 1),
    ):
        model.assign([Write("step", Operation.ADD, np.ones((64, 8), np.int32))])
        with pytest.raises(OutOfMemory, match="needs 4096 bytes of GPU:3 memory; 0 are"):
            model.assign([Write("d_float32", Operation.ADD, np.ones((64, 8), np.float32))])
    assert number(model, "step").max() == 1
    assert number(model, "d_float32").max() == 119
    assert (model.memory.host.reserved, model.memory.device.reserved) == (0, 0)


def test_no_memory_while_a_value_is_read(live: Load) -> None:
    """Is told as that, wherever it comes up."""
    model = live("wide")
    gone = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise gone

    whole, part, cast = (
        read(model, "d_float32"),
        read(model, "d_float32", rows(1)),
        read(model, "d_float32", rows(1), "float16"),
    )
    with mock.patch.object(tf.raw_ops, "StridedSlice", fail), mock.patch.object(tf, "gather", fail):
        with pytest.raises(OutOfMemory, match="a part of variable 'd_float32'"):
            part.buffer(0, 4)
        with pytest.raises(OutOfMemory, match="a part of variable 'd_float32'"):
            cast.buffer(0, 4)
    with mock.patch.object(values, "host_array", fail):
        for use in (whole.numpy, lambda: whole.buffer(0, 4), lambda: whole.buffer(0, whole.nbytes)):
            with pytest.raises(OutOfMemory, match="of 2048 bytes"):
                use()
    table: Any = variable(model._loaded, "t_float32")  # type: ignore[arg-type]
    with (
        mock.patch.dict(table._access, {"gather": fail}),
        mock.patch.object(table, "_whole", fail),
        pytest.raises(OutOfMemory, match="to read variable 't_float32'"),
    ):
        table.read(rows(1))
