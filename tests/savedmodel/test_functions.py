"""Functions of real SavedModels: what they take and give, and how they run and fail."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from varserve_service.core.errors import FunctionFailed, OutOfMemory
from varserve_service.core.ports.loaded_model import Constant, InputSpec, LoadedModel, TensorSpec

from .looking import function, overloads, run, variable

Load = Callable[[str], LoadedModel]

VECTOR = TensorSpec("float32", (None,))


def test_overloads_with_constants(load: Load) -> None:
    """Each concrete function is an overload; constants and defaults of its signature are told."""
    found = overloads(load("polymorphic"), "scale")
    defaults = (
        InputSpec("by", Constant(2), optional=True),
        InputSpec("training", Constant(False), optional=True),
        InputSpec("mode", Constant(None), optional=True),
    )
    by, training, mode = defaults
    assert [overload.inputs for overload in found] == [
        (InputSpec("x", VECTOR), *defaults),
        (InputSpec("x", VECTOR), by, InputSpec("training", Constant(True)), mode),
        (InputSpec("x", VECTOR), InputSpec("by", Constant(3)), training, mode),
        (InputSpec("x", VECTOR), by, training, InputSpec("mode", Constant("fast"))),
        (InputSpec("x", VECTOR), InputSpec("by", TensorSpec("float32", ())), training, mode),
        (InputSpec("x", TensorSpec("int32", (None,))), *defaults),
    ]


def test_each_overload_runs_its_own_graph(load: Load) -> None:
    """Staging an overload runs exactly that concrete function."""
    model = load("polymorphic")
    x = np.array([1, 2], np.float32)
    results = [run(model, "scale", index, x=x)["output_0"].tolist() for index in range(4)]
    assert results == [[2, 4], [102, 104], [3, 6], [2, 4]]
    by = np.array(10, np.float32)
    assert run(model, "scale", 4, x=x, by=by)["output_0"].tolist() == [10, 20]
    assert run(model, "scale", 5, x=x.astype(np.int32))["output_0"].dtype == np.int32


def test_nested_arguments_are_flat(load: Load) -> None:
    """Nested arguments and results have flat names, and each value goes where its name says."""
    model = load("polymorphic")
    (overload,) = overloads(model, "nest")
    assert [i.name for i in overload.inputs] == [
        "batch/pair/0",
        "batch/pair/1",
        "batch/x",
        "rest/0",
    ]
    vectors = [np.array([n], np.float32) for n in (1, 10, 100, 1000)]
    inputs = dict(zip([i.name for i in overload.inputs], vectors, strict=True))
    outputs = function(model, "nest").stage(0, inputs)()
    assert {name: value.numpy().tolist() for name, value in outputs.items()} == {
        "parts/0": [100],
        "parts/1/rest": [1000],
        "total": [111],
    }


def test_outputs_that_are_none_are_left_out(load: Load) -> None:
    """A tuple's outputs are numbered by their place; a None among them is left out."""
    (overload,) = overloads(load("polymorphic"), "sizes")
    assert [(o.name, o.tensor) for o in overload.outputs] == [
        ("output_0", TensorSpec("int32", ())),
        ("output_2", TensorSpec("string", ())),
    ]


def test_sparse_inputs_in_tensorflow_1_format(load: Load) -> None:
    """The tensors of a sparse or ragged input go in TensorFlow's order, not by sorted name."""
    model = load("tf1_sparse")
    (overload,) = overloads(model, "serving_default")
    assert [i.name for i in overload.inputs] == [
        "r_component_0",
        "r_component_1",
        "x_indices",
        "x_values",
        "x_dense_shape",
        "x_a",
    ]
    outputs = run(
        model,
        "serving_default",
        r_component_0=np.array([1, 2, 4], np.float32),
        r_component_1=np.array([0, 2, 3], np.int64),
        x_indices=np.array([[0, 1], [1, 0]], np.int64),
        x_values=np.array([5, 7], np.int64),
        x_dense_shape=np.array([2, 2], np.int64),
        x_a=np.array([1], np.float32),
    )
    assert [(name, value.tolist()) for name, value in outputs.items()] == [
        ("a", [3]),
        ("rows", [3, 4]),
        ("sum", 12),
        ("twice/indices", [[0, 1], [1, 0]]),
        ("twice/values", [10, 14]),
        ("twice/dense_shape", [2, 2]),
    ]


def test_composite_tensors_have_the_names_of_their_parts(load: Load) -> None:
    """The parts of ragged, sparse and indexed tensors have TensorFlow's names for them."""
    (overload,) = overloads(load("composites"), "parts")
    parts = {
        "r": ["flat_values", "nested_row_splits/0", "nested_row_splits/1"],
        "s": ["indices", "values", "dense_shape"],
        "i": ["values", "indices"],
    }
    assert [i.name for i in overload.inputs] == [f"{n}/{p}" for n in "rsi" for p in parts[n]]
    named = {"a": parts["s"], "m": parts["i"], "z": parts["r"]}
    assert [o.name for o in overload.outputs] == [f"{n}/{p}" for n in named for p in named[n]]


def test_arguments_go_where_their_names_say(load: Load) -> None:
    """Named tuples, *rest, keywords, and names of specs that contradict those of arguments."""
    model = load("composites")
    spread = {"n__z": 1, "n__a": 2, "rest__0": 3, "rest__1": 4, "bias": 5, "alpha": 6, "zeta": 7}
    outputs = run(model, "spread", **{name: np.float32(n) for name, n in spread.items()})
    assert [(name, float(value)) for name, value in outputs.items()] == [
        ("output_0/z", 1 - 4 + 20 + 56 - 96),
        ("output_0/a", 2),
        ("output_1/0", -2),
        ("output_1/1", -1),
    ]
    for name in ("swapped", "bare", "serving_default"):
        outputs = run(model, name, x=np.float32(5), y=np.float32(3))
        assert [(name, float(value)) for name, value in outputs.items()] == [("a", 5), ("z", 2)]
    keyed = run(model, "keyed", a=np.float32(1), b=np.float32(2), b_b=np.float32(3))
    assert keyed == {"output_0": 9}


def test_a_function_without_a_structure(load: Load) -> None:
    """A function that was cut out of a graph has the names of its inputs there."""
    model = load("tf1_pruned")
    assert run(model, "whole", x=np.float32(1)) == {"output_0": 2}
    assert run(model, "cut", x=np.float32(5), y=np.float32(3)) == {"output_0": 2}


def test_a_function_changes_variables(load: Load) -> None:
    """What a function assigns, the next read and the next function see."""
    model = load("counter")
    assert run(model, "add", n=np.int64(5)) == {"count": 5}
    assert run(model, "get") == {"count": 5}
    assert variable(model, "count").read().numpy() == 5


def test_an_assigned_value_is_seen_by_functions(load: Load) -> None:
    """What is written to a variable, the next call of a function computes with."""
    model = load("counter")
    v = variable(model, "v")
    v.write(v.stage(np.array([1, 1, 1], np.float32)))
    x = np.array([1, 2, 3], np.float32)
    assert run(model, "serving_default", x=x) == {"output_0": 6}


def test_strings(load: Load) -> None:
    """Strings go in and come out as bytes."""
    parts = np.array([b"a", b"\xff\x00", b""], object)
    assert run(load("strings_and_ints"), "join", parts=parts) == {"output_0": b"a-\xff\x00-"}


def test_tables_are_filled_at_load(load: Load) -> None:
    """Hash tables beside the variables work after loading, in both formats of SavedModel."""
    keys = np.array([b"a", b"?"], object)
    assert run(load("hash_table"), "look", keys=keys)["output_0"].tolist() == [1.5, -0.5]
    x = np.array([1], np.float32)
    assert run(load("tf1_table"), "serving_default", x=x)["y"].tolist() == [15]


def test_tf1_signatures(load: Load) -> None:
    """Signatures in TensorFlow 1 format run, write, and keep functions on reference variables."""
    model = load("tf1_no_default")
    assert run(model, "predict", x=np.array([2], np.float32))["y"].tolist() == [10]
    assert run(model, "count") == {"step": 6}
    reference = load("tf1_reference")
    assert run(reference, "serving_default", x=np.array([2], np.float32))["y"].tolist() == [10]


@pytest.mark.parametrize(
    ("name", "inputs", "said"),
    [
        ("check", {"x": np.float32(-1)}, "x must be positive"),
        (
            "fold",
            {"x": np.ones(5, np.float32), "size": np.int32(2)},
            "Input to reshape is a tensor with 5 values, but the requested shape has 4",
        ),
        (
            "pick",
            {"x": np.ones(5, np.float32), "i": np.array([9], np.int32)},
            "indices[0] = 9 is not in [0, 5)",
        ),
    ],
)
def test_failures_say_why_and_nothing_else(
    load: Load, name: str, inputs: dict[str, np.ndarray], said: str
) -> None:
    """A failing function says what TensorFlow found, without nodes, files, traces or devices."""
    with pytest.raises(FunctionFailed) as caught:
        run(load("failing"), name, **inputs)
    message = caught.value.message
    assert message.startswith(f"function '{name}' failed: ")
    assert said in message
    assert not [bad for bad in ("{{", "[[", "[Op:", "__inference", "/job:", "\n") if bad in message]


def test_a_function_that_asks_for_too_much_memory(load: Load) -> None:
    """An allocation that cannot be made is OutOfMemory, and the model works on."""
    model = load("failing")
    with pytest.raises(OutOfMemory):
        run(model, "allocate", size=np.int64(2**50))
    assert run(model, "allocate", size=np.int64(2))["output_0"].tolist() == [1, 1]


def test_shapes_of_inputs_make_no_traces(load: Load) -> None:
    """Reads and writes of a thousand shapes add no function to the process."""
    from tensorflow.python.eager import context

    model = load("counter")
    total, v = function(model, "total"), variable(load("partial_shapes"), "anything")
    total.stage(0, {"x": np.ones(3, np.float32)})()
    v.write(v.stage(np.ones(1, np.float32)))
    before = set(context.context().list_function_names())
    for size in range(1000):
        v.write(v.stage(np.ones((size, 1), np.float32)))
        assert v.read().shape == (size, 1)
    for _ in range(10):
        total.stage(0, {"x": np.ones(3, np.float32)})()
    # Those of models that are gone by now may go at any time.
    assert set(context.context().list_function_names()) - before == set()


def test_many_threads(load: Load) -> None:
    """Reads and calls from many threads at once all get the right answer."""
    model = load("counter")
    total, v = function(model, "total"), variable(model, "v")

    def call(n: int) -> float:
        x = np.full(3, n, np.float32)
        assert v.read().numpy().tolist() == [1, 2, 3]
        return float(total.stage(0, {"x": x})()["output_0"].numpy())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(200))) == [6.0 * n for n in range(200)]
