"""What TensorFlow refuses of a SavedModel when it loads it is refused, and not found by a call."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests import saved_models
from varserve_service import savedmodel
from varserve_service.core.errors import ModelLoadError
from varserve_service.savedmodel import Placement
from varserve_service.savedmodel.runtime import graph_functions

Damage = Callable[[Any], None]
BOTH: dict[str, Damage] = {}
"""What TensorFlow refuses too, by name; each changes a SavedModel message."""
OURS: dict[str, Damage] = {}
"""What TensorFlow loads, and then cannot call, or ends by."""


def both(damage: Damage) -> Damage:
    BOTH[damage.__name__] = damage
    return damage


def ours(damage: Damage) -> Damage:
    OURS[damage.__name__] = damage
    return damage


def functions(message: Any) -> Iterator[Any]:
    """Those of the model, not those that save and restore it."""
    for each in message.meta_graphs[0].graph_def.library.function:
        if "traced" not in each.signature.name:
            yield each


def node(message: Any, of: Callable[[Any], Any]) -> Any:
    return next(each for f in functions(message) for each in f.node_def if of(each))


def calling(message: Any) -> tuple[Any, Any]:
    """A function, and its node that calls another."""
    return next((f, n) for f in functions(message) for n in f.node_def if n.attr["f"].func.name)


def function_with(message: Any, of: Callable[[Any], Any]) -> Any:
    return next(each for each in functions(message) if of(each))


def concrete(message: Any) -> Any:
    """A concrete function that captured variables."""
    found = message.meta_graphs[0].object_graph_def.concrete_functions
    return next(
        found[name] for name in sorted(found) if found[name].bound_inputs and "traced" not in name
    )


@both
def operation_that_is_none(message: Any) -> None:
    node(message, lambda n: n.op == "ReadVariableOp").op = "NoSuchOperation"


@both
def operation_of_other_inputs(message: Any) -> None:
    node(message, lambda n: n.op == "AssignAddVariableOp").op = "While"


@both
def attribute_that_is_missing(message: Any) -> None:
    del node(message, lambda n: n.op == "ReadVariableOp").attr["dtype"]


@both
def attribute_of_another_kind(message: Any) -> None:
    node(message, lambda n: n.op == "ReadVariableOp").attr["dtype"].s = b"oops"


@both
def attribute_of_another_type(message: Any) -> None:
    node(message, lambda n: n.op.startswith("Add")).attr["T"].type = types_pb2.DT_STRING


@both
def more_types_than_outputs(message: Any) -> None:
    calling(message)[1].attr["Tin"].list.type.append(types_pb2.DT_FLOAT)


@both
def contradicting_shapes(message: Any) -> None:
    found = node(message, lambda n: n.op.startswith("Add") and "_output_shapes" in n.attr)
    shape = found.attr["_output_shapes"].list.shape[0]
    shape.Clear()
    shape.dim.add().size = 13


@both
def node_that_is_missing(message: Any) -> None:
    found = function_with(message, lambda f: any(n.op == "ReadVariableOp" for n in f.node_def))
    place = next(i for i, n in enumerate(found.node_def) if n.op == "ReadVariableOp")
    del found.node_def[place]


@both
def node_that_is_there_twice(message: Any) -> None:
    found = next(functions(message))
    found.node_def.add().CopyFrom(found.node_def[0])


@both
def name_that_is_none(message: Any) -> None:
    node(message, lambda n: n.op == "NoOp").name = "no name!"


@both
def input_from_nowhere(message: Any) -> None:
    node(message, lambda n: n.op == "Identity").input[0] = "nobody:output:0"


@both
def input_from_no_output(message: Any) -> None:
    found = node(message, lambda n: n.op == "Identity" and ":" in n.input[0])
    found.input[0] = found.input[0].rpartition(":")[0] + ":7"


@both
def input_by_another_name(message: Any) -> None:
    found = node(message, lambda n: n.op == "Identity" and ":" in n.input[0])
    found.input[0] = found.input[0].partition(":")[0] + ":nothing:0"


@both
def input_too_few(message: Any) -> None:
    del node(message, lambda n: n.op.startswith("Add")).input[0]


@both
def waiting_for_nobody(message: Any) -> None:
    node(message, lambda n: n.op == "Identity").input.append("^nobody")


@both
def waiting_for_itself(message: Any) -> None:
    found = node(message, lambda n: n.op == "Identity")
    found.input.append("^" + found.name)


@both
def callee_that_is_missing(message: Any) -> None:
    calling(message)[1].attr["f"].func.name = "nobody_7"


@both
def function_that_is_missing(message: Any) -> None:
    library = message.meta_graphs[0].graph_def.library
    name = calling(message)[1].attr["f"].func.name
    place = next(i for i, f in enumerate(library.function) if f.signature.name == name)
    del library.function[place]


@both
def function_that_calls_itself(message: Any) -> None:
    caller, call = calling(message)
    call.attr["f"].func.name = caller.signature.name


@both
def output_from_nowhere(message: Any) -> None:
    found = function_with(message, lambda f: f.ret)
    found.ret[sorted(found.ret)[0]] = "nobody:output:0"


@both
def output_that_is_missing(message: Any) -> None:
    found = function_with(message, lambda f: f.ret)
    del found.ret[sorted(found.ret)[0]]


@both
def control_output_from_nowhere(message: Any) -> None:
    found = function_with(message, lambda f: f.control_ret)
    found.control_ret[sorted(found.control_ret)[0]] = "nobody"


@both
def input_of_another_type(message: Any) -> None:
    found = function_with(message, lambda f: "inference_mapped" in f.signature.name)
    found.signature.input_arg[0].type = types_pb2.DT_STRING


@both
def input_without_a_shape(message: Any) -> None:
    found = function_with(message, lambda f: len(f.attr["_input_shapes"].list.shape) > 1)
    del found.attr["_input_shapes"].list.shape[-1]


@both
def object_without_its_function(message: Any) -> None:
    objects = message.meta_graphs[0].object_graph_def
    found = next(n for n in objects.nodes if n.function.concrete_functions)
    found.function.concrete_functions[0] = "nobody_7"


@both
def captured_object_that_is_none(message: Any) -> None:
    concrete(message).bound_inputs[0] = 0


@ours
def captured_too_many(message: Any) -> None:
    bound = concrete(message).bound_inputs
    bound.extend([bound[0]] * 9)


@ours
def captured_of_another_type(message: Any) -> None:
    objects = message.meta_graphs[0].object_graph_def
    place = concrete(message).bound_inputs[0]
    wrong = objects.nodes.add()
    wrong.CopyFrom(objects.nodes[place])
    wrong.variable.dtype = types_pb2.DT_INT64
    concrete(message).bound_inputs[0] = len(objects.nodes) - 1


@ours
def constant_of_another_type(message: Any) -> None:
    found = node(message, lambda n: n.op == "Const" and n.attr["dtype"].type == types_pb2.DT_INT32)
    found.attr["value"].tensor.dtype = types_pb2.DT_STRING


@ours
def output_of_another_type(message: Any) -> None:
    found = function_with(message, lambda f: f.signature.output_arg)
    found.signature.output_arg[0].type = types_pb2.DT_STRING


def damaged(damage: Damage, folder: Path, models_root: Path) -> Path:
    shutil.copytree(saved_models.build("branches", models_root), folder)
    file = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    damage(message)
    file.write_bytes(message.SerializeToString())
    return folder


def refused(path: Path, placement: Placement) -> str:
    with pytest.raises(ModelLoadError) as caught:
        savedmodel.load("m", path, placement=placement)
    return str(caught.value)


@pytest.mark.parametrize("name", BOTH)
def test_what_tensorflow_refuses(
    tmp_path: Path, models_root: Path, placement: Placement, name: str
) -> None:
    """It is refused in one line that says where the damage is."""
    path = damaged(BOTH[name], tmp_path / "m", models_root)
    with pytest.raises(Exception):  # noqa: B017 -- of many types, KeyError too
        tf.saved_model.load(str(path))
    message = refused(path, placement)
    assert message.startswith(f"model 'm': TensorFlow cannot load {path}: ")
    assert "\n" not in message
    assert "function '" in message or "operations" in message or "object" in message


@pytest.mark.parametrize("name", OURS)
def test_what_tensorflow_finds_when_it_is_called(
    tmp_path: Path, models_root: Path, placement: Placement, name: str
) -> None:
    """What no call could use, or what would end the process, is refused before a call."""
    message = refused(damaged(OURS[name], tmp_path / "m", models_root), placement)
    assert "is damaged" in message
    assert "\n" not in message


def test_nothing_is_left_of_what_is_refused(
    tmp_path: Path, models_root: Path, placement: Placement
) -> None:
    """The functions that were sound, and came before the damaged one, are forgotten."""
    path = damaged(control_output_from_nowhere, tmp_path / "m", models_root)
    counts = []
    for _ in range(3):
        refused(path, placement)
        gc.collect()
        counts.append(graph_functions())
    assert counts[2] == counts[1]


@pytest.mark.parametrize("change", ["type", "number"])
def test_outputs_that_are_not_those_of_the_signature(
    tmp_path: Path, models_root: Path, placement: Placement, change: str
) -> None:
    """The function is left out, which TensorFlow loads and cannot call; the others are served."""

    def disagree(message: Any) -> None:
        found = message.meta_graphs[0].object_graph_def.concrete_functions
        name = next(name for name in found if "inference_loop" in name)
        saved = found[name].output_signature
        if change == "type":
            saved.tensor_spec_value.dtype = types_pb2.DT_INT64
        else:
            one = type(saved).FromString(saved.SerializeToString())
            saved.Clear()
            saved.tuple_value.values.extend([one, one])

    model = savedmodel.load(
        "m", damaged(disagree, tmp_path / "m", models_root), placement=placement
    )
    names = {function.spec.name for function in model.functions}
    assert {"cond", "case"} < names
    assert "loop" not in names
    reasons = {omission.path: omission.reason for omission in model.omissions}
    expected = "int64" if change == "type" else "float32, float32"
    assert (
        reasons["loop"] == f"its outputs are {expected} in its signature, and float32 in its graph"
    )
