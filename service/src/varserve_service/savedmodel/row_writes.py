"""Which rows of variables a function will write, found before it writes them.

A version of the function computes the indices that its scattering operations take, and nothing
else. That is possible where they follow from inputs and from state that the function does not
change: then what a run replaces need not be a copy of the whole variable. Knows graphs; knows
nothing of what rows are needed for.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from .effects import PLAIN_CALLS, Effects, RowWrite, is_compiled
from .operations import Kind, kind_of
from .runtime import (
    call_by_name,
    function_definition,
    is_stateful,
    register_function,
    unregister_functions,
)

_CALLS = PLAIN_CALLS | {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
_RESOURCE = 20  # DT_RESOURCE
_numbers = itertools.count()


class RowWrites:
    """The rows of variables that a call of one concrete function will write."""

    def __init__(self, version: _Version, of: Sequence[tuple[str, bool]], names: list[str]) -> None:
        self._name = version.name
        self._arguments = version.arguments
        self._of = of
        self.paths = tuple(sorted({path for path, _ in of}))
        """Paths of the variables whose rows are known."""
        weakref.finalize(self, unregister_functions, names)

    @classmethod
    def of(cls, function: str, effects: Effects, paths: Mapping[int, str]) -> RowWrites | None:
        """Of a registered function, whose variables `paths` are by index of the argument.

        None where it writes no rows, or where one cannot know them before it runs.
        """
        wholes = {paths[index] for index in effects.writes_whole if index in paths}
        wanted = [
            (path, write)
            for index, path in sorted(paths.items(), key=lambda item: item[1])
            if path not in wholes
            for write in effects.row_writes.get(index, ())
        ]
        definition = function_definition(function)
        if not wanted or definition is None:
            return None
        arguments = definition.signature.input_arg
        written = {arguments[index].name for index in effects.writes}
        registered: list[str] = []
        try:
            version = _version(function, [write for _, write in wanted], written, registered)
        except _Unknown:
            unregister_functions(registered)
            return None
        return cls(version, [(path, write.nested) for path, write in wanted], registered)

    def find(self, arguments: Sequence[tf.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """Indices of the rows, int64, ascending, each once; some may be outside the variable.

        `arguments` are all of the function's, captures as well. Raises tf.errors.OpError.
        """
        taken = [arguments[index] for index in self._arguments]
        found: dict[str, list[np.ndarray[Any, Any]]] = {path: [] for path in self.paths}
        tensors = call_by_name(self._name, taken, len(self._of))
        for (path, nested), tensor in zip(self._of, tensors, strict=True):
            indices = np.asarray(tensor)
            found[path].append((indices[..., :1] if nested else indices).reshape(-1))
        return {
            path: np.unique(np.concatenate(indices)).astype(np.int64, copy=False)
            for path, indices in found.items()
        }


class _Unknown(Exception):
    """The indices follow from what the function itself does."""


@dataclass(frozen=True, slots=True)
class _Version:
    """A registered function that takes some of another's arguments, by their places there."""

    name: str
    arguments: Sequence[int]


def _version(
    original: str, writes: Sequence[RowWrite], written: Collection[str], registered: list[str]
) -> _Version:
    """What computes the indices of these writes, in their order. Raises _Unknown.

    `written`: names of the arguments that the whole function writes. What is registered is added to
    `registered`.
    """
    definition = function_definition(original)
    if definition is None:
        raise _Unknown
    graph = _Graph(definition, written)
    sources: dict[int, str] = {}
    below: dict[str, list[int]] = {}
    for place, write in enumerate(writes):
        if write.calls:
            below.setdefault(write.calls[0], []).append(place)
        else:
            sources[place] = write.indices
    added = []
    for call, places in below.items():
        node = graph.nodes[call]
        inner = [
            RowWrite(writes[i].calls[1:], writes[i].indices, writes[i].dtype, writes[i].nested)
            for i in places
        ]
        callee = node.attr["f"].func.name
        version = _version(callee, inner, graph.written_below(node, callee), registered)
        added.append(_call(node, version, [write.dtype for write in inner]))
        sources |= {p: f"{added[-1].name}:output:{n}" for n, p in enumerate(places)}
    names = {node.name for node in added}
    for source in [each for node in added for each in node.input] + list(sources.values()):
        if source.partition(":")[0] not in names:
            graph.need(source)
    made = function_pb2.FunctionDef()
    made.signature.name = f"{original}_varserve_rows_{next(_numbers)}"
    arguments = [i for i, each in enumerate(graph.arguments) if each in graph.needed_arguments]
    made.signature.input_arg.extend(definition.signature.input_arg[i] for i in arguments)
    made.signature.is_stateful = True
    made.node_def.extend([*graph.needed.values(), *added])
    for place, write in enumerate(writes):
        output = made.signature.output_arg.add()
        output.name, output.type = f"indices_{place}", write.dtype
        made.ret[output.name] = sources[place]
    register_function(made)
    registered.append(made.signature.name)
    return _Version(made.signature.name, arguments)


def _call(node: Any, version: _Version, dtypes: Sequence[int]) -> Any:
    """A call of the version in place of the call of its original."""
    data = [each for each in node.input if not each.startswith("^")]
    types = node.attr["Tin"].list.type
    called = node_def_pb2.NodeDef()
    called.CopyFrom(node)
    called.name, called.op = f"{node.name}/varserve_rows", "StatefulPartitionedCall"
    del called.input[:]
    called.input.extend(data[i] for i in version.arguments)
    del called.attr["Tin"].list.type[:]
    called.attr["Tin"].list.type.extend(types[i] for i in version.arguments)
    called.attr["Tin"].list.SetInParent()
    del called.attr["Tout"].list.type[:]
    called.attr["Tout"].list.type.extend(dtypes)
    called.attr["f"].func.name = version.name
    called.attr.pop("_class", None)
    called.attr.pop("_output_shapes", None)
    return called


class _Graph:
    """What of a function is needed for some of its tensors."""

    def __init__(self, definition: Any, written: Collection[str]) -> None:
        self.nodes = {node.name: node for node in definition.node_def}
        self.arguments = [each.name for each in definition.signature.input_arg]
        self._types = {each.name: each.type for each in definition.signature.input_arg}
        self._written = written
        self.needed: dict[str, Any] = {}
        self.needed_arguments: set[str] = set()

    def need(self, source: str) -> None:
        """Add an argument, or the node with this output, and all that it is computed from.

        Raises _Unknown for what does more than compute, or reads what the function writes.
        """
        waiting = [source]
        while waiting:
            name = waiting.pop().partition(":")[0]
            if name in self._types:
                self.needed_arguments.add(name)
                continue
            if name in self.needed:
                continue
            node = self.nodes[name]
            data = [each for each in node.input if not each.startswith("^")]
            if not _computes(node) or any(self._is_written(each) for each in data):
                raise _Unknown
            kept = node_def_pb2.NodeDef()
            kept.CopyFrom(node)
            del kept.input[:]
            kept.input.extend(data)
            kept.attr.pop("_class", None)
            self.needed[name] = kept
            waiting += data

    def _is_written(self, source: str) -> bool:
        return source.partition(":")[0] in self._written

    def written_below(self, call: Any, callee: str) -> set[str]:
        """The arguments of what is called that the function writes, by their names there."""
        definition = function_definition(callee)
        if definition is None:
            raise _Unknown
        data = [each for each in call.input if not each.startswith("^")]
        return {
            argument.name
            for argument, source in zip(definition.signature.input_arg, data, strict=True)
            if argument.type == _RESOURCE and self._may_be_written(source)
        }

    def _may_be_written(self, source: str) -> bool:
        name = source.partition(":")[0]
        return name not in self._types or name in self._written


def _computes(node: Any, above: Collection[str] = ()) -> bool:
    """Whether an operation gives the same as often as it is asked, and changes nothing."""
    if node.op in _CALLS:
        if is_compiled(node):
            return False
        names = [value.func.name for value in node.attr.values() if value.HasField("func")]
        names += [each.name for value in node.attr.values() for each in value.list.func]
        return all(_function_computes(name, above) for name in names)
    kind = kind_of(node.op)
    return kind is Kind.READS or (kind is None and not is_stateful(node.op))


def _function_computes(name: str, above: Collection[str]) -> bool:
    definition = function_definition(name)
    if definition is None or name in above:
        return False
    return all(_computes(node, (*above, name)) for node in definition.node_def)
