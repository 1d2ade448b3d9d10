"""The functions of a SavedModel by name: which of them its objects reach, and in which order.

Reads messages alone. What is missing or there twice is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import custom_gradient
from tensorflow.python.saved_model import function_deserialization as deserialization


class FunctionLibrary:
    """The FunctionDefs of a MetaGraphDef. Raises ValueError.

    `needed`: the functions that each one calls, or that its gradients do. `gradient_types`: new
    names for the custom gradients of this load, by the names in the SavedModel, and `gradients`
    the same by the functions that compute them.
    """

    def __init__(self, meta_graph: Any) -> None:
        library = meta_graph.graph_def.library
        self.definitions = _by_name(library.function)
        self.gradient_types: dict[bytes, str] = {}
        functions_of_gradients: dict[bytes, str] = {}
        for each in library.registered_gradients:
            if each.registered_op_type:
                old = each.registered_op_type.encode()
                self.gradient_types[old] = custom_gradient.generate_name()
                functions_of_gradients[old] = each.gradient_func
        self.gradients = {
            name: self.gradient_types[old] for old, name in functions_of_gradients.items()
        }
        self.needed: dict[str, Sequence[str]] = {
            name: sorted(
                deserialization._list_function_deps(each, self.definitions, functions_of_gradients)
            )
            for name, each in self.definitions.items()
        }
        self.reached: Sequence[str] = list(
            in_order(_roots(meta_graph.object_graph_def), self.needed)
        )
        self._check_operations()

    def _check_operations(self) -> None:
        used = {node.op for name in self.reached for node in self.definitions[name].node_def}
        unknown = sorted(op for op in used - set(self.definitions) if not op_def_registry.get(op))
        if unknown:
            raise ValueError(
                f"it has operations that TensorFlow does not know: {', '.join(unknown)}; if a "
                "library has them, name it in the setting `loading`, as one of the model's "
                "op_libraries"
            )


def _by_name(definitions: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in definitions:
        name = each.signature.name
        if name in found:
            raise ValueError(f"its library has two functions named {name!r}")
        found[name] = each
    return found


def _roots(objects: Any) -> list[str]:
    """Functions that objects refer to: by what is callable, or by a tensor in one."""
    found = set(objects.concrete_functions)
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind == "captured_tensor":
            found.add(node.captured_tensor.concrete_function)
        elif kind == "function":
            found.update(node.function.concrete_functions)
        elif kind == "bare_concrete_function":
            found.add(node.bare_concrete_function.concrete_function_name)
    return sorted(found)


def in_order(roots: Sequence[str], needed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """All that the roots need and the roots, each after what it needs. Raises ValueError."""
    done: set[str] = set()
    entered: set[str] = set()
    for root in roots:
        if root not in needed:
            raise ValueError(f"its objects have the function {root!r}, which its library lacks")
    stack = [(name, iter(needed[name])) for name in reversed(roots)]
    while stack:
        name, rest = stack[-1]
        if name in done:
            stack.pop()
            continue
        entered.add(name)
        for each in rest:
            if each in entered - done:
                raise ValueError(f"function {each!r} calls itself")
            if each not in needed:
                raise ValueError(f"function {name!r} calls {each!r}, which its library lacks")
            if each not in done:
                stack.append((each, iter(needed[each])))
                break
        else:
            stack.pop()
            done.add(name)
            yield name
