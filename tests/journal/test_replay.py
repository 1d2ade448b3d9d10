"""What was committed is there again after a restart, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.test_history import with_values
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.journal.kept import Array, kept, value_of
from varserve.tensors import from_wire_dtype, numpy_dtype
from varserve.v1 import tensor_pb2
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Commit, WriteRequest
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Read
from varserve_service.journal import StateDirectory

SET, ADD = Operation.SET, Operation.ADD
DTYPES = [from_wire_dtype(n) for name, n in tensor_pb2.DataType.items() if n]
INLINE = pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["files", "inline"])


def bits(array: Array) -> list[Any]:
    """Elements to the last bit: NaNs with a payload and negative zeros tell."""
    if array.dtype.hasobject:
        return array.reshape(-1).tolist()
    return list(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def random_array(dtype: str, seed: int, shape: tuple[int, ...] = (4, 3)) -> Array:
    random = np.random.default_rng(seed)
    if dtype == "string":
        array = np.empty(shape, object)
        for index in np.ndindex(shape):
            array[index] = random.bytes(int(random.integers(0, 300)))
        return array
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    size = numpy_dtype(dtype).itemsize * int(np.prod(shape))
    return (
        np.frombuffer(random.bytes(size), np.uint8).copy().view(numpy_dtype(dtype)).reshape(shape)
    )


@INLINE
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_with_the_same_bits(
    tmp_path: Path, dtype: str, in_place: bool, inline_bytes: int
) -> None:
    """Whole values and both kinds of regions of every dtype that the contract carries."""

    def make() -> FakeModel:
        return FakeModel(
            [
                FakeVariable("a", random_array(dtype, 1), in_place=in_place),
                FakeVariable("b", random_array(dtype, 2), in_place=in_place),
                FakeVariable("untouched", random_array(dtype, 3)),
            ]
        )

    names = ("a", "b", "untouched")
    with kept(tmp_path, make, inline_bytes=inline_bytes) as (live, _):
        live.assign(
            [Write("a", SET, random_array(dtype, 4)), Write("b", SET, random_array(dtype, 5))]
        )
        inner = () if in_place else (Slice(0, 2),)
        shape = (2, 3) if in_place else (2, 2)
        slices = Slices((Slice(1, 4, 2), *inner))
        live.assign([Write("a", SET, random_array(dtype, 6, shape), slices)])
        rows = Rows(np.array([3, 0]))
        live.assign([Write("b", SET, random_array(dtype, 7, (2, 3)), rows)])
        header, expected = live.header, {name: bits(value_of(live, name)) for name in names}
        described = live.describe()
    with kept(tmp_path, make, inline_bytes=inline_bytes) as (live, _):
        assert live.header == header
        assert {name: bits(value_of(live, name)) for name in names} == expected
        assert live.describe().variables == described.variables
        assert header.revision == 3
    files = list((tmp_path / "models/fake/1/payloads").iterdir())
    assert bool(files) == (inline_bytes == 0)


def counting() -> FakeModel:
    a = FakeVariable("a", np.zeros(3, np.float32))

    def call(x: Any) -> dict[str, Any]:
        a.array = a.array + x
        return {"sum": np.asarray(a.array.sum(), np.float32).reshape(())}

    scalar = TensorSpec("float32", ())
    add = FakeFunction("add", call, inputs={"x": scalar}, outputs={"sum": scalar}, writes=("a",))
    return FakeModel([a], [add])


def test_runs_are_kept_and_revisions_go_on(tmp_path: Path) -> None:
    """A function that wrote is not run again at a restart: what it left is there."""
    one = np.ones((), np.float32)
    with kept(tmp_path, counting) as (live, _):
        live.run("add", {"x": one}, {})
        live.assign([Write("a", ADD, np.ones(3, np.float32))])
        epoch = live.header.epoch
    for restart in range(3):
        with kept(tmp_path, counting) as (live, _):
            assert (live.header.epoch, live.header.revision) == (epoch, 2 + restart)
            assert value_of(live, "a").tolist() == [2 + restart] * 3
            live.run("add", {"x": one}, {})


def test_a_state_begins_with_an_epoch_of_its_own(tmp_path: Path) -> None:
    """Two state directories have two epochs."""
    with kept(tmp_path / "1", counting) as (one, _), kept(tmp_path / "2", counting) as (two, _):
        assert one.header.epoch != two.header.epoch


@INLINE
def test_a_request_that_comes_again_after_a_restart_gets_its_first_answer(
    tmp_path: Path, inline_bytes: int
) -> None:
    """Assigns and runs alike, with their values; another payload under the id is refused."""
    one, x = np.ones((), np.float32), np.ones(3, np.float32)
    assigned, ran = WriteRequest("assigned", b"1"), WriteRequest("ran", b"2")

    def both(live: Any) -> list[Any]:
        answers = [
            live.assign([Write("a", ADD, x)], request=assigned, read_back=Read("a")),
            live.run("add", {"x": one}, {}, request=ran),
        ]
        return [
            (answer.header, {name: value.numpy().tolist() for name, value in answer.values.items()})
            for answer in answers
        ]

    with kept(tmp_path, counting, inline_bytes=inline_bytes) as (live, _):
        first = both(live)
    with kept(tmp_path, counting, inline_bytes=inline_bytes) as (live, _):
        assert both(live) == first
        assert value_of(live, "a").tolist() == [2, 2, 2]
        with pytest.raises(RequestError) as caught:
            live.assign([Write("a", ADD, x)], request=WriteRequest("assigned", b"another"))
        assert caught.value.reason is Reason.REQUEST_ID_REUSED


def test_an_answer_too_large_to_be_kept_says_so_after_a_restart(tmp_path: Path) -> None:
    """Beyond the bound an answer is remembered as given, and the write is not done again."""
    request = WriteRequest("r", b"")
    write = [Write("a", ADD, np.ones(3, np.float32))]
    with kept(tmp_path, counting, answer_bytes=11) as (live, _):
        live.assign(write, request=request, read_back=Read("a"))
    with kept(tmp_path, counting) as (live, _):
        with pytest.raises(RequestError) as caught:
            live.assign(write, request=request, read_back=Read("a"))
        assert caught.value.reason is Reason.ANSWER_NOT_KEPT
        assert value_of(live, "a").tolist() == [1, 1, 1]


def test_a_refused_write_leaves_nothing_in_the_journal(tmp_path: Path) -> None:
    """Neither a row nor a file: not when a condition fails, nor when a value does not fit."""
    with kept(tmp_path, counting, inline_bytes=0) as (live, _):
        for write in (
            Write("a", SET, np.ones(3, np.float32), None, 7),
            Write("a", SET, np.ones(4, np.float32)),
        ):
            with pytest.raises(RequestError):
                live.assign([write])
        assert live.header.revision == 0
        assert list((tmp_path / "models/fake/1/payloads").iterdir()) == []
    with kept(tmp_path, counting) as (live, _):
        assert live.header.revision == 0


def test_files_that_no_commit_names_are_removed_at_the_start(tmp_path: Path) -> None:
    """A crash between a payload and its row leaves a file behind; the next start takes it away."""
    with kept(tmp_path, counting, inline_bytes=0) as (live, _):
        live.assign([Write("a", ADD, np.ones(3, np.float32))])
    payloads = tmp_path / "models/fake/1/payloads"
    (named,) = payloads.iterdir()
    (payloads / "0123456789abcdef.safetensors").write_bytes(b"half of a payl")
    with kept(tmp_path, counting) as (live, _):
        assert list(payloads.iterdir()) == [named]
        assert value_of(live, "a").tolist() == [1, 1, 1]


def test_a_variable_without_a_value_is_given_its_own_again(tmp_path: Path) -> None:
    """The first value of a variable that the SavedModel left without one survives."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("late", None, shape=(None,))])

    with kept(tmp_path, make) as (live, _):
        live.assign([Write("late", SET, np.arange(3, dtype=np.float32))])
        live.assign([Write("late", SET, np.ones(1, np.float32), Rows(np.array([1])))])
    with kept(tmp_path, make) as (live, _):
        assert value_of(live, "late").tolist() == [0, 1, 2]


Step = Callable[[Any], Any]


@pytest.mark.parametrize("in_place", [False, True])
def test_the_history_comes_back_too(tmp_path: Path, in_place: bool) -> None:
    """Commits after a restart say what they changed and what was there before, as they did."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("a", np.arange(6, dtype=np.float32), in_place=in_place)])

    def told(commits: Sequence[Commit]) -> list[Any]:
        return [
            (
                commit.revision,
                commit.time,
                commit.kind,
                [
                    (
                        changed.variable.path,
                        changed.value.numpy().tolist(),
                        changed.previous.numpy().tolist() if changed.previous is not None else None,
                    )
                    for changed in commit.changed
                ],
            )
            for commit in commits
        ]

    with kept(tmp_path, make) as (live, _):
        live.assign([Write("a", ADD, np.ones(6, np.float32))])
        live.assign([Write("a", SET, np.full(2, 9, np.float32), Rows(np.array([4, 1])))])
        live.assign([Write("a", ADD, np.ones(2, np.float32), Slices((Slice(1, 5, 3),)))])
        before = told(with_values(live))
        value = value_of(live, "a").tolist()
    with kept(tmp_path, make) as (live, _):
        assert told(with_values(live)) == before
        live.assign([Write("a", SET, np.zeros(1, np.float32), Rows(np.array([0])))])
        assert told(with_values(live))[1:] == before
        assert value_of(live, "a").tolist() == [0, *value[1:]]


def test_a_lease_does_not_outlive_its_model(tmp_path: Path) -> None:
    """A model that is closed takes its leases back; the state on disk has what was before them."""
    directory = StateDirectory(tmp_path)
    live, _ = directory.take_up(one_variable, LiveModel)
    live.assign([Write("v", Operation.SET, np.full(3, 1, np.float32))])
    live.assign([Write("v", Operation.SET, np.full(3, 2, np.float32))], lease_seconds=3600)
    assert value_of(live, "v").tolist() == [2, 2, 2]
    live.close()
    directory.close()
    with kept(tmp_path, one_variable) as (live, _):
        assert value_of(live, "v").tolist() == [1, 1, 1]
        assert live.header.revision == 3
        assert live.leases.table.revisions == []


def one_variable() -> FakeModel:
    return FakeModel([FakeVariable("v", np.zeros(3, np.float32))])
