"""Functions are restored by their definitions: what is known of them, and when a graph is made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_models
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel.function_library import in_order
from varserve_service.savedmodel.object_graph import is_function, is_polymorphic, walk
from varserve_service.savedmodel.restored_functions import RestoredFunction
from varserve_service.savedmodel.runtime import function_definition, graph_functions

from .looking import run

Load = Callable[[str], LoadedModel]

MODELS = (
    *("counter", "polymorphic", "strings_and_ints", "scaled", "words", "examples"),
    *("complex_numbers", "partial_shapes", "hash_table", "embedding", "branches", "datasets"),
    *("shapes", "uniform", "composites", "keras_2", "keras_3", "keras_3_step"),
)


def restored(model: Any) -> Iterator[RestoredFunction]:
    """The concrete functions of a loaded model."""
    for _, node in walk(model._root):
        if is_function(node):
            yield from node.concrete_functions if is_polymorphic(node) else [node]


def specs(tensors: Any) -> list[tuple[str, Any]]:
    found = []
    for each in tensors:
        # That of a resource is of its handle, whatever is said of it.
        known = each.shape.rank is not None and each.dtype != tf.resource
        shape = tuple(each.shape.as_list()) if known else None
        found.append((each.dtype.name, shape))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_specs_are_those_of_the_graph(load: Load, name: str) -> None:
    """What a definition says of inputs and outputs is what TensorFlow makes of its graph."""
    model = load(name)
    count = 0
    for function in restored(model):
        assert specs(function.argument_specs) == specs(function.graph.inputs)
        assert specs(function.result_specs) == specs(function.graph.outputs)
        count += 1
    assert count


def test_nothing_makes_a_graph_that_no_call_needs(load: Load) -> None:
    """Neither loading nor running makes the graph of a function; asking for it does."""
    model = load("counter")
    run(model, "add", n=np.int64(1))
    functions = list(restored(model))
    assert functions
    assert not any(each._inference_function.has_graph for each in functions)
    assert functions[0].graph.structured_outputs is functions[0].structured_outputs
    assert not functions[0]._inference_function.has_graph
    assert functions[0].graph.get_operations()
    assert functions[0]._inference_function.has_graph


@pytest.mark.parametrize("name", ["branches", "keras_2", "hash_table", "composites"])
def test_definitions_are_those_of_tensorflow(load: Load, models_root: Path, name: str) -> None:
    """The nodes of a registered definition have the operations and attributes that TensorFlow's
    own loader gives them.
    """
    model = load(name)
    plain = tf.saved_model.load(str(saved_models.build(name, models_root)))

    def nodes(concrete: Any) -> dict[str, Any]:
        definition = function_definition(concrete.inference_fn.name)
        assert definition is not None
        found = {}
        for node in definition.node_def:
            # Functions and resources have names of their own in each load.
            attributes = {
                key: value.SerializeToString(deterministic=True)
                for key, value in node.attr.items()
                if key != "shared_name" and not value.HasField("func") and not value.list.func
            }
            found[node.name] = (node.op, list(node.input), node.device, attributes)
        return found

    ours = {path: node for path, node in walk(model._root) if is_function(node)}
    theirs = {path: node for path, node in walk(plain) if is_function(node)}
    assert ours.keys() == theirs.keys()
    compared = 0
    for path, node in ours.items():
        pairs = (
            zip(node.concrete_functions, theirs[path].concrete_functions, strict=True)
            if is_polymorphic(node)
            else [(node, theirs[path])]
        )
        for mine, other in pairs:
            assert nodes(mine) == nodes(other)
            compared += 1
    assert compared


def test_functions_go_with_the_model(load: Load) -> None:
    """Functions that nothing can reach are not registered, and the others go with the model."""
    load("counter")
    gc.collect()
    before = graph_functions()
    model = load("counter")
    # `add`, `get`, `total` and `fail`, and their signatures: not what saves and restores.
    reachable = {bytes(each.name) for each in restored(model)}
    assert before < graph_functions() <= before + 2 * len(reachable)
    del model
    gc.collect()
    assert graph_functions() == before


def test_callees_come_first() -> None:
    """Functions come after all that they call, each once, and none that nothing calls."""
    needed = {"a": ["b", "c"], "b": ["d"], "c": ["d", "b"], "d": [], "alone": ["d"]}
    assert list(in_order(["a", "c"], needed)) == ["d", "b", "c", "a"]


@pytest.mark.parametrize("needed", [{"a": ["a"]}, {"a": ["b"], "b": ["c"], "c": ["a"]}])
def test_a_function_that_calls_itself_is_refused(needed: dict[str, list[str]]) -> None:
    """TensorFlow has no recursion: a SavedModel with one is refused, and does not hang."""
    with pytest.raises(ValueError, match="calls itself"):
        list(in_order(["a"], needed))
