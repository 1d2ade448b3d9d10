"""Which variables of an object graph are one and the same: Keras 3 saves some of its own twice.

A Keras variable wraps a `tf.Variable`. Where an object graph reaches both, each is saved as a
variable with a value of its own, and the functions use one of them: a change of the other has no
effect. Wrapper and wrapped have the same name, type, shape and value, and only the wrapper hangs
from an object of Keras. Two variables that hang from the same kind of object are never one,
whatever else they share: a target network begins as an exact copy of another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from .object_graph import Nodes, children, has_given_name, own_name
from .values import host_array

Array: TypeAlias = np.ndarray[Any, Any]

# Bytes that are compared at once.
_PART = 16 << 20
# Attributes that objects of Keras 3 have, and no others.
_OF_KERAS = frozenset(
    {
        "_inbound_nodes",
        "_outbound_nodes",
        "_losses_override",
        "_call_has_context_arg",
        "_trainable_variables_indices",
        "_iterations",
    }
)
# Where an export of Keras 3 keeps the wrappers.
_WRAPPERS = "_all_variables"


def find_copies(
    nodes: Nodes, variables: Mapping[str, tf.Variable], captured: Collection[int]
) -> dict[str, str]:
    """The copies among variables by path: the path of each, and of the variable that it copies.

    `captured`: ids of the handles that functions use. None of those variables is a copy.
    """
    wrappers = _under_keras(nodes)
    alike: dict[tuple[object, ...], list[str]] = {}
    for path, variable in variables.items():
        if has_given_name(variable):
            key = (own_name(variable), variable.dtype, str(variable.shape), variable.trainable)
            alike.setdefault(key, []).append(path)
    copies: dict[str, str] = {}
    for paths in alike.values():
        # One kind of object alone has no copies: most variables are not even looked at.
        if len({id(variables[path]) in wrappers for path in paths}) < 2:
            continue
        for equal in _of_one_value(paths, variables):
            copies |= _paired(equal, variables, wrappers, captured)
    return copies


def _under_keras(nodes: Nodes) -> set[int]:
    """Ids of the variables that objects of Keras have, as attributes or in lists."""
    found: set[int] = set()
    for _, node in nodes:
        items = dict(children(node))
        holders = [items] if items.keys() & _OF_KERAS else []
        if _WRAPPERS in items:
            holders.append({_WRAPPERS: items[_WRAPPERS]})
        for holder in holders:
            for child in holder.values():
                found.update(id(each) for each in (child, *_listed(child)))
    return found


def _listed(node: object) -> list[object]:
    items = children(node)
    return [child for _, child in items] if all(name.isdigit() for name, _ in items) else []


def _of_one_value(paths: Sequence[str], variables: Mapping[str, tf.Variable]) -> list[list[str]]:
    groups: list[tuple[Array, list[str]]] = []
    for path in paths:
        variable = variables[path]
        if not variable.is_initialized():
            continue
        value = host_array(variable.read_value())
        for other, group in groups:
            if _same_bits(value, other):
                group.append(path)
                break
        else:
            groups.append((value, [path]))
    return [group for _, group in groups]


def _same_bits(left: Array, right: Array) -> bool:
    if left.shape != right.shape:
        return False
    if left.dtype.hasobject:
        return bool(np.array_equal(left, right))
    mine, theirs = (each.reshape(-1).view(np.uint8) for each in (left, right))
    parts = (slice(start, start + _PART) for start in range(0, mine.size, _PART))
    return all(np.array_equal(mine[part], theirs[part]) for part in parts)


def _paired(
    paths: Sequence[str],
    variables: Mapping[str, tf.Variable],
    wrappers: Collection[int],
    captured: Collection[int],
) -> dict[str, str]:
    """Each wrapper with one that is none: of such a pair, what functions use is the variable."""
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for path in paths:
        wrapper = id(variables[path]) in wrappers
        used = id(variables[path].handle) in captured
        kinds.setdefault((wrapper, used), []).append(path)
    copies: dict[str, str] = {}
    for kept, copied in (((False, True), (True, False)), ((True, True), (False, False))):
        originals, others = kinds.get(kept, []), kinds.get(copied, [])
        for _ in range(min(len(originals), len(others))):
            copies[others.pop(0)] = originals.pop(0)
    # Of a pair that no function uses, the one that the graph reaches by the shorter path.
    plain, wrapping = kinds.get((False, False), []), kinds.get((True, False), [])
    order = {path: place for place, path in enumerate(paths)}
    for pair in zip(plain, wrapping, strict=False):
        kept_path, copied_path = sorted(pair, key=order.__getitem__)
        copies[copied_path] = kept_path
    return copies
