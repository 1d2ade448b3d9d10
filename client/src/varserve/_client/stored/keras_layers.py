"""Which variable each weight in a file of Keras is.

Keras stores the weights of a layer by number, below where the layer is in the model
(`layers/dense_1/vars/0`), and since 3.7 what each layer is called. Variables are called after the
layers around them (`hidden/kernel`), and a layer makes its weights in one order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from varserve._client.values.specs import VariableSpec

from .stored_tensors import Keys, Variables

Shape = tuple[int, ...]
T = TypeVar("T")

_ORDER = (
    "embeddings",
    "kernel",
    "depthwise_kernel",
    "pointwise_kernel",
    "recurrent_kernel",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "mean",
    "variance",
    "count",
)
"""The order in which Keras' own layers make their weights."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights of its own. Names and places are those of the layers around it too."""

    places: tuple[str, ...]
    names: tuple[str, ...]
    """As in the model; empty where the file does not say."""
    keys: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @property
    def place(self) -> str:
        """Where it is in the file."""
        return self.places[-1] if self.places else ""


def named_by_config(layers: Iterable[Layer], config: Any) -> Iterator[Layer]:
    """The same layers with the names that the configuration of the model has for them.

    Files of Keras 2, and of Keras 3 before 3.7, say no names beside the weights.
    """
    known = dict(_named(config, ""))
    for layer in layers:
        pairs = zip(layer.places, layer.names, strict=True)
        yield replace(layer, names=tuple(name or known.get(place, "") for place, name in pairs))


def _named(config: Any, place: str) -> Iterator[tuple[str, str]]:
    """Places of the layers that a configuration lists, each with its name."""
    inner = config.get("config") if isinstance(config, Mapping) else None
    listed = inner.get("layers") if isinstance(inner, Mapping) else None
    counts: Counter[str] = Counter()
    for each in listed if isinstance(listed, list) else ():
        kind = _snake(str(each.get("class_name", "")).rpartition(">")[2])
        number = counts[kind]
        counts[kind] += 1
        here = f"{place}layers/{kind}_{number}" if number else f"{place}layers/{kind}"
        yield here, str(each.get("config", {}).get("name", ""))
        yield from _named(each, f"{here}/")


def _snake(name: str) -> str:
    """As Keras makes the key of a layer from the name of its class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def keys_by_layer(layers: Sequence[Layer], variables: Variables) -> Keys:
    """Keys of weights by variables' names: by the names of layers, else by shapes that are unique.

    A layer of which that leaves any doubt is left out.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in variables:
        groups[name.rpartition("/")[0]].append(name)
    named = [layer for layer in layers if layer.names and all(layer.names)]
    found = _claimed(named, groups, lambda layer: layer.names)
    unnamed = [layer for layer in layers if layer not in named]
    free = {group: names for group, names in groups.items() if group not in found}
    found |= _by_shape(unnamed, free, variables)
    keys: dict[str, str] = {}
    for group, layer in found.items():
        keys.update(_in_order(layer, {name: variables[name] for name in groups[group]}))
    return keys


def keys_by_name(names: Iterable[str], variables: Variables) -> Keys:
    """Keys by variables' names, where both are names that may begin differently."""
    return _claimed(list(names), variables, lambda name: tuple(name.split("/")), least=2)


def _claimed(
    given: Sequence[T],
    known: Collection[str],
    names_of: Callable[[T], tuple[str, ...]],
    least: int = 1,
) -> dict[str, T]:
    """Which of `known` each thing is by its names: all of them, else the last of them.

    least: as many names must agree. What several could be is left out.
    """
    paths = ["/".join(names_of(each)) for each in given]
    once = {path for path, count in Counter(paths).items() if count == 1}
    found = {
        path: each
        for path, each in zip(paths, given, strict=True)
        if path in known and path in once
    }
    done = {id(each) for each in found.values()}
    loose: dict[str, list[T]] = defaultdict(list)
    free = [path for path in known if path not in found]
    for each in given:
        path = None if id(each) in done else _ending(names_of(each), free, least)
        if path is not None:
            loose[path].append(each)
    return found | {path: claims[0] for path, claims in loose.items() if len(claims) == 1}


def _ending(names: tuple[str, ...], known: Sequence[str], least: int) -> str | None:
    """The only path that ends with these names, or with the most of the last of them."""
    for first in range(len(names) - least + 1):
        tail = "/".join(names[first:])
        paths = [path for path in known if path == tail or path.endswith(f"/{tail}")]
        if paths:
            return paths[0] if len(paths) == 1 else None
    return None


def _by_shape(
    layers: Sequence[Layer], groups: Mapping[str, Sequence[str]], variables: Variables
) -> dict[str, Layer]:
    """The layer of each group of variables that no other layer fits, and that fits no other."""
    fits: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        fitting = [
            group
            for group, names in groups.items()
            if _agrees(layer, group) and _in_order(layer, {n: variables[n] for n in names})
        ]
        if len(fitting) > 1:
            # Where both are in the model may tell: a SavedModel has the attributes as the file.
            tail = "/".join(_unnamed_places(layer))
            fitting = [g for g in fitting if tail and _is_at(tail, groups[g], variables)]
        for group in fitting:
            fits[group].append(layer)
    once = Counter(layer.place for claims in fits.values() for layer in claims)
    return {
        group: claims[0]
        for group, claims in fits.items()
        if len(claims) == 1 and once[claims[0].place] == 1
    }


def _agrees(layer: Layer, group: str) -> bool:
    """Whether a group may be of a layer by the names that are known."""
    steps = iter(group.split("/"))
    return all(name in steps for name in layer.names if name)


def _unnamed_places(layer: Layer) -> list[str]:
    """The last steps of a layer's place, of which the file says no name."""
    steps = []
    for place, name in zip(reversed(layer.places), reversed(layer.names), strict=True):
        if name:
            break
        steps.append(place.rpartition("/")[2])
    return steps[::-1]


def _is_at(tail: str, names: Sequence[str], variables: Variables) -> bool:
    return all(variables[name].path.rpartition("/")[0].endswith(f"/{tail}") for name in names)


def _in_order(layer: Layer, group: Mapping[str, VariableSpec]) -> dict[str, str]:
    """Keys of the weights of a layer by the names of its variables; nothing where that is unclear.

    By the number that each has in the list of all variables, else by the order in which Keras makes
    weights of their names, else by their shapes.
    """
    if len(group) != len(layer.keys):
        return {}
    for order in (_by_number(group), _by_leaf(group), _by_own_shape(layer, group)):
        if order is not None and all(
            _fits(shape, group[name].shape) for name, shape in zip(order, layer.shapes, strict=True)
        ):
            return dict(zip(order, layer.keys, strict=True))
    return {}


def _by_number(group: Mapping[str, VariableSpec]) -> list[str] | None:
    paths = {name: spec.path.rpartition("/") for name, spec in group.items()}
    if not all(path[2].isdecimal() for path in paths.values()):
        return None
    if len({path[0] for path in paths.values()}) != 1:
        return None
    return sorted(group, key=lambda name: int(paths[name][2]))


def _by_leaf(group: Mapping[str, VariableSpec]) -> list[str] | None:
    leaves = {name: name.rpartition("/")[2] for name in group}
    if not all(leaf in _ORDER for leaf in leaves.values()):
        return None
    return sorted(group, key=lambda name: _ORDER.index(leaves[name]))


def _by_own_shape(layer: Layer, group: Mapping[str, VariableSpec]) -> list[str] | None:
    order = []
    for shape in layer.shapes:
        fitting = [name for name, spec in group.items() if _fits(shape, spec.shape)]
        if len(fitting) != 1:
            return None
        order += fitting
    return order if len(set(order)) == len(order) else None


def _fits(shape: Shape, served: Sequence[int | None] | None) -> bool:
    return served is None or (
        len(shape) == len(served)
        and all(size in (None, mine) for mine, size in zip(shape, served, strict=True))
    )
