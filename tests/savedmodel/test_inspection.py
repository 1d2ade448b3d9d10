"""Looking inside functions as they run: values, messages, failures, writes and times."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import (
    InspectionLimits,
    Patch,
    PatchKind,
    SummarySpec,
)
from varserve_service.core.ports.function_messages import MessageKind
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.core.values.summaries import HistogramSpec

from .looking import run, variable
from .looking_inside import look, outputs, probes

Load = Callable[[str], LoadedModel]

ONES = np.ones((2, 2), np.float32)
FIRST, SECOND = "StatefulPartitionedCall/layer/relu", "StatefulPartitionedCall_1/layer/relu"


def reason_of(call: Callable[[], Any]) -> Reason:
    with pytest.raises(RequestError) as failed:
        call()
    return failed.value.reason


def test_each_call_of_a_function_has_its_own_value(load: Load) -> None:
    """Two calls of one function give the two values that are known by hand."""
    found = probes(look(load("inner"), "twice", {"x": ONES[:1]}, probes=[FIRST, SECOND]))
    np.testing.assert_allclose(found[FIRST][0][1], [[1.3, 2.5, 3.7]], rtol=1e-6)
    np.testing.assert_allclose(found[SECOND][0][1], [[1.6, 3.0, 4.4]], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        ("twice", {"x": ONES}),
        ("loop", {"n": np.int32(5)}),
        ("loop_in_loop", {"n": np.array([3, 2], np.int32)}),
        ("branch", {"x": np.float32(3)}),
        ("case", {"i": np.int32(9), "x": np.float32(3)}),
        ("compiled", {"x": ONES}),
        ("around_compiled", {"x": ONES}),
        ("gather", {"ids": np.array([1, 3], np.int32)}),
        ("scanned", {"x": np.ones((4, 3), np.float32)}),
        ("mapped", {"x": ONES}),
        ("looked_up", {"words": np.array([b"a", b"z"], object)}),
    ],
)
def test_outputs_are_those_of_a_plain_run(
    load: Load, function: str, inputs: dict[str, Any]
) -> None:
    """Looking at every inner tensor changes no bit of the outputs."""
    model = load("inner")
    plain = run(model, function, **{key: value.copy() for key, value in inputs.items()})
    seen = look(model, function, inputs, probes=["*"])
    for name, value in plain.items():
        np.testing.assert_array_equal(seen.outputs[name].numpy(), value)


def test_iterations_of_a_loop(load: Load) -> None:
    """A loop of four gives four values and four messages with their iterations; of none, none."""
    model = load("inner")
    seen = look(model, "loop", {"n": np.int32(4)}, probes=["turns/square"])
    assert probes(seen) == {"turns/square": [((0,), 0), ((1,), 1), ((2,), 4), ((3,), 9)]}
    assert [(m.iteration, m.text) for m in seen.messages] == [
        ((i,), f"step {i} square {i * i}") for i in range(4)
    ]
    none = look(model, "loop", {"n": np.int32(0)}, probes=["turns/square"])
    assert (probes(none), none.messages, none.not_run) == ({}, (), ("turns/square",))


def test_iterations_of_a_loop_in_a_loop(load: Load) -> None:
    """Two loops give two numbers for each value, the outer one first."""
    seen = look(load("inner"), "loop_in_loop", {"n": np.array([2, 2], np.int32)}, probes=["*added"])
    assert probes(seen) == {
        "outer/inner/added": [((0, 0), 0), ((0, 1), 1), ((1, 0), 10), ((1, 1), 21)]
    }


def test_the_branch_that_is_not_taken_is_not_run(load: Load) -> None:
    """Of a branch that is not taken there is neither a value nor a message."""
    model = load("inner")
    taken = look(model, "branch", {"x": np.float32(2)}, probes=["choose/of_*"])
    assert probes(taken) == {"choose/of_then": [((), 4)]}
    assert [m.text for m in taken.messages] == ["then 4"]
    assert taken.not_run == ("choose/of_else",)
    other = look(model, "branch", {"x": np.float32(-2)}, probes=["choose/of_*"])
    assert (other.messages, other.not_run) == ((), ("choose/of_then",))


def test_prints_come_to_the_caller_alone(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """Each printed line comes in order with its end and stream; nothing is written anywhere."""
    x = np.array([1, 2], np.int32)
    seen = look(load("inner"), "printer", {"x": x})
    assert [(m.text, m.stream, m.end) for m in seen.messages] == [
        ("x is [1 2] sum 3", "stderr", "\n"),
        ("y: [2 4]", "stdout", "\n"),
        ("plain constant message", "stderr", "\n"),
        ("{'k': [2 4]}", "stderr", "<END>"),
    ]
    assert outputs(seen) == {"y": [2, 4]}
    written = capfd.readouterr()
    assert "x is" not in written.out + written.err
    assert "plain constant" not in written.out + written.err


def test_callers_at_once_get_their_own_lines(load: Load) -> None:
    """Three loops that run at once do not see each other's lines."""
    model = load("inner")

    def lines(n: int) -> list[str]:
        return [m.text for m in look(model, "loop", {"n": np.int32(n)}).messages]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lines, (2, 5, 3) * 5))
    assert found == [[f"step {i} square {i * i}" for i in range(n)] for n in (2, 5, 3) * 5]


def test_a_failed_assertion_fails_with_its_parts(load: Load) -> None:
    """An assertion that fails is a failure that says what the assertion was given to show."""
    x = np.array([0, 2], np.float32)
    with pytest.raises(RequestError, match=r"x must be positive.*\[0\. 2\.\]") as failed:
        look(load("inner"), "checked", {"x": x})
    assert failed.value.reason is Reason.FUNCTION_FAILED


def test_a_failed_assertion_can_be_passed_over(load: Load) -> None:
    """With keep_going the run goes on after what failed, and says so with the parts."""
    x = np.array([0, 2], np.float32)
    seen = look(load("inner"), "checked", {"x": x}, keep_going=True)
    kinds = [m.kind for m in seen.messages]
    assert kinds == [MessageKind.ASSERTION, MessageKind.CHECK_NUMERICS]
    assert "[0. 2.]" in seen.messages[0].parts
    assert outputs(seen)["y"][0] == -np.inf


def test_the_first_number_that_is_not_finite(load: Load) -> None:
    """The operation is named where an infinity begins, though the output is finite."""
    model = load("inner")
    x = np.array([0, 2], np.float32)
    seen = look(model, "hides_infinity", {"x": x}, find_non_finite=True)
    found = seen.first_non_finite
    assert found is not None
    assert (found.name, found.op, found.shape) == ("the_log", "Log", (2,))
    assert (found.nan, found.positive_infinity, found.negative_infinity) == (0, 0, 1)
    assert outputs(seen) == {"y": 0}
    fine = look(model, "hides_infinity", {"x": x + 1}, find_non_finite=True)
    assert fine.first_non_finite is None


def test_what_is_not_finite_in_a_loop_has_its_iteration(load: Load) -> None:
    """The iteration is named in which the first infinity is computed."""
    seen = look(
        load("inner"),
        "loop",
        {"n": np.int32(4)},
        assume={"b": [np.inf, 2, 3]},
        find_non_finite=True,
    )
    assert seen.first_non_finite is not None
    assert seen.first_non_finite.iteration == (0,)
    assert seen.first_non_finite.positive_infinity == 1


def test_a_function_that_writes_writes_private_copies(load: Load) -> None:
    """A counting function sees its own write in its outputs, and the model's value stays."""
    model = load("inner")
    seen = look(model, "add", {"n": np.int64(5)}, probes=["Read_1/ReadVariableOp"])
    assert outputs(seen) == {"before": 0, "after": 5, "total": [5, 5]}
    assert probes(seen) == {"Read_1/ReadVariableOp": [((), 5)]}
    assert variable(model, "count").read().numpy() == 0
    assert variable(model, "total").read().numpy().tolist() == [0, 0]


def test_assumed_values_are_for_one_run(load: Load) -> None:
    """A function runs with a value that is assumed, and the model's own value stays."""
    model = load("inner")
    seen = look(model, "twice", {"x": ONES[:1]}, assume={"w": np.zeros((2, 3))})
    assert outputs(seen) == {"y": [12]}
    sparse = look(
        model, "gather", {"ids": np.array([1], np.int32)}, assume={"table": np.full((10, 2), 5)}
    )
    assert outputs(sparse) == {"y": [10]}
    assert outputs(look(model, "gather", {"ids": np.array([1], np.int32)})) == {"y": [5]}


def test_xla_runs_as_one_unless_it_is_opened(load: Load) -> None:
    """What XLA compiles is out of reach, says so, and is within reach with open_xla."""
    model = load("inner")
    assert reason_of(lambda: look(model, "around_compiled", {"x": ONES}, probes=["tanh"])) is (
        Reason.TENSOR_INSIDE_XLA
    )
    opened = look(model, "around_compiled", {"x": ONES}, probes=["tanh"], open_xla=True)
    np.testing.assert_allclose(
        opened.probes[0].value.numpy()[0],  # type: ignore[union-attr]
        np.tanh([0.6, 1.0, 1.4]),
        rtol=1e-6,
    )
    whole = look(model, "around_compiled", {"x": ONES}, find_non_finite=True)
    assert any("XLA" in note for note in whole.notes)


def test_patches(load: Load) -> None:
    """A tensor that is replaced by zeros, a multiple or a value: the run goes on with that."""
    model = load("inner")
    x = {"x": ONES[:1]}
    plain = look(model, "twice", x).outputs["y"].numpy()
    zero = look(model, "twice", x, patches={SECOND: Patch(PatchKind.ZERO)})
    np.testing.assert_allclose(zero.outputs["y"].numpy(), [1.3 + 2.5 + 3.7], rtol=1e-6)
    twice = look(model, "twice", x, patches={"sum_of_both": Patch(PatchKind.SCALE, 2.0)})
    np.testing.assert_array_equal(twice.outputs["y"].numpy(), plain * 2)
    value = np.array([[1, 2, 3]], np.float32)
    given = look(model, "twice", x, patches={FIRST: Patch(PatchKind.VALUE, value=value)})
    np.testing.assert_allclose(given.outputs["y"].numpy(), [6 + 1.6 + 3.0 + 4.4], rtol=1e-6)
    loop = look(model, "loop", {"n": np.int32(4)}, patches={"turns/square": Patch(PatchKind.ZERO)})
    assert outputs(loop) == {"s": 0}


def test_patches_of_inputs(load: Load) -> None:
    """An input is an inner tensor too: it is probed and patched by its name."""
    seen = look(
        load("inner"),
        "twice",
        {"x": ONES[:1]},
        probes=["x"],
        patches={"x": Patch(PatchKind.SCALE, 0.0)},
    )
    assert probes(seen) == {"x": [((), [[0, 0]])]}
    assert outputs(seen) == {"y": [12]}


def test_random_wrong_patches_never_end_the_process(load: Load) -> None:
    """A thousand patches of wrong types, ranks and sizes are refused, and the next run is right."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    model = load("inner_keras_3")
    image = {"image": np.ones((1, 16, 16, 3), np.float32)}
    plain = look(model, "serving_default", image).outputs["output_0"].numpy()
    seen = look(model, "serving_default", image, probes=["*"])
    shapes = {p.name: p.value.shape for p in seen.probes if p.value is not None}
    names = [p.name for p in seen.probes if p.value is not None]
    refused, reasons = 0, set[Reason]()
    for _ in range(1000):
        name = names[rng.integers(len(names))]
        shape = tuple(int(size) for size in rng.integers(0, 9, rng.integers(0, 6)))
        dtype = ("float32", "float64", "int32", "float16")[rng.integers(4)]
        right = shape == shapes[name] and dtype == "float32"
        patch = Patch(PatchKind.VALUE, value=np.zeros(shape, dtype))
        try:
            look(model, "serving_default", image, patches={name: patch})
        except RequestError as error:
            reasons.add(error.reason)
            refused += 1
        else:
            assert right, (name, shape, dtype)
    assert refused > 900
    assert reasons == {Reason.SHAPE_MISMATCH, Reason.DTYPE_MISMATCH, Reason.PATCH_UNSUPPORTED}
    again = look(model, "serving_default", image).outputs["output_0"].numpy()
    np.testing.assert_array_equal(again, plain)


def test_integers_and_strings_are_not_patched(load: Load) -> None:
    """Shapes and indices live in integers, names in strings: neither is replaced."""
    model = load("inner")
    patches = {"x": Patch(PatchKind.ZERO)}
    x = np.array([1, 2], np.int32)
    assert reason_of(lambda: look(model, "printer", {"x": x}, patches=patches)) is (
        Reason.PATCH_UNSUPPORTED
    )
    patches = {"words": Patch(PatchKind.ZERO)}
    words = np.array([b"a"], object)
    assert reason_of(lambda: look(model, "looked_up", {"words": words}, patches=patches)) is (
        Reason.PATCH_UNSUPPORTED
    )


def test_summaries_instead_of_values(load: Load) -> None:
    """A probe is given as a summary with histogram and hash, and its value is not kept."""
    spec = SummarySpec(HistogramSpec(4), content_hash=True)
    limits = InspectionLimits(nbytes=1)
    seen = look(
        load("inner"),
        "loop",
        {"n": np.int32(3)},
        probes=["turns/square"],
        summarize=spec,
        limits=limits,
    )
    assert [probe.iteration for probe in seen.probes] == [(0,), (1,), (2,)]
    for probe, square in zip(seen.probes, (0, 1, 4), strict=True):
        assert probe.value is None
        assert probe.summary is not None
        assert probe.summary.moments.mean == square
        assert probe.summary.histogram is not None
        assert probe.summary.histogram.counts.sum() == 1
        assert len(probe.summary.content_hash) == 32


def test_limits(load: Load) -> None:
    """More bytes, operations or records than an inspection may take are refused, with a way on."""
    model = load("inner")
    n = {"n": np.int32(50)}
    for limits, words in (
        (InspectionLimits(nbytes=40), "ask for summaries"),
        (InspectionLimits(operations=100), "fewer iterations"),
        (InspectionLimits(records=10), "fewer"),
    ):
        with pytest.raises(RequestError, match=words) as failed:
            look(model, "loop", n, probes=["turns/square"], limits=limits)
        assert failed.value.reason is Reason.INSPECTION_TOO_LARGE


def test_a_run_is_stopped_between_two_operations(load: Load) -> None:
    """What go_on raises ends a loop that would go on for very long."""
    turns = 0

    def go_on() -> None:
        nonlocal turns
        turns += 1
        if turns == 1000:
            raise RequestError(Reason.DEADLINE_EXCEEDED, "late")

    call = lambda: look(load("inner"), "loop", {"n": np.int32(10**9)}, go_on=go_on)  # noqa: E731
    assert reason_of(call) is Reason.DEADLINE_EXCEEDED


def test_profile(load: Load) -> None:
    """Each operation has its runs and seconds; in a loop, all iterations together."""
    seen = look(load("inner"), "loop", {"n": np.int32(6)}, profile=True)
    by_name = {each.name: each for each in seen.profile}
    assert by_name["turns/square"].runs == 6
    assert by_name["turns/square"].seconds > 0
    assert by_name["turns/Less"].runs == 7


def test_a_failing_operation_is_named(load: Load) -> None:
    """What TensorFlow refuses to compute is told with the inner tensor's name."""
    with pytest.raises(RequestError, match="rows") as failed:
        look(load("inner"), "gather", {"ids": np.array([99], np.int32)}, probes=["*"])
    assert failed.value.reason is Reason.FUNCTION_FAILED


def test_state_that_cannot_be_copied_is_refused(load: Load) -> None:
    """A function that changes a table is not inspected: it would change it for everybody."""
    model = load("hash_table")
    writers = [f for f in model.functions if f.spec.overloads[0].changes_other_state]
    for each in writers:
        arrays = {
            i.name: np.zeros([s or 1 for s in i.kind.shape or ()], i.kind.dtype)  # type: ignore[union-attr]
            for i in each.spec.overloads[0].inputs
            if getattr(i.kind, "dtype", "string") != "string"
        }
        if len(arrays) == len(each.spec.overloads[0].inputs):
            assert reason_of(lambda: look(model, each.spec.name, arrays)) is (  # noqa: B023
                Reason.STATE_NOT_COPYABLE
            )


@pytest.mark.parametrize(
    ("name", "inputs", "probe"),
    [
        ("inner_keras_3", {"image": np.ones((1, 16, 16, 3), np.float32)}, "tiny*/conv_b*/BiasAdd"),
        ("inner_sequence", {"tokens": np.ones((1, 3), np.int32)}, "*lstm_cell*/MatMul"),
        ("inner_sequence", {"tokens": np.ones((1, 3), np.int32)}, "*mha*/*oftmax"),
        ("inner_keras_2", {"features": np.ones((1, 8), np.float32)}, "old/d1/Relu"),
        ("inner_tf1", {"x": ONES}, "first/w/read"),
        ("inner_tf1_branch", {"x": np.float32(2)}, "choose/of_yes"),
    ],
)
def test_models_of_every_kind(load: Load, name: str, inputs: dict[str, Any], probe: str) -> None:
    """Keras 2 and 3, LSTM with attention, TensorFlow 1: inspected, with a plain run's outputs."""
    if name == "inner_keras_2":
        pytest.importorskip("tf_keras")
    model = load(name)
    plain = run(model, "serving_default", **{k: v.copy() for k, v in inputs.items()})
    seen = look(model, "serving_default", inputs, probes=[probe])
    assert probes(seen)
    for key, value in plain.items():
        np.testing.assert_allclose(seen.outputs[key].numpy(), value, rtol=1e-5, atol=1e-6)


def test_a_branch_of_tensorflow_1_that_is_not_taken(load: Load) -> None:
    """Switch and Merge: the side that is not taken is not run, and the other gives the output."""
    model = load("inner_tf1_branch")
    for x, taken, other in (
        (2.0, "choose/of_yes", "choose/of_no"),
        (-2.0, "choose/of_no", "choose/of_yes"),
    ):
        seen = look(model, "serving_default", {"x": np.float32(x)}, probes=[taken, other])
        assert list(probes(seen)) == [taken]
        assert seen.not_run == (other,)
        assert outputs(seen) == {"y": 6 if x > 0 else 2}


def test_a_reference_variable_of_tensorflow_1_is_seen(load: Load) -> None:
    """A variable that the service cannot serve is seen where the function reads it."""
    seen = look(load("inner_tf1"), "serving_default", {"x": ONES}, probes=["first/w/read"])
    assert probes(seen) == {"first/w/read": [((), [[1, 2], [3, 4]])]}
