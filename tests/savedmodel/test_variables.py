"""Reading, staging, combining and writing variables of real SavedModels, for every dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.journal.kept import kept
from tests.saved_models import DTYPES
from tests.waiting import join
from varserve_service.core.arrays.buffers import ALIGNMENT, aligned_empty
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel, Operation
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.casts import FLOATS
from varserve_service.savedmodel.values import RegionValue

from .looking import run, variable

Load = Callable[[str], LoadedModel]

NUMERIC = tuple(dtype for dtype in DTYPES if dtype not in ("bool", "string"))
REGIONS: tuple[Region, ...] = (
    Rows(np.array([1], np.int64)),
    Rows(np.array([1, 0], np.int64)),
    Rows(np.array([], np.int64)),
    Slices(()),
    Slices((Slice(1),)),
    Slices((Slice(0, 2), Slice(0, 3, 2))),
    Slices((Slice(), Slice(1, 1))),
)


def as_numpy(dtype: str) -> np.dtype[Any]:
    if dtype == "string":
        return np.dtype(object)
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def values(dtype: str, start: int = 0) -> np.ndarray[Any, Any]:
    """Six distinct values of shape [2, 3], as far as the type has them; of 0 those of the model."""
    numbers = np.arange(start, start + 6).reshape(2, 3)
    if dtype == "string":
        return np.array([[b"abcdefghijkl"[n : n + 1] for n in row] for row in numbers], object)
    return numbers.astype(as_numpy(dtype))


def index(region: Region) -> Any:
    return region.indices if isinstance(region, Rows) else region.index()


@pytest.fixture(scope="module")
def shared(placement: Any, models_root: Any) -> LoadedModel:
    """One model for the tests that put back what they change."""
    from tests import saved_models
    from varserve_service import savedmodel

    path = saved_models.build("every_dtype", models_root)
    return savedmodel.load("every_dtype", path, placement=placement)


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_and_write(shared: LoadedModel, dtype: str) -> None:
    """Every dtype is read as it was saved, and read back as it was written."""
    v = variable(shared, f"v_{dtype}")
    value = v.read()
    assert (value.dtype, value.shape, v.spec.dtype) == (dtype, (2, 3), dtype)
    np.testing.assert_array_equal(value.numpy(), values(dtype))
    v.write(v.stage(values(dtype, 2)))
    np.testing.assert_array_equal(v.read().numpy(), values(dtype, 2))
    np.testing.assert_array_equal(value.numpy(), values(dtype))
    v.write(value)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "string"])
def test_buffer(shared: LoadedModel, dtype: str) -> None:
    """The buffer is the elements' bytes, any part of it, and cannot be written to."""
    value = variable(shared, f"v_{dtype}").read()
    expected = values(dtype).tobytes()
    assert value.nbytes == len(expected)
    assert bytes(value.buffer(0, value.nbytes)) == expected
    assert bytes(value.buffer(1, 5)) == expected[1:5]
    assert value.buffer(0, 1).readonly
    assert not value.numpy().flags.writeable
    assert value.numpy().flags.c_contiguous


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("region", [None, *REGIONS], ids=str)
def test_cast(shared: LoadedModel, source: str, target: str, region: Region | None) -> None:
    """A float is cast to another as numpy does it, whole and in any part of its bytes."""
    if source == target:
        return
    v = variable(shared, f"v_{source}")
    before = v.read()
    with np.errstate(over="ignore"):
        tricky = np.array([[1.001, -0.0, 3e-5], [65504, np.inf, -7e4]]).astype(as_numpy(source))
    v.write(v.stage(tricky))
    value = v.cast(v.read(region), target)
    v.write(before)
    with np.errstate(over="ignore"):
        expected = tricky.astype(as_numpy(target))
    expected = expected if region is None else expected[index(region)]
    assert (value.dtype, value.shape, value.nbytes) == (target, expected.shape, expected.nbytes)
    np.testing.assert_array_equal(value.numpy(), expected)
    whole = expected.tobytes()
    for start in range(0, len(whole) + 1, 3):
        for stop in range(start, len(whole) + 1, 5):
            assert bytes(value.buffer(start, stop)) == whole[start:stop]


def test_cast_takes_the_memory_of_a_part(load: Load) -> None:
    """Of a large value no more is cast at once than is asked for."""
    live = variable(load("counter"), "v")
    whole = np.random.default_rng(5).standard_normal(2**21).astype(np.float32)
    value = live.cast(live.stage(whole.copy()), "bfloat16")
    assert value.nbytes == 2**22
    part = value.buffer(2**20, 2**20 + 2**12)
    assert part.obj.nbytes == 2**12  # type: ignore[attr-defined]
    expected = whole[2**19 : 2**19 + 2**11].astype(ml_dtypes.bfloat16)
    assert bytes(part) == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_regions(shared: LoadedModel, dtype: str, region: Region) -> None:
    """A region reads, overlays and writes as numpy would index it, for every dtype."""
    v = variable(shared, f"v_{dtype}")
    whole, part = v.read(), v.read(region)
    expected = values(dtype)[index(region)]
    assert part.shape == expected.shape
    np.testing.assert_array_equal(part.numpy(), expected)
    if dtype != "string":
        assert bytes(part.buffer(0, part.nbytes)) == expected.tobytes()

    update = v.stage(np.ascontiguousarray(values(dtype, 2)[index(region)]))
    changed = values(dtype)
    changed[index(region)] = values(dtype, 2)[index(region)]
    np.testing.assert_array_equal(v.overlay(whole, update, region).numpy(), changed)
    np.testing.assert_array_equal(v.read().numpy(), values(dtype))
    v.write(update, region)
    np.testing.assert_array_equal(v.read().numpy(), changed)
    np.testing.assert_array_equal(part.numpy(), expected)
    np.testing.assert_array_equal(whole.numpy(), values(dtype))
    v.write(whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_writes_of_one_commit(load: Load, dtype: str) -> None:
    """They leave what they would one after the other, however many there are of a variable."""
    live, name = LiveModel(load("every_dtype")), f"v_{dtype}"

    def writes(number: int) -> list[Write]:
        operations = [Operation.SET, *([Operation.ADD] if dtype in NUMERIC else [])]
        return [
            Write(name, each, np.array(values(dtype, at)[index(region) if region else ...]), region)
            for at, region in enumerate((*REGIONS[:4], None, *REGIONS[4:])[:number])
            for each in operations
        ]

    def state() -> Any:
        (entry,) = live.read([Read(name)]).entries
        assert entry.value is not None
        return entry.value.numpy().tolist()

    for number in range(2, len(REGIONS) + 2):
        live.revert(0)
        for write in writes(number):
            live.assign([write])
        expected = state()
        live.revert(0)
        live.assign(writes(number))
        assert state() == expected


@pytest.mark.parametrize("dtype", NUMERIC)
def test_a_row_that_is_named_often(load: Load, dtype: str) -> None:
    """What is added to it is summed up in its own dtype first, one after the other."""
    live, name = LiveModel(load("every_dtype")), f"v_{dtype}"
    indices = np.random.default_rng(7).integers(0, 2, 100)
    added = (np.arange(300).reshape(100, 3) % 7).astype(as_numpy(dtype))
    live.assign([Write(name, Operation.ADD, added.copy(), Rows(indices))])
    summed = np.zeros((2, 3), as_numpy(dtype))
    for row, value in zip(indices, added, strict=True):
        summed[row] += value
    (entry,) = live.read([Read(name)]).entries
    assert entry.value is not None
    assert entry.value.numpy().tolist() == (values(dtype) + summed).tolist()


def test_the_region_of_a_scalar_of_strings(load: Load, tmp_path: Path) -> None:
    """It is all of the scalar, alone and among others, also in the past and after a restart."""
    all_of_it = Read("word", Slices(()))

    def write(word: bytes) -> Write:
        return Write("word", Operation.SET, np.array(word, object), all_of_it.region)

    def made() -> LoadedModel:
        return load("strings_and_ints")

    def found(live: LiveModel, revision: int) -> list[Any]:
        entries = live.timeline.read([Read("word"), all_of_it], revision).entries
        return [entry.value.numpy().tolist() for entry in entries if entry.value is not None]

    with kept(tmp_path, made, history_commits=3) as (live, journal):
        live.assign([write(b"one")])
        live.assign([write(b"two"), write(b"three")])
        live.assign([write(b"%d" % n) for n in range(9)])
        live.assign([write(b"four")])
        states = [b"word", b"one", b"three", b"8", b"four"]
        assert [found(live, n) for n in range(5)] == [[state, state] for state in states]
        live.revert(0)
        assert found(live, 5) == [b"word", b"word"]
        live.assign([write(b"six")])
        journal._compactor.compact()
    with kept(tmp_path, made, history_commits=3) as (live, _):
        assert [found(live, n)[0] for n in range(3, 7)] == [b"8", b"four", b"word", b"six"]


@pytest.mark.parametrize("dtype", NUMERIC)
def test_combine(shared: LoadedModel, dtype: str) -> None:
    """Sums and differences are those of numpy in the variable's dtype; integers wrap around."""
    v = variable(shared, f"v_{dtype}")
    operand = values(dtype, 2)
    staged = v.stage(operand.copy())
    base = v.read()
    with np.errstate(over="ignore"):
        total, difference = values(dtype) + operand, values(dtype) - operand
    np.testing.assert_array_equal(v.combine(Operation.ADD, base, staged).numpy(), total)
    np.testing.assert_array_equal(v.combine(Operation.SUB, base, staged).numpy(), difference)
    assert v.combine(Operation.SET, base, staged) is staged
    np.testing.assert_array_equal(base.numpy(), values(dtype))


def test_string_sizes(load: Load) -> None:
    """Strings of any bytes, empty and scalar ones too; nbytes is the sum of their lengths."""
    model = load("strings_and_ints")
    labels = variable(model, "labels").read()
    assert labels.numpy().tolist() == [[b"a", b"\xff\x00"], [b"", "ü".encode()]]
    assert labels.nbytes == 5
    empty, word = variable(model, "empty"), variable(model, "word")
    assert (empty.read().shape, empty.read().nbytes) == ((0,), 0)
    assert word.read().numpy()[()] == b"word"
    word.write(word.stage(np.array(b"a\x00", object)))
    assert word.read().numpy()[()] == b"a\x00"
    empty.write(empty.stage(np.empty((0,), object)))
    assert empty.read().shape == (0,)


def test_a_read_shares_memory(load: Load) -> None:
    """Reading copies nothing: two reads of one value are the same memory."""
    big = variable(load("large_64"), "big")
    assert np.shares_memory(big.read().numpy(), big.read().numpy())
    rows = big.read(Slices((Slice(2, 4),)))
    assert np.shares_memory(rows.numpy(), big.read().numpy())


def test_a_held_value_survives(load: Load) -> None:
    """A value stays what it was while the variable is written, as a whole and by region."""
    model = load("counter")
    v = variable(model, "v")
    held = v.read().numpy()
    part = v.read(Slices((Slice(1, 3),)))
    v.write(v.stage(np.zeros(3, np.float32)))
    v.write(v.stage(np.array([5], np.float32)), Rows(np.array([0])))
    assert held.tolist() == [1, 2, 3]
    assert part.numpy().tolist() == [2, 3]
    assert v.read().numpy().tolist() == [5, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "complex128"])
def test_stage_takes_aligned_memory_over(shared: LoadedModel, dtype: str) -> None:
    """An aligned, writable array becomes the value's own memory: staging it copies nothing."""
    v = variable(shared, f"v_{dtype}")
    array = aligned_empty((2, 3), as_numpy(dtype))
    array[...] = values(dtype, 2)
    assert np.shares_memory(v.stage(array).numpy(), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stage_copies_what_it_cannot_take(shared: LoadedModel, dtype: str) -> None:
    """Read-only, unaligned, strided and big-endian arrays are copied, and are right."""
    v = variable(shared, f"v_{dtype}")
    expected = values(dtype, 2)
    kinds = {"read-only": expected.copy(), "strided": np.asfortranarray(expected)}
    kinds["read-only"].flags.writeable = False
    if dtype != "string":
        memory = aligned_empty((expected.nbytes + 16,), np.uint8)
        for offset in (8, 16):
            unaligned = memory[offset : offset + expected.nbytes]
            if offset % expected.itemsize == 0:
                kinds[f"offset {offset}"] = unaligned.view(expected.dtype).reshape(2, 3)
                kinds[f"offset {offset}"][...] = expected
                np.testing.assert_array_equal(v.stage(kinds[f"offset {offset}"]).numpy(), expected)
    if dtype in ("int32", "float64", "complex64"):
        kinds["big-endian"] = expected.astype(expected.dtype.newbyteorder(">"))
    for kind in ("read-only", "strided", "big-endian"):
        if kind in kinds:
            staged = v.stage(kinds[kind]).numpy()
            np.testing.assert_array_equal(staged, expected, err_msg=kind)
            assert not np.shares_memory(staged, kinds[kind])


def test_partial_shapes(load: Load) -> None:
    """Variables of unknown shape tell their present shape and take another."""
    model = load("partial_shapes")
    anything, rows = variable(model, "anything"), variable(model, "rows")
    assert (anything.spec.shape, rows.spec.shape) == (None, (None, 3))
    assert (anything.shape(), rows.shape()) == ((), (2, 3))
    anything.write(anything.stage(np.zeros((4, 0, 2), np.float32)))
    assert anything.shape() == (4, 0, 2)
    assert run(model, "grow")["output_0"].shape == (4, 3)
    assert rows.shape() == (4, 3)
    rows.write(rows.stage(np.zeros((1, 3), np.float32)), Rows(np.array([3])))
    assert rows.read().numpy().sum(1).tolist() == [3, 3, 3, 0]


def test_uninitialized(load: Load) -> None:
    """A variable without a value says so, until it is given one."""
    step = variable(load("tf1_uninitialized"), "step")
    assert not step.is_initialized()
    step.write(step.stage(np.array(3, np.int64)))
    assert step.is_initialized()
    assert step.read().numpy() == 3


@pytest.mark.parametrize("region", REGIONS_OF_TABLE := (
    Rows(np.array([7, 3, 99], np.int64)),
    Rows(np.array([], np.int64)),
    Slices((Slice(10, 20, 3),)),
    Slices((Slice(2, 4), Slice(1, 3))),
    Slices((Slice(), Slice(0, 4, 2))),
    Slices(()),
), ids=str)  # fmt: skip
def test_in_place_regions(load: Load, region: Region) -> None:
    """Regions of an embedding are read and written in place, and held values stay as they are."""
    model = load("embedding")
    table = variable(model, "table")
    assert table.writes_in_place
    whole, part = table.read(), table.read(region)
    before = whole.numpy().copy()
    expected = before[index(region)]
    assert part.shape == expected.shape
    update = np.ascontiguousarray(-expected - 1)
    table.write(table.stage(update.copy()), region)
    after = before.copy()
    after[index(region)] = update
    np.testing.assert_array_equal(table.read().numpy(), after)
    np.testing.assert_array_equal(whole.numpy(), before)
    np.testing.assert_array_equal(part.numpy(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_parts_have_memory_of_their_own(shared: LoadedModel, dtype: str, region: Region) -> None:
    """A region that is kept, in the history say, does not keep the whole that it is cut from."""
    v = variable(shared, f"v_{dtype}")
    whole = v.read()
    part = v.part(whole, region)
    assert (part.dtype, part.numpy().flags.writeable) == (dtype, False)
    np.testing.assert_array_equal(part.numpy(), values(dtype)[index(region)])
    assert not isinstance(part, RegionValue)
    assert not np.shares_memory(part.numpy(), whole.numpy())


@pytest.mark.parametrize("region", REGIONS_OF_TABLE, ids=str)
def test_regions_of_an_embedding_are_no_more_than_themselves(load: Load, region: Region) -> None:
    """Not the rows that they touch, as soon as they have been read."""
    part = variable(load("embedding"), "table").read(region)
    assert not isinstance(part, RegionValue)
    memory = part.numpy().base
    assert not isinstance(memory, np.ndarray) or memory.nbytes <= part.nbytes + ALIGNMENT


def test_the_history_of_regions_does_not_keep_the_wholes(load: Load) -> None:
    """Nor do the answers for those who ask again: they keep no more than they count."""
    model = load("large_64")
    live = LiveModel(model)
    row = Rows(np.array([3], np.int64))
    before = [variable(model, "big").read().numpy()]
    answers = []
    for number in range(3):
        value = np.full((1, 262_144), number, np.float32)
        answer = live.assign([Write("big", Operation.SET, value, row)], read_back=Read("big", row))
        answers += answer.values.values()
        before.append(variable(model, "big").read().numpy())
    commits = list(live._parts.history._commits)[::-1]
    kept = [each.previous for commit in commits for each in commit.changed] + answers
    assert [part.numpy()[0, 0] for part in kept if part is not None] == [1, 0, 1, 0, 1, 2]
    for part in kept:
        assert part is not None
        assert not isinstance(part, RegionValue)
        assert not any(np.shares_memory(part.numpy(), whole) for whole in before)


@pytest.mark.parametrize("region", REGIONS_OF_TABLE, ids=str)
def test_the_past_of_an_embedding(load: Load, region: Region) -> None:
    """What its regions were is read, and brought back, whatever parts of it were written since."""
    live = LiveModel(load("embedding"))
    table = variable(live._loaded, "table")
    rows, part = Rows(np.array([99, 12, 3], np.int64)), Slices((Slice(1, 18, 2), Slice(1, 3)))
    states = []
    for several in ([rows], [part], [part, region, rows], [region]):
        states.append(table.read().numpy().copy())
        sevens = [np.full(states[0][index(each)].shape, 7, np.float32) for each in several]
        live.assign(
            [
                Write("table", operation, value.copy(), each)
                for each, value in zip(several, sevens, strict=True)
                for operation in (Operation.SET, Operation.ADD)
            ]
        )
    for revision, state in enumerate(states):
        (entry,) = live.timeline.read([Read("table", region)], revision).entries
        assert entry.value is not None
        np.testing.assert_array_equal(entry.value.numpy(), state[index(region)])
    for revision in (3, 1, 0):
        live.revert(revision)
        np.testing.assert_array_equal(table.read().numpy(), states[revision])


def test_in_place_writes_are_seen_by_functions(load: Load) -> None:
    """Rows written in place are what the model's own gather finds, and the other way round."""
    model = load("embedding")
    table = variable(model, "table")
    table.write(table.stage(np.full((1, 4), 0.5, np.float32)), Rows(np.array([5])))
    assert run(model, "look", ids=np.array([5]))["output_0"].tolist() == [[2, 2]]
    run(model, "set_rows", ids=np.array([6]), rows=np.full((1, 4), 9, np.float32))
    assert table.read(Rows(np.array([6, 5]))).numpy()[:, 0].tolist() == [9, 0.5]


def test_our_own_writes_keep_reads_free(load: Load) -> None:
    """Writing a region of a dense variable leaves its reads without a copy."""
    big = variable(load("large_64"), "big")
    big.write(big.stage(np.zeros((1, 262_144), np.float32)), Rows(np.array([3])))
    big.read(Rows(np.array([3]))).numpy()
    assert np.shares_memory(big.read().numpy(), big.read().numpy())


def test_out_of_memory_changes_nothing(load: Load) -> None:
    """A sum that does not fit into memory is OutOfMemory, and the variable keeps its value."""
    anything = variable(load("partial_shapes"), "anything")
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 50,), (0,))
    huge.flags.writeable = False
    with pytest.raises(OutOfMemory):
        anything.stage(huge)
    assert anything.read().numpy() == 1


def test_one_region_value_from_many_threads(load: Load) -> None:
    """Threads that ask one lazy region value for its bytes at once all get the same."""
    big = variable(load("large_64"), "big")
    part = big.read(Slices((Slice(0, 64, 2), Slice(0, None, 2))))
    barrier, found = threading.Barrier(4), []

    def ask() -> None:
        barrier.wait(60)
        found.append(part.numpy())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    join(threads)
    assert len(found) == 4
    assert all(array is found[0] for array in found)
