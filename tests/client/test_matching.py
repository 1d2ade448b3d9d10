"""Which served variable each weight of a trainer is, by name and shape."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import varserve
from varserve._client.values.matching import match

WEIGHTS = {"hidden/kernel": (4, 8), "hidden/bias": (8,), "sum/bias": (1,)}


def served(*names: str) -> dict[str, SimpleNamespace]:
    shapes = list(WEIGHTS.values())
    return {name: SimpleNamespace(shape=shape) for name, shape in zip(names, shapes, strict=True)}


@pytest.mark.parametrize("prefix", ["", "adder/", "sequential_3/"])
@pytest.mark.parametrize("own", ["", "adder/", "sequential/"])
def test_the_name_of_the_model_may_differ_or_be_missing(prefix: str, own: str) -> None:
    """A model that Keras builds, loads from a file or counts anew has other first parts of names,
    or none; each weight still is the served variable of its layer."""
    variables = served(*(prefix + name for name in WEIGHTS))
    weights = {own + name: shape for name, shape in WEIGHTS.items()}
    assert match(weights, variables) == {own + name: prefix + name for name in WEIGHTS}


def test_what_two_could_be_is_none() -> None:
    """A name that two served variables differ from in their first part alone is asked for."""
    variables = served("a/hidden/kernel", "a/hidden/bias", "a/sum/bias")
    variables |= served("b/hidden/kernel", "b/hidden/bias", "b/sum/bias")
    with pytest.raises(varserve.InvalidRequest, match="hidden/kernel is not served, did you mean"):
        match(WEIGHTS, variables)
