"""The loaded object graph: which variables and functions hang where, and how they are called."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

Nodes: TypeAlias = Sequence[tuple[str, Any]]
"""Path and object of each node of an object graph."""

# Lists that Keras keeps beside the layers; a variable's way through its layer says more.
_COLLECTIONS = frozenset(
    {
        "variables",
        "trainable_variables",
        "non_trainable_variables",
        "weights",
        "trainable_weights",
        "non_trainable_weights",
        "keras_api",
    }
)
_DETOUR = 1000
LIFE_CYCLE = frozenset({"_create_resource", "_initialize", "_destroy_resource"})
"""Names under which tables and assets have what makes and destroys them; not for callers."""


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Every trackable object once, with its path: the shortest, first in the saved order.

    Paths through collections and private attributes count as long, so that `dense/kernel` goes
    before `variables/0`.
    """
    order = 0
    heap: list[tuple[int, int, str, Any]] = [(0, order, "", root)]
    seen: set[int] = set()
    while heap:
        cost, _, path, node = heapq.heappop(heap)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        for name, child in children(node):
            if id(child) in seen:
                continue
            order += 1
            detour = name in _COLLECTIONS or name.startswith("_")
            step = 1 + (_DETOUR if detour else 0)
            heapq.heappush(heap, (cost + step, order, _join(path, name), child))


def is_function(node: Any) -> bool:
    """Whether the node is a restored tf.function or a bare concrete function."""
    return is_polymorphic(node) or hasattr(node, "structured_input_signature")


def is_polymorphic(node: Any) -> bool:
    """Whether the node is a restored tf.function, with overloads."""
    return hasattr(node, "concrete_functions") and hasattr(node, "get_concrete_function")


def children(node: Any) -> list[tuple[str, Any]]:
    """Name and object of each child, as far as it is for callers."""
    if isinstance(node, tf.Variable) or is_function(node):
        return []
    if not hasattr(node, "_trackable_children"):
        return []
    found = dict(node._trackable_children(save_type="savedmodel"))
    if isinstance(node, tf.saved_model.experimental.TrackableResource) or (
        found.keys() >= LIFE_CYCLE
    ):
        found = {name: child for name, child in found.items() if name not in LIFE_CYCLE}
    return [*found.items(), *_slots(node)]


def _slots(node: Any) -> Iterator[tuple[str, Any]]:
    """Slot variables of a Keras 2 optimizer, which are no children of anything."""
    slots = getattr(node, "_slots", None)
    if not isinstance(slots, Mapping) or not hasattr(node, "get_slot_names"):
        return
    for of_variable in slots.values():
        for slot_name, variable in of_variable.items():
            yield own_name(variable) or slot_name, variable


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def own_name(variable: tf.Variable) -> str:
    """The name that TensorFlow has for the variable, without `:0`."""
    return str(variable.name).removesuffix(":0")


_DEFAULT_NAME = re.compile(r"(.*/)?Variable(_\d+)?$")


def has_given_name(variable: tf.Variable) -> bool:
    """Whether its name was given to it: TensorFlow calls all others `Variable`."""
    name = own_name(variable)
    return bool(name) and _DEFAULT_NAME.fullmatch(name) is None


def names_of(variables: Mapping[str, tf.Variable]) -> dict[str, str]:
    """The name of each variable, by path: its own where given and unique, else the path."""
    own = {path: own_name(variable) for path, variable in variables.items()}
    count = Counter(own.values())
    names = {}
    for path, name in own.items():
        free = count[name] == 1 and (name == path or name not in variables)
        names[path] = name if free and has_given_name(variables[path]) else path
    return names
