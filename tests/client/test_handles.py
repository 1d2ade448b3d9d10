"""Handles of models, variables and functions against a service on a socket."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel


def test_models(client: varserve.Client) -> None:
    """models() lists what is served, and model() has its state without asking again."""
    (summary,) = client.models()
    model = client.model("fake")
    assert (summary.name, summary.state, summary.variable_count) == ("fake", "ready", 11)
    assert (model.name, model.version, model.revision, model.device) == ("fake", 1, 0, "CPU:0")
    assert model.epoch == summary.epoch
    assert model.limits.chunk_bytes == 1 << 10
    kind = varserve.OmissionKind.FUNCTION
    assert model.omissions == (varserve.Omission(kind, "datasets", "its input 'x' is a variant"),)


def test_variables_are_a_mapping(model: varserve.Model) -> None:
    """Variables are found by name and by path, listed by name, and completed in a shell."""
    variables = model.variables
    assert len(variables) == 11
    assert list(variables) == sorted(variables)
    assert variables["twin"].path == variables["left/twin"].path == "left/twin"
    assert "left/twin" in variables
    assert "right/twin" not in variables
    assert variables.get("nothing") is None
    assert "weights" in variables._ipython_key_completions_()
    with pytest.raises(varserve.VariableNotFound, match="did you mean 'weights'"):
        variables["weight"]


def test_attributes(model: varserve.Model) -> None:
    """A variable says of itself what the service said."""
    weights = model.variables["weights"]
    assert (weights.shape, weights.ndim, weights.dtype) == ((3, 4, 5), 3, np.dtype(np.float32))
    assert (weights.nbytes, weights.revision, weights.initialized) == (240, 0, True)
    assert repr(weights) == "<varserve.Variable 'weights' float32 [3, 4, 5] on CPU:0, revision 0>"
    assert repr(weights[0:2, ..., 1]) == "<varserve.Region 'weights'[0:2, ..., 1] float32 [2, 4]>"
    assert model.variables["growing"].shape == (None, 3)
    assert "uninitialized" in repr(model.variables["unset"])
    for thing in (model, model.variables, model.functions, model.functions["double"]):
        assert "double" in repr(thing) or "fake" in repr(thing) or "weights" in repr(thing)


def test_assign_and_read(model: varserve.Model) -> None:
    """What is assigned is read, and the handle knows the revision of its write."""
    weights = model.variables["weights"]
    before = weights.numpy()
    assert weights.assign(before + 1).revision == 1
    assert weights.revision == model.revision == 1
    assert weights.assign_add(before.tolist(), read_value=True).value[2, 3, 4] == 119.0
    weights.assign_sub(before)
    np.testing.assert_array_equal(weights.read_value(), before + 1)
    np.testing.assert_array_equal(np.asarray(weights, dtype=np.float64), before + 1)


def test_value_is_its_own(model: varserve.Model) -> None:
    """A value that was read is a writable array of the caller's own."""
    value = model.variables["weights"].numpy()
    value += 1
    assert model.variables["weights"].numpy()[0, 0, 0] == 0


@pytest.mark.parametrize(
    "index", [0, -1, np.s_[1:], np.s_[:, 1], np.s_[..., ::2], np.s_[0, -1, 2:4], ..., ()], ids=repr
)
def test_regions(model: varserve.Model, index: object) -> None:
    """A region reads and writes what numpy's index does."""
    weights = model.variables["weights"]
    expected = weights.numpy()
    np.testing.assert_array_equal(weights[index].numpy(), expected[index])
    assert weights[index].shape == expected[index].shape
    change = np.full_like(expected[index], 100)
    expected[index] += change
    commit = weights[index].assign_add(change, read_value=True)
    np.testing.assert_array_equal(commit.value, expected[index])
    np.testing.assert_array_equal(weights.numpy(), expected)


def test_nothing_is_no_index(model: varserve.Model) -> None:
    """An index that was found nowhere, None, does not stand for the whole variable."""
    with pytest.raises(varserve.RegionInvalid, match="found None"):
        model.variables["weights"][None].assign(np.zeros((3, 4, 5), np.float32))
    with model.transaction() as change, pytest.raises(varserve.RegionInvalid, match="found None"):
        change["weights"][None].assign(np.zeros((3, 4, 5), np.float32))
    assert model.revision == 0


def test_a_timeout_may_be_very_long(client: varserve.Client) -> None:
    """Centuries and infinity are no deadline; they are not over at once."""
    for timeout in (1e9, 1e10, 1e300, float("inf")):
        assert client.models(timeout=timeout)


def test_the_time_of_an_update_is_for_its_bytes(
    model: varserve.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing large values gets the time that their bytes take, as elsewhere."""
    monkeypatch.setattr("varserve._client.handles.base.SECONDS_PER_BYTE", 1.0)
    seen = []
    budget = varserve._client.handles.base.Budget

    def of(timeout: float, *more: object) -> object:
        seen.append(timeout)
        return budget(timeout, *more)

    monkeypatch.setattr("varserve._client.handles.base.Budget", of)
    nbytes = model.variables["large"].nbytes
    model.update(["large"], lambda found: {"large": found["large"] + 1})
    assert max(seen) == 30 + 2 * nbytes
    seen.clear()
    model.read(timeout=20)
    assert seen == [20]  # all in all: what is there is asked for first


def test_rows(model: varserve.Model) -> None:
    """Rows are read and scattered by their indices, also from the end."""
    table = model.variables["table"]
    table.scatter_update([5, -1], np.ones((2, 4), np.float32))
    table.scatter_add([5], [[1, 2, 3, 4]])
    table.scatter_sub([999], np.ones((1, 4), np.float32))
    expected = [[2, 3, 4, 5], [0, 0, 0, 0], [2, 3, 4, 5]]
    np.testing.assert_array_equal(table.sparse_read([5, 999, 5]), expected)


def test_large_variable(model: varserve.Model) -> None:
    """A variable of 800 kB goes through messages of 128 KiB and chunks of 1 KiB, bit for bit."""
    large = model.variables["large"]
    value = large.numpy()
    np.testing.assert_array_equal(value, np.arange(100_003, dtype=np.float64))
    commit = large.assign(value[::-1], read_value=True)
    np.testing.assert_array_equal(commit.value, value[::-1])
    np.testing.assert_array_equal(large.numpy(), value[::-1])
    np.testing.assert_array_equal(large[1000:90_000:3].numpy(), value[::-1][1000:90_000:3])
    large.assign_add(np.ones_like(value))
    assert large[-1].numpy() == 1.0
    with pytest.raises(varserve.MessageTooLarge):
        large.assign_add(value, read_value=True)
    assert model.revision == 2


def test_reading_into_an_array(model: varserve.Model) -> None:
    """A value goes into the caller's own array, small or large, whole or a region."""
    for variable in (model.variables["table"], model.variables["large"]):
        for source in (variable, variable[1:3]):
            expected = source.numpy()
            out = np.full_like(expected, 77)
            assert source.numpy(out=out) is out
            np.testing.assert_array_equal(out, expected)
    large = model.variables["large"]
    value = large.numpy()
    kept = value.copy()
    with pytest.raises(varserve.ShapeMismatch, match=r"expected shape .*100003.*found"):
        large.numpy(out=value[1:])
    with pytest.raises(varserve.DtypeMismatch, match="expected dtype float64, found float32"):
        large.numpy(out=np.empty(value.shape, np.float32))
    for wrong in (np.empty(2 * value.size)[::2], value.tolist(), kept):
        kept.flags.writeable = False
        with pytest.raises(varserve.InvalidRequest, match="C-contiguous, writable"):
            large.numpy(out=wrong)
    with pytest.raises(varserve.InvalidRequest, match="strings"):
        model.variables["labels"].numpy(out=np.empty(3, object))
    np.testing.assert_array_equal(value, kept)


def test_reading_as_another_dtype(model: varserve.Model) -> None:
    """A float value comes as another float, small or large, whole, a region, or into an array."""
    for name in ("table", "large"):
        variable = model.variables[name]
        variable.assign(variable.numpy() / 3)
        for source in (variable, variable[1:3]):
            for dtype in ("bfloat16", np.float16, np.dtype("float32")):
                expected = source.numpy().astype(dtype)
                found = source.read_value(dtype=dtype)
                assert found.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(found, expected)
                out = np.zeros_like(expected)
                assert source.numpy(dtype=dtype, out=out) is out
                np.testing.assert_array_equal(out, expected)
    rows = model.variables["table"].sparse_read([3, 3], dtype="float16")
    assert (rows.dtype, rows.shape) == (np.float16, (2, 4))
    assert model.variables["weights"].numpy(dtype="float32").dtype == np.float32
    large, doubles = model.variables["large"], np.zeros(100_003)
    with pytest.raises(varserve.DtypeMismatch, match="expected dtype float16, found float64"):
        large.numpy(dtype="float16", out=doubles)
    for name, dtype in (("counter", "float32"), ("weights", "int32"), ("labels", "float32")):
        with pytest.raises(varserve.CastUnsupported, match=name):
            model.variables[name].numpy(dtype=dtype)


def test_snapshot_as_another_dtype(model: varserve.Model) -> None:
    """The floats of a snapshot come as the dtype, and all else as it is."""
    snapshot = model.read(["weights", "counter", "labels", "large"], dtype="bfloat16")
    assert [snapshot[name].dtype.name for name in snapshot] == [
        "bfloat16",
        "int64",
        "object",
        "bfloat16",
    ]
    expected = model.variables["weights"].numpy().astype(np.dtype("bfloat16"))
    np.testing.assert_array_equal(snapshot["weights"], expected)


def test_strings(model: varserve.Model) -> None:
    """Strings are arrays of bytes; str is sent as UTF-8; those that are too large stream."""
    labels = model.variables["labels"]
    labels.assign(["x", "ÿ", b"\xff\x00"])
    assert labels.numpy().tolist() == [b"x", "ÿ".encode(), b"\xff\x00"]
    novel = model.variables["novel"]
    assert [len(each) for each in novel.numpy()] == [20_000] * 9
    novel.assign(["y" * 18_000] * 9)
    assert novel.numpy()[8] == b"y" * 18_000


def test_uninitialized(model: varserve.Model) -> None:
    """A variable without a value says so, and has one after a whole assign."""
    unset = model.variables["unset"]
    assert not unset.initialized
    with pytest.raises(varserve.VariableUninitialized):
        unset.numpy()
    unset.assign([1, 2])
    assert unset.initialized
    assert unset.numpy().tolist() == [1, 2]


def test_checked_before_it_is_sent(model: varserve.Model) -> None:
    """Wrong dtypes, shapes and operations are refused here, named, and change nothing."""
    weights, flag = model.variables["weights"], model.variables["flag"]
    with pytest.raises(varserve.DtypeMismatch, match="'weights': expected dtype float32"):
        weights.assign(np.zeros((3, 4, 5)))
    with pytest.raises(varserve.DtypeMismatch):
        model.variables["counter"].assign(1.5)
    with pytest.raises(varserve.DtypeUnsupported):
        weights.assign(np.zeros((3, 4, 5), "datetime64[s]"))
    with pytest.raises(varserve.ShapeMismatch, match=r"\[3, 4, 5\], found \[2\]") as caught:
        weights.assign([1, 2])
    assert caught.value.variable == "weights"
    with pytest.raises(varserve.ShapeMismatch):
        weights[0].assign(np.zeros((1, 4, 5), np.float32))
    with pytest.raises(varserve.ShapeMismatch):
        weights.assign([[1, 2], [3]])
    with pytest.raises(varserve.OperationUnsupported):
        flag.assign_add([True, True])
    with pytest.raises(varserve.RegionInvalid, match="'weights': dimension 0"):
        weights[::-1]
    model.refresh()
    assert model.revision == 0


def test_conditional_assign(model: varserve.Model) -> None:
    """if_revision_match is the variable's own revision, and the error has the present one."""
    weights, flag = model.variables["weights"], model.variables["flag"]
    flag.assign([True, True])
    weights.assign(weights.numpy(), if_revision_match=0)
    with pytest.raises(varserve.RevisionMismatch) as caught:
        weights.assign(weights.numpy(), if_revision_match=0)
    assert caught.value.current_revision == 2


def test_snapshot(model: varserve.Model) -> None:
    """A snapshot has the values asked for, by the names they were asked for with."""
    snapshot = model.read(["weights", "left/twin"])
    assert list(snapshot) == ["weights", "left/twin"]
    assert snapshot["weights"].shape == (3, 4, 5)
    assert (snapshot.revision, snapshot.epoch) == (0, model.epoch)
    assert model.revert(np.int64(0)).epoch == model.epoch
    with (
        pytest.raises(varserve.RevisionMismatch),
        model.transaction(if_revision_match=np.int64(5)) as change,
    ):
        change.assign("counter", 1)
    part = model.read({"weights": np.s_[1, 0:2], "table": varserve.Rows([1]), "counter": None})
    assert [part[name].shape for name in part] == [(2, 5), (1, 4), ()]
    with pytest.raises(varserve.VariableNotFound):
        model.read(["weights", "weigths"])
    with pytest.raises(varserve.InvalidRequest):
        model.read("weights")
    with pytest.raises(varserve.InvalidRequest):
        model.read([])


def test_snapshot_of_everything(model: varserve.Model) -> None:
    """read() has every variable that has a value, also one that got it elsewhere meanwhile."""
    assert set(model.variables) - set(model.read()) == {"unset"}


def test_transaction(model: varserve.Model) -> None:
    """A transaction is one commit, in order, at the end of its block."""
    with model.transaction() as txn:
        txn.assign("weights", np.zeros((3, 4, 5), np.float32))
        txn["weights"][0, 0].assign([1, 2, 3, 4, 5])
        txn["weights"][varserve.Rows([1])].assign_add(np.ones((1, 4, 5), np.float32))
        txn.assign_add("counter", 3)
        txn.assign_sub("counter", 1)
        assert txn.revision is None
        assert model.variables["counter"].numpy() == 7
    assert txn.revision == model.revision == 1
    assert model.variables["counter"].numpy() == 9
    assert model.variables["weights"].numpy().sum() == 35
    with pytest.raises(varserve.InvalidRequest):
        txn.assign("counter", 1)


def test_transaction_that_raises(model: varserve.Model) -> None:
    """A block that raises commits nothing; nor does one without writes."""
    with pytest.raises(ZeroDivisionError), model.transaction() as txn:
        txn.assign("counter", 1 // 0 if txn.assign("counter", 1) is None else 0)
    with model.transaction() as empty:
        pass
    model.refresh()
    assert (txn.revision, empty.revision, model.revision) == (None, None, 0)


def test_conditional_transaction(model: varserve.Model) -> None:
    """A transaction on a snapshot's revision fails when the model moved, and changes nothing."""
    snapshot = model.read(["counter"])
    model.variables["flag"].assign([True, True])
    with (
        pytest.raises(varserve.RevisionMismatch) as caught,
        model.transaction(if_revision_match=snapshot) as txn,
    ):
        txn.assign("counter", snapshot["counter"] + 1)
    assert caught.value.current_revision == 1
    with model.transaction(if_revision_match=1) as txn:
        txn.assign("counter", 8)
    assert txn.revision == 2


def test_function(model: varserve.Model) -> None:
    """A function takes lists and arrays by name or position, and gives arrays by name."""
    double = model.functions["double"]
    outputs = double(x=[1, 2, 3])
    assert {name: each.tolist() for name, each in outputs.items()} == {
        "y": [2, 4, 6],
        "half/0": [0.5, 1, 1.5],
    }
    assert (outputs.revision, outputs.epoch) == (0, model.epoch)
    assert double(np.ones(2, np.float32))["y"].tolist() == [2, 2]
    assert list(double.call({"x": [1]}, outputs=["y"])) == ["y"]
    with pytest.raises(varserve.InputMismatch, match="there is 'x'"):
        double(z=1)
    with pytest.raises(varserve.InputMismatch):
        double([1], x=[1])
    with pytest.raises(varserve.InputMismatch):
        double([1], [2])
    with pytest.raises(varserve.InputMismatch):
        double()
    with pytest.raises(varserve.DtypeMismatch, match="input 'x'"):
        double(x=np.ones(2))
    with pytest.raises(varserve.FunctionFailed):
        model.functions["divide"](x=[1])
    with pytest.raises(varserve.FunctionNotFound, match="did you mean 'double'"):
        model.functions["doubel"]


def test_large_inputs_and_outputs(model: varserve.Model) -> None:
    """Inputs or outputs that no message holds stream, and the answer is the same."""
    x = np.arange(100_000, dtype=np.float32)
    np.testing.assert_array_equal(model.functions["double"](x=x)["y"], x * 2)
    for _ in range(2):
        assert model.functions["spread"](n=50_000)["ones"].shape == (50_000,)


def test_handles_hold_nothing_alive(model: varserve.Model) -> None:
    """A large value that was read and dropped is freed at once, without the collector."""
    gc.disable()
    try:
        value = model.variables["large"].numpy()
        gone = weakref.ref(value)
        del value
        assert gone() is None
    finally:
        gc.enable()


async def test_a_transaction_of_the_other_kind_is_refused(address: str) -> None:
    """`with` where `async with` is needed, or the other way round, says what to write instead."""
    async with varserve.aio.connect(address) as client:
        transaction = (await client.model("fake")).transaction()
        with pytest.raises(TypeError, match="use async with"), transaction:
            pass
    with varserve.connect(address) as blocking:
        transaction = blocking.model("fake").transaction()
        with pytest.raises(TypeError, match="use with"):
            async with transaction:
                pass


def test_a_model_without_variables() -> None:
    """Zero is a number: all of no variables are read, summarized and listed."""
    live = LiveModel(FakeModel([], name="none"))
    with serve_here(live) as address, varserve.connect(address) as client:
        model = client.model("none")
        snapshot, summaries = model.read(), model.summaries()
        assert (dict(snapshot), snapshot.revision, snapshot.epoch) == ({}, 0, model.epoch)
        assert (dict(summaries), summaries.revision) == ({}, 0)
        assert len(model.variables) == 0
