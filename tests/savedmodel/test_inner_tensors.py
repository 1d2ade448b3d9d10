"""Inner tensors: what they are called, where they stand, and what is not found by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import InnerTensor, Place
from varserve_service.core.ports.loaded_model import LoadedModel

from .looking_inside import catalogue

Load = Callable[[str], LoadedModel]


def tensor(model: LoadedModel, function: str, name: str) -> InnerTensor:
    found = catalogue(model, function)
    return found.tensors[found.find(name)]


def test_names_are_those_that_people_know(load: Load) -> None:
    """A tensor is called as its layer calls it, with its op, shape, variables and source line."""
    found = tensor(load("inner"), "fine", "layer/biased")
    assert (found.name, found.op, found.dtype) == ("layer/biased", "AddV2", "float32")
    assert found.shape == (None, 3)
    assert found.variables == ("b",)
    assert found.place is Place.TOP
    file, _, line = found.source.partition(":")
    assert file == "inspectable.py"
    assert int(line) > 0


def test_source_lines_are_there_only_where_they_were_saved(load: Load) -> None:
    """A model saved without debug information has tensors without source lines."""
    model = load("inner_without_gradients")
    assert {each.source for each in catalogue(model, "twice").tensors} == {""}


def test_two_calls_of_a_function_are_told_apart(load: Load) -> None:
    """The bare name of a tensor in a function that is called twice fits two, told by qualifier."""
    model = load("inner")
    with pytest.raises(RequestError) as failed:
        catalogue(model, "twice").find("layer/relu")
    assert failed.value.reason is Reason.NAME_AMBIGUOUS
    for name in ("StatefulPartitionedCall/layer/relu", "StatefulPartitionedCall_1/layer/relu"):
        assert name in failed.value.message
        assert tensor(model, "twice", name).op == "Relu"


def test_every_name_and_every_path_finds_its_tensor(load: Load) -> None:
    """In each function each tensor has a name of its own, by which it is found, and a path."""
    model = load("inner")
    for function in model.functions:
        found = catalogue(model, function.spec.name)
        names = [each.name for each in found.tensors]
        assert len(set(names)) == len(names), function.spec.name
        for index, each in enumerate(found.tensors):
            assert found.find(each.name) == index
            assert found.find(each.path) == index


@pytest.mark.parametrize(
    ("function", "name", "place"),
    [
        ("loop", "turns/square", Place.LOOP),
        ("loop", "turns/Less", Place.LOOP),
        ("branch", "choose/of_then", Place.BRANCH),
        ("branch", "choose/else/Identity", Place.BRANCH),
        ("case", "switch_case/indexed_case/case_2", Place.BRANCH),
        ("around_compiled", "tanh", Place.XLA),
        ("around_compiled", "doubled", Place.TOP),
        ("loop_in_loop", "outer/inner/added", Place.LOOP),
        ("mapped", "map/while/sine", Place.LOOP),
    ],
)
def test_places(load: Load, function: str, name: str, place: Place) -> None:
    """A tensor stands at the top, in a loop, in a branch, or in what XLA runs as one."""
    assert tensor(load("inner"), function, name).place is place


def test_a_name_that_is_close_is_suggested(load: Load) -> None:
    """A name that is not there is refused with close ones, and a pattern that fits none as well."""
    found = catalogue(load("inner"), "twice")
    with pytest.raises(RequestError, match="layer/relu") as failed:
        found.find("layer/rely")
    assert failed.value.reason is Reason.TENSOR_NOT_FOUND
    with pytest.raises(RequestError) as failed:
        found.select(["nothing/like/*"])
    assert failed.value.reason is Reason.TENSOR_NOT_FOUND


def test_patterns_select_in_order_of_computation(load: Load) -> None:
    """A pattern gives all that it fits, and what a tensor is computed from comes first."""
    found = catalogue(load("inner"), "twice")
    ops = [found.tensors[index].op for index in found.select(["*layer/*"])]
    assert ops.count("MatMul") == 2
    assert ops.index("MatMul") < ops.index("Relu")


def test_an_output_of_many_is_named_by_its_number(load: Load) -> None:
    """Further outputs of an operation have `:1` and so on; `:0` is the name itself."""
    model = load("inner_sequence")
    found = catalogue(model, "serving_default")
    splits = [each.name for each in found.tensors if each.op == "Split"]
    first = splits[0]
    assert first + ":3" in splits
    assert found.find(first + ":0") == found.find(first)


def test_loops_of_tensorflow_1_are_refused(load: Load) -> None:
    """A function with Enter and Exit is refused before it runs, with the way on."""
    with pytest.raises(RequestError, match="enable_control_flow_v2") as failed:
        catalogue(load("inner_tf1_frames"), "serving_default")
    assert failed.value.reason is Reason.INSPECTION_UNSUPPORTED
