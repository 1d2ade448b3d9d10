"""Names and paths of variables and functions in the kinds of SavedModel that people have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from varserve_service.core.ports.loaded_model import (
    FunctionKind,
    LoadedModel,
    Omission,
    OmissionKind,
)

from .looking import names

Load = Callable[[str], LoadedModel]


def test_nested_modules(load: Load) -> None:
    """Variables in modules, lists and dicts have an attribute path, and their own name if any."""
    assert names(load("nested")) == {
        "layers/0/kernel": "layers/0/kernel",
        "layers/0/bias": "layers/0/bias",
        "layers/1/kernel": "layers/1/kernel",
        "layers/1/bias": "layers/1/bias",
        "loose/0": "loose/0",
        "loose/1": "second",
        "parts/head/kernel": "parts/head/kernel",
        "parts/head/bias": "parts/head/bias",
        "parts/scale": "the_scale",
    }


def test_twins(load: Load) -> None:
    """A name that is shared, another variable's path, or TensorFlow's default is not used."""
    assert names(load("twins")) == {
        "left": "left",
        "right": "right",
        "stolen": "stolen",
        "first": "first",
        "second": "second",
        "own": "scope/given",
    }


def test_keras_3_export(load: Load) -> None:
    """An export of Keras 3 shows each variable once, under the name that its layer gave it."""
    found = names(load("keras_3"))
    # The number that Keras gives the model depends on how many this process made before.
    assert {path: name.split("/", 1)[1] for path, name in found.items()} == {
        "variables/0": "first/kernel",
        "variables/1": "first/bias",
        "variables/2": "norm/gamma",
        "variables/3": "norm/beta",
        "variables/4": "norm/moving_mean",
        "variables/5": "norm/moving_variance",
        "variables/6": "second/kernel",
        "variables/7": "second/bias",
    }


@pytest.mark.slow
def test_keras_2_with_optimizer(load: Load) -> None:
    """A Keras 2 model shows its layers' variables and the optimizer's slots, all paths distinct."""
    pytest.importorskip("tf_keras")
    model = load("keras_2")
    found = names(model)
    assert found["layer_with_weights-0/kernel"] == "first/kernel"
    assert found["optimizer/iter"].endswith("/iter")
    assert {path for path in found if path.startswith("optimizer/first")} == {
        "optimizer/first/kernel/m",
        "optimizer/first/kernel/v",
        "optimizer/first/bias/m",
        "optimizer/first/bias/v",
    }
    assert len(found) == len(model.variables)


@pytest.mark.parametrize("name", ["tf1", "tf1_no_default", "tf1_no_signature", "tf1_table"])
def test_tf1_format(load: Load, name: str) -> None:
    """In TensorFlow 1 format a variable's path is its name."""
    assert names(load(name)) == {"scope/w": "scope/w", "step": "step"}


def test_names_and_paths_never_collide(load: Load) -> None:
    """No variable's name is another's path, in any model."""
    for name in ("nested", "twins", "keras_3", "embedding", "tf1"):
        found = names(load(name))
        assert len(set(found.values())) == len(found)
        assert not [n for path, n in found.items() if n != path and n in found]


def test_order_and_names_are_the_same_each_time(load: Load) -> None:
    """Two loads of one model give the same specs in the same order."""
    for name in ("nested", "polymorphic", "embedding"):
        first, second = load(name), load(name)
        assert [v.spec for v in first.variables] == [v.spec for v in second.variables]
        assert [f.spec for f in first.functions] == [f.spec for f in second.functions]


def test_signatures_and_functions(load: Load) -> None:
    """Signatures come by key; a function with the name of a key is reached as ./PATH."""
    specs = [(f.spec.name, f.spec.path, f.spec.kind) for f in load("counter").functions]
    assert specs == [
        ("add", "signatures/add", FunctionKind.SIGNATURE),
        ("get", "signatures/get", FunctionKind.SIGNATURE),
        ("serving_default", "signatures/serving_default", FunctionKind.SIGNATURE),
        ("./add", "add", FunctionKind.FUNCTION),
        ("fail", "fail", FunctionKind.FUNCTION),
        ("./get", "get", FunctionKind.FUNCTION),
        ("total", "total", FunctionKind.FUNCTION),
    ]


def test_life_cycle_of_tables_is_no_function(load: Load) -> None:
    """How a table makes and destroys itself is not offered to callers."""
    assert [f.spec.name for f in load("hash_table").functions] == ["look", "put"]
    assert [f.spec.name for f in load("tf1_no_signature").functions] == []


def test_unservable_types_are_left_out(load: Load) -> None:
    """A variable of a type that the contract does not carry is left out, with the reason."""
    model = load("unservable")
    assert list(names(model)) == ["fine"]
    reason = "it is of type quint8, which varserve does not carry"
    assert list(model.omissions) == [Omission(OmissionKind.VARIABLE, "small", reason)]
