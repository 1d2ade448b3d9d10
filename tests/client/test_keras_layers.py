"""Which variable a weight of a layer is: by names, numbers and shapes, and never by a guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from varserve import VariableSpec
from varserve._client.stored.keras_layers import Layer, keys_by_layer, keys_by_name, named_by_config


def variables(**shapes: Sequence[int | None]) -> dict[str, VariableSpec]:
    """By names with `__` for a slash, each with the path `variables/N` in this order."""
    found = {}
    for number, (key, shape) in enumerate(shapes.items()):
        name = key.replace("__", "/")
        path = f"variables/{number}"
        found[name] = VariableSpec(
            name, path, np.dtype("f4"), tuple(shape), True, "CPU:0", True, 0, 0
        )
    return found


def layer(place: str, *shapes: Sequence[int], names: Sequence[str]) -> Layer:
    """At a place whose last steps are those of its names."""
    steps = place.split("/")
    first = len(steps) - len(names)
    places = tuple("/".join(steps[: first + number + 1]) for number in range(len(names)))
    keys = tuple(f"{place}/{number}" for number in range(len(shapes)))
    return Layer(places, tuple(names), keys, tuple(map(tuple, shapes)))


def test_weights_are_in_the_order_of_the_variables_numbers() -> None:
    """Also where shapes are equal, or a dimension is of any size."""
    served = variables(d__b=[2, 2], d__a=[2, 2], e__kernel=[None, 3])
    found = keys_by_layer(
        [layer("l/d", [2, 2], [2, 2], names=["d"]), layer("l/e", [7, 3], names=["e"])], served
    )
    assert found == {"d/b": "l/d/0", "d/a": "l/d/1", "e/kernel": "l/e/0"}


def test_without_numbers_the_order_is_kerass_own_or_that_of_the_shapes() -> None:
    """A kernel comes before a bias; names that Keras does not have are told by their shapes."""
    served = {
        name: spec._replace(path=name)
        for name, spec in variables(
            a__bias=[4], a__kernel=[4], b__x=[3], b__y=[4], c__x=[3], c__y=[3]
        ).items()
    }
    layers = [layer(f"l/{name}", [4], [4], names=[name]) for name in "a"]
    layers.append(layer("l/b", [4], [3], names=["b"]))
    layers.append(layer("l/c", [3], [3], names=["c"]))
    assert keys_by_layer(layers, served) == {
        "a/kernel": "l/a/0",
        "a/bias": "l/a/1",
        "b/y": "l/b/0",
        "b/x": "l/b/1",
    }


def test_a_layer_that_does_not_fit_is_left_out() -> None:
    """With another number of weights, or other shapes."""
    served = variables(d__kernel=[2, 3], d__bias=[3])
    for shapes in ([[2, 3]], [[2, 3], [4]], [[3, 2], [3]], [[2, 3], [3], [3]]):
        assert keys_by_layer([layer("l/d", *shapes, names=["d"])], served) == {}


def test_names_may_begin_differently() -> None:
    """The model's own name is not in the file; of two that fit, neither is taken."""
    served = variables(net__in__d__w=[1], net__out__d__w=[1], e__w=[1])
    both = [layer("l/in/d", [1], names=["in", "d"]), layer("l/e", [1], names=["net", "e"])]
    assert keys_by_layer(both, served) == {"net/in/d/w": "l/in/d/0", "e/w": "l/e/0"}
    assert keys_by_layer([layer("l/d", [1], names=["d"])], served) == {}
    twice = [layer(f"l/{place}", [1], names=["e"]) for place in "ab"]
    assert keys_by_layer(twice, served) == {}
    assert keys_by_name(["other/in/d/w", "w"], served) == {"net/in/d/w": "other/in/d/w"}


def test_layers_without_names_are_told_by_shapes_that_no_other_has() -> None:
    """And by where they are in the model, where that is told; names that are known hold."""
    served = variables(a__w=[1], b__w=[2], c__w=[2], a__in__w=[5], b__in__w=[5])
    assert keys_by_layer([layer("l/x", [1], names=[""])], served) == {"a/w": "l/x/0"}
    assert keys_by_layer([layer("l/x", [2], names=[""])], served) == {}
    within = layer("l/x/y", [5], names=["b", ""])
    assert keys_by_layer([within], served) == {"b/in/w": "l/x/y/0"}
    placed = {name: spec._replace(path=f"layers/{name}") for name, spec in served.items()}
    assert keys_by_layer([layer("l/a/in", [5], names=["", ""])], placed) == {"a/in/w": "l/a/in/0"}


def test_a_configuration_names_layers_in_the_order_of_their_classes() -> None:
    """`dense`, `dense_1`, in models in models too; a name that the file says stays."""
    inner = {"class_name": "Custom>Sequential", "config": {"name": "in", "layers": [_dense("d")]}}
    config = {"config": {"layers": [_dense("a"), inner, _dense("b")]}}
    places = ["layers/dense", "layers/dense_1", "layers/sequential/layers/dense", "layers/other"]
    layers = [Layer((place,), ("",), (), ()) for place in places]
    assert [each.names for each in named_by_config(layers, config)] == [
        ("a",),
        ("b",),
        ("d",),
        ("",),
    ]
    told = Layer(("layers/dense",), ("own",), (), ())
    assert [each.names for each in named_by_config([told], config)] == [("own",)]
    for nothing in ({}, {"config": []}, {"config": {"layers": {}}}, []):
        assert [each.names for each in named_by_config(layers[:1], nothing)] == [("",)]


def _dense(name: str) -> Any:
    return {"class_name": "Dense", "config": {"name": name}}
