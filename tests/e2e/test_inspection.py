"""Looking inside functions from another machine: through the client, the wire and TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests import saved_models
from tests.serving import serve_here
from varserve._client.handles import comparing
from varserve_service import savedmodel
from varserve_service.core.inspection.ports import InspectionLimits
from varserve_service.core.model.live_model import LiveModel
from varserve_service.savedmodel import configure_devices

ONES = np.ones((2, 2), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    configure_devices("cpu")
    return saved_models.build("inner", tmp_path_factory.mktemp("models"))


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    placement = configure_devices("cpu")
    live = LiveModel(savedmodel.load("inner", folder, placement=placement))
    with serve_here(live) as address:
        yield address


@pytest.fixture
def model(address: str) -> Iterator[varserve.Model]:
    with varserve.connect(address) as client:
        yield client.model("inner")


def test_inner_tensors_are_listed(model: varserve.Model) -> None:
    """A pattern gives name, operation, dtype, shape, place, variables and source line of each."""
    found = model.functions["fine"].tensors("layer/*")
    assert found.names == [
        "layer/matmul/ReadVariableOp",
        "layer/matmul",
        "layer/biased/ReadVariableOp",
        "layer/biased",
        "layer/relu",
    ]
    biased = found[3]
    assert (biased.op, biased.dtype, biased.shape) == ("AddV2", np.float32, (None, 3))
    assert (biased.place, biased.variables) == (varserve.TensorPlace.TOP, ("b",))
    assert biased.source.startswith("inspectable.py:")
    everything = model.functions["fine"].tensors()
    assert set(found.names) < set(everything.names)


def test_a_long_list_comes_in_pages(address: str) -> None:
    """Pages together are the whole list, and a token that was made up is refused."""
    import grpc

    from varserve.v1 import inspection_pb2, model_service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = inspection_pb2.ListTensorsRequest(model="inner", function="loop", page_size=7)
        names = []
        while True:
            page = stub.ListTensors(request)
            assert len(page.tensors) <= 7
            names += [each.name for each in page.tensors]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert len(names) == page.total == len(set(names))
        request.page_token = "made up"
        with pytest.raises(grpc.RpcError) as failed:
            stub.ListTensors(request)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_probes_messages_and_outputs(model: varserve.Model) -> None:
    """One call gives outputs, the value of each iteration, and the lines that were printed."""
    seen = model.functions["loop"].inspect(n=4, probe="turns/square")
    squares = seen.probes["turns/square"]
    assert isinstance(squares, varserve.Iterations)
    assert [float(each) for each in squares] == [0, 1, 4, 9]
    assert squares.iterations == ((0,), (1,), (2,), (3,))
    assert [str(message) for message in seen.messages] == [
        f"step {i} square {i * i}" for i in range(4)
    ]
    assert seen.outputs["s"] == 14
    assert seen.revision == model.revision == 0


def test_names_that_fit_none_or_two(model: varserve.Model) -> None:
    """A name that fits two tensors lists both; one that fits none has close ones."""
    twice = model.functions["twice"]
    with pytest.raises(varserve.NameAmbiguous, match="StatefulPartitionedCall_1/layer/relu"):
        twice.inspect(x=ONES, probe="layer/relu")
    with pytest.raises(varserve.TensorNotFound, match="layer/relu"):
        twice.inspect(x=ONES, probe="layer/rely")
    seen = twice.inspect(x=ONES[:1], probe=["StatefulPartitionedCall*/layer/relu"])
    values = [np.asarray(value) for value in seen.probes.values()]
    np.testing.assert_allclose(values, [[[1.3, 2.5, 3.7]], [[1.6, 3.0, 4.4]]], rtol=1e-6)


def test_summaries_with_histograms(model: varserve.Model) -> None:
    """Probes come in a few numbers, with a histogram and the hash that the value would have."""
    twice = model.functions["twice"]
    value = twice.inspect(x=ONES, probe="sum_of_both").probes["sum_of_both"]
    summary = twice.inspect(x=ONES, probe="sum_of_both", summarize=8).probes["sum_of_both"]
    assert isinstance(summary, varserve.Summary)
    assert summary.histogram is not None
    assert summary.histogram.counts.sum() == summary.count == 2
    assert summary.content_hash == varserve.content_hash(np.asarray(value))


def test_what_if(model: varserve.Model) -> None:
    """Values that are assumed hold for one run: the state, its revision and the next run stay."""
    fine, w = model.functions["fine"], model.variables["w"]
    before = fine(x=ONES)
    seen = fine.inspect(x=ONES, assume={"w": np.zeros((2, 3), np.float32)})
    assert seen.outputs["largest"] == 3
    np.testing.assert_array_equal(fine(x=ONES)["largest"], before["largest"])
    assert model.revision == 0
    w.assign(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(fine(x=ONES)["largest"], seen.outputs["largest"])
    with pytest.raises(varserve.ShapeMismatch):
        fine.inspect(x=ONES, assume={"w": np.zeros((3, 2), np.float32)})
    with pytest.raises(varserve.InputMismatch, match="does not read"):
        fine.inspect(x=ONES, assume={"total": np.zeros(2, np.float32)})


def test_an_answer_of_yesterday_is_explained(model: varserve.Model) -> None:
    """A function runs on the values of an earlier revision, whatever they are now."""
    fine, w = model.functions["fine"], model.variables["w"]
    largest = fine(x=ONES)["largest"]
    commit = w.assign(np.full((2, 3), 100, np.float32))
    w.assign(np.zeros((2, 3), np.float32))
    assert fine.inspect(x=ONES, at_revision=0).outputs["largest"] == largest
    then = fine.inspect(x=ONES, at_revision=commit)
    assert (then.outputs["largest"], then.revision) == (203, commit.revision)
    with pytest.raises(varserve.RevisionInFuture):
        fine.inspect(x=ONES, at_revision=99)


def test_a_writing_function_changes_nothing(model: varserve.Model) -> None:
    """It counts on a private copy: no commit, no revision, no event for who watches."""
    with model.watch() as watch:
        seen = model.functions["add"].inspect(n=5)
        assert (int(seen.outputs["before"]), int(seen.outputs["after"])) == (0, 5)
        assert [str(message) for message in seen.messages] == ["count is now 5"]
        model.variables["b"].assign(np.zeros(3, np.float32))
        event = next(iter(watch))
    assert [change.variable for change in event.changes] == ["b"]
    assert int(model.variables["count"].numpy()) == 0
    assert model.revision == 1


def test_patches(model: varserve.Model) -> None:
    """Tensors are replaced by zeros, multiples and arrays; what cannot be is refused in words."""
    twice = model.functions["twice"]
    plain = twice(x=ONES)["y"]
    scaled = twice.inspect(x=ONES, patch={"sum_of_both": varserve.scale(0.5)}).outputs["y"]
    np.testing.assert_array_equal(scaled, plain * np.float32(0.5))
    zero = twice.inspect(x=ONES, patch={"sum_of_both": varserve.zero()}).outputs["y"]
    np.testing.assert_array_equal(zero, np.zeros(2))
    given = twice.inspect(x=ONES, patch={"sum_of_both": [1.0, 2.0]}).outputs["y"]
    np.testing.assert_array_equal(given, [1, 2])
    with pytest.raises(varserve.ShapeMismatch, match=r"\[2\]"):
        twice.inspect(x=ONES, patch={"sum_of_both": np.zeros(3, np.float32)})
    with pytest.raises(varserve.DtypeMismatch):
        twice.inspect(x=ONES, patch={"sum_of_both": np.zeros(2, np.float64)})
    with pytest.raises(varserve.PatchUnsupported):
        model.functions["printer"].inspect(x=[1, 2], patch={"x": varserve.zero()})


def test_gradients(model: varserve.Model) -> None:
    """Gradients with respect to inputs, variables and inner tensors, by the names of the call."""
    wrt = ["x", "w", "b", "sum_of_both"]
    found = model.functions["twice"].inspect(x=ONES, gradients_of="y", wrt=wrt).gradients
    sums = {name: float(np.abs(np.asarray(value)).sum()) for name, value in found.items()}
    assert sums == pytest.approx({"x": 9, "w": 36, "b": 12, "sum_of_both": 2}, rel=1e-5)


def test_where_it_is_not_finite(model: varserve.Model) -> None:
    """The operation is named where an infinity begins, though the output is finite."""
    seen = model.functions["hides_infinity"].inspect(x=[0.0, 2.0], find_non_finite=True)
    found = seen.first_non_finite
    assert found is not None
    assert (found.name, found.op, found.negative_infinities) == ("the_log", "Log", 1)
    assert np.isfinite(seen.outputs["y"])


def test_assertions(model: varserve.Model) -> None:
    """An assertion fails with its parts, or is passed over and told."""
    checked = model.functions["checked"]
    with pytest.raises(varserve.FunctionFailed, match="x must be positive"):
        checked.inspect(x=[0.0, 2.0])
    seen = checked.inspect(x=[0.0, 2.0], on_assert="continue")
    assert seen.messages[0].kind is varserve.MessageKind.ASSERTION
    assert "[0. 2.]" in seen.messages[0].parts


def test_profile_and_xla(model: varserve.Model) -> None:
    """Operations have times; what XLA compiles is opened on request."""
    around = model.functions["around_compiled"]
    seen = around.inspect(x=ONES, profile=True)
    assert {each.name for each in seen.profile} >= {"doubled", "StatefulPartitionedCall"}
    with pytest.raises(varserve.TensorInsideXla, match="open_xla"):
        around.inspect(x=ONES, probe="tanh")
    assert "tanh" in around.inspect(x=ONES, probe="tanh", open_xla=True).probes


def test_compare(model: varserve.Model) -> None:
    """Two revisions are told apart by hashes: the first inner tensor that differs is named."""
    fine = model.functions["fine"]
    same = fine.compare(x=ONES)
    assert same.first is None
    assert same.outputs == {"ok": 0.0, "largest": 0.0}
    model.variables["b"].assign(np.array([1, 2, 4], np.float32))
    found = fine.compare(x=ONES, left=0)
    assert found.first is not None
    assert found.first.name == "layer/biased/ReadVariableOp"
    assert found.first.largest == 1
    assert "layer/matmul" not in [each.name for each in found.differing]
    assumed = fine.compare(x=ONES, right={"w": np.zeros((2, 3), np.float32)})
    assert assumed.first is not None
    assert assumed.first.name == "layer/matmul/ReadVariableOp"
    assert found.left.revision == 0


def test_a_comparison_of_any_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of what differs come in pages, smaller ones where the service gives less at once."""
    placement = configure_devices("cpu")
    loaded = savedmodel.load("inner", folder, placement=placement)
    with serve_here(LiveModel(loaded)) as address, varserve.connect(address) as client:
        model = client.model("inner")
        model.variables["b"].assign(np.array([1, 2, 4], np.float32))
        whole = model.functions["fine"].compare(x=ONES, left=0)
        found = {each.name: each.largest for each in whole.tensors}
        assert found["layer/biased"] == pytest.approx(1)
        assert None not in found.values()
        first = model.functions["fine"].compare(x=ONES, left=0, max_bytes=12)
        assert [each.largest for each in first.differing][:2] == [pytest.approx(1), None]
    limits = InspectionLimits(nbytes=24)
    live = LiveModel(
        savedmodel.load("inner", folder, placement=placement), inspection_limits=limits
    )
    with serve_here(live) as address, varserve.connect(address) as client:
        model = client.model("inner")
        model.variables["b"].assign(np.array([1, 2, 4], np.float32))
        for page in (64 << 20, 1):
            monkeypatch.setattr(comparing, "PAGE_BYTES", page)
            again = model.functions["fine"].compare(x=ONES, left=0)
            assert {each.name: each.largest for each in again.tensors} == found
        wide = model.functions["fine"].compare(x=np.ones((3, 2), np.float32), left=0)
        beyond = [each.name for each in wide.differing if each.largest is None]
        assert "layer/relu" in beyond
        assert beyond == [
            each.name for each in wide.differing if each.left is not None and each.left.nbytes > 24
        ]


def test_a_canary_is_compared(folder: Path) -> None:
    """Two labels of a model are compared: the changed layer is named first."""
    placement = configure_devices("cpu")
    stable = LiveModel(savedmodel.load("inner", folder, version=1, placement=placement))
    canary = LiveModel(savedmodel.load("other", folder, version=1, placement=placement))
    with serve_here(stable, canary) as address, varserve.connect(address) as client:
        client.model("other").variables["b"].assign([9.0, 9.0, 9.0])
        found = client.model("inner").functions["fine"].compare(x=ONES, right="other")
    assert found.first is not None
    assert found.first.name == "layer/biased/ReadVariableOp"
    assert found.right.model == "other"


def test_limits_say_the_way_on(folder: Path) -> None:
    """Too many bytes of probes are refused, and summaries of the same are given."""
    placement = configure_devices("cpu")
    loaded = savedmodel.load("inner", folder, placement=placement)
    live = LiveModel(loaded, inspection_limits=InspectionLimits(nbytes=4))
    with serve_here(live) as address, varserve.connect(address) as client:
        twice = client.model("inner").functions["twice"]
        with pytest.raises(varserve.InspectionTooLarge, match="ask for summaries"):
            twice.inspect(x=ONES, probe="*")
        assert twice.inspect(x=ONES, probe="*", summarize=True).probes


def test_a_failure_comes_with_what_was_said_before(model: varserve.Model) -> None:
    """Lines that were printed before an operation fails, or an assertion, come with the error."""
    lines = ["turn 0", "turn 1", "to 4"]
    with pytest.raises(varserve.FunctionFailed, match="to_n") as failed:
        model.functions["reshaped"].inspect(n=4)
    assert [str(each) for each in failed.value.messages] == lines
    assert [each.iteration for each in failed.value.messages] == [(0,), (1,), ()]
    with pytest.raises(varserve.FunctionFailed, match="must be positive") as failed:
        model.functions["checked"].inspect(x=[-1.0, 2.0], profile=True)
    (assertion,) = failed.value.messages
    assert assertion.kind is varserve.MessageKind.ASSERTION
    assert any("x must be positive" in part for part in assertion.parts)
    with pytest.raises(varserve.TensorNotFound) as refused:
        model.functions["reshaped"].inspect(n=4, probe="nothing")
    assert refused.value.messages == ()
    assert model.functions["reshaped"].inspect(n=3).outputs["y"].tolist() == [1, 2, 3]


def test_all_that_was_said_comes_with_a_failure(folder: Path) -> None:
    """So many lines that one message has no room for them: all come, and then the error."""
    placement = configure_devices("cpu")
    limits = InspectionLimits(records=9_000)
    live = LiveModel(
        savedmodel.load("inner", folder, placement=placement), inspection_limits=limits
    )
    with serve_here(live) as address, varserve.connect(address) as client:
        loop = client.model("inner").functions["loop"]
        with pytest.raises(varserve.InspectionTooLarge, match="9000 messages") as failed:
            loop.inspect(n=9_001, timeout=120)
        assert len(failed.value.messages) == 9_000
        assert str(failed.value.messages[-1]).startswith("step 8999 square ")


def test_a_deadline_ends_an_inspection(model: varserve.Model) -> None:
    """A loop without end is given up at the deadline, and the model answers on."""
    with pytest.raises(varserve.DeadlineExceeded):
        model.functions["loop"].inspect(n=2**30, timeout=1.0)
    assert model.functions["loop"].inspect(n=1).outputs["s"] == 0


async def test_asyncio(address: str) -> None:
    """The same, awaited."""
    async with varserve.aio.connect(address) as client:
        function = (await client.model("inner")).functions["fine"]
        assert (await function.tensors("layer/relu")).names == ["layer/relu"]
        seen = await function.inspect(x=ONES, probe="layer/relu")
        assert np.asarray(seen.probes["layer/relu"]).shape == (2, 3)
        assert (await function.compare(x=ONES)).first is None


def test_a_plain_run_gives_its_lines(model: varserve.Model) -> None:
    """A call gives what the function printed where that is asked for, on a stream as well."""
    loop = model.functions["loop"]
    found = loop.call({"n": 3}, messages=True)
    assert [str(each) for each in found.messages] == [f"step {i} square {i * i}" for i in range(3)]
    assert loop.call({"n": 3}).messages == ()
    assert [str(m) for m in model.functions["add"].call({"n": 1}, messages=True).messages] == [
        "count is now 1"
    ]
    assert model.revision == 1


def assign_both(transaction: varserve.Transaction, value: float) -> None:
    with transaction:
        transaction.assign("w", np.full((2, 3), value, np.float32))
        transaction.assign("b", np.zeros(3, np.float32))


def test_a_guarded_commit(model: varserve.Model) -> None:
    """NaN weights are refused and nobody sees them; good ones go in, once, in one revision."""
    fine, w = model.functions["fine"], model.variables["w"]
    before = w.summary().content_hash
    check = fine.given(x=ONES)
    with model.watch() as watch:
        refused = model.transaction(check=check)
        with pytest.raises(varserve.CheckFailed) as failed:
            assign_both(refused, np.nan)
        assert failed.value.outputs["ok"] == "False"
        assert w.summary().content_hash == before
        assert int(fine.inspect(x=ONES).revision) == 0
        passed = model.transaction(check=check)
        assign_both(passed, 1)
        assert passed.revision == 1
        event = next(iter(watch))
    assert sorted(change.variable for change in event.changes) == ["b", "w"]
    assert event.revision == 1


@pytest.mark.parametrize("rows", [1, 1 << 20])
def test_a_check_has_inputs_of_any_size(model: varserve.Model, rows: int) -> None:
    """Inputs that fit into a message, and others of 8 MiB, let good values pass and refuse bad."""
    fine, b = model.functions["fine"], model.variables["b"]
    samples = np.ones((rows, 2), np.float32)
    with model.transaction(check=fine.given(x=samples)) as transaction:
        transaction.assign("b", [1.0, 2.0, 4.0])
    assert (model.revision, b.numpy().tolist()) == (1, [1, 2, 4])
    samples[-1, -1] = np.inf  # The last row alone shows what is wrong.
    with (
        pytest.raises(varserve.CheckFailed, match="'ok' is not true"),
        model.transaction(check=fine.given(x=samples)) as transaction,
    ):
        transaction.assign("b", [5.0, 6.0, 7.0])
    assert (model.revision, b.numpy().tolist()) == (1, [1, 2, 4])


def test_a_guarded_assign_of_one_small_value(model: varserve.Model) -> None:
    """One small write carries its check in one message; a check that asserts refuses, too."""
    checked = model.functions["checked"].given(x=[1.0, -1.0])
    with (
        pytest.raises(varserve.CheckFailed, match="x must be positive"),
        model.transaction(check=checked) as transaction,
    ):
        transaction.assign("b", [1.0, 1.0, 1.0])
    assert model.variables["b"].numpy().tolist() == [1, 2, 3]
