"""Other versions of a function: without its prints, with prints for one caller, with more outputs.

A version is registered beside the original under a name of its own, with a version of each function
that it calls where that differs, and is forgotten with the object that holds it.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tensorflow.core.framework import function_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import function_def_to_graph, tensor_util

from varserve_service.savedmodel.runtime import (
    CancellationManager,
    call_by_name,
    function_definition,
    register_function,
    unregister_functions,
)

PRINTS = frozenset({"PrintV2", "Print"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_numbers = itertools.count()

Rewrite = Callable[[Any], Sequence[Any]]
"""Gives the nodes to put in the place of one."""


class Version:
    """A registered version of a function, to be called as long as this object lives."""

    def __init__(self, name: str, registered: Sequence[str], outputs: int) -> None:
        self._name = name
        self._outputs = outputs
        weakref.finalize(self, unregister_functions, tuple(registered))

    def call(
        self, inputs: list[Any], cancellation: CancellationManager | None = None
    ) -> Sequence[Any]:
        """Call it flat."""
        return call_by_name(self._name, inputs, self._outputs, cancellation)


def prints(name: str, known: dict[str, bool]) -> bool:
    """Whether a function, or one that it enters, prints. XLA prints nothing.

    `known` takes what is found out of each function, so that nobody looks at it again.
    """
    if name not in known:
        known[name] = False  # Until it is known: a function may lead back to itself.
        definition = function_definition(name)
        known[name] = definition is not None and any(
            node.op in PRINTS or any(prints(callee, known) for callee in _callees(node))
            for node in definition.node_def
        )
    return known[name]


def without_prints(name: str, outputs: int) -> Version:
    """The function without its prints; the text of them is not put together either."""
    return _with_prints(name, outputs, lambda node: [_nothing(node)])


def with_prints_to(token: str, name: str, outputs: int) -> tuple[Version, list[Mapping[str, str]]]:
    """The function with prints that call a registered Python function with a number and the text.

    The list tells, by number, which operation prints, to which stream and with which end.
    """
    printers: list[Mapping[str, str]] = []

    def rewrite(node: Any) -> Sequence[Any]:
        number = len(printers)
        end = node.attr["end"].s.decode() if "end" in node.attr else "\n"
        stream = node.attr["output_stream"].s.decode() or "stderr"
        printers.append({"op": node.name, "stream": stream, "end": end})
        return _printer(node, token, number)

    return _with_prints(name, outputs, rewrite), printers


def _with_prints(name: str, outputs: int, rewrite: Rewrite) -> Version:
    versions: dict[str, str] = {}
    known: dict[str, bool] = {}

    def version_of(original: str) -> str:
        if original in versions or not prints(original, known):
            return versions.get(original, original)
        versions[original] = version = _new_name(original)
        definition = _copy(original, version)
        nodes: list[Any] = []
        for node in definition.node_def:
            _redirect(node, version_of)
            nodes += rewrite(node) if node.op in PRINTS else [node]
        del definition.node_def[:]
        definition.node_def.extend(nodes)
        register_function(definition)
        return version

    version = version_of(name)
    return Version(version, list(versions.values()), outputs)


def _nothing(node: Any) -> Any:
    """A node of the same name that does nothing but keep the order of what is around it."""
    kept = node_def_pb2.NodeDef(name=node.name, op="NoOp")
    if node.op == "Print":  # Its first input is its output.
        kept.op = "Identity"
        kept.attr["T"].CopyFrom(node.attr["T"])
        kept.input.append(node.input[0])
    kept.input.extend(each for each in node.input if each.startswith("^"))
    return kept


def _printer(node: Any, token: str, number: int) -> Sequence[Any]:
    if node.op == "Print":
        return [_nothing(node)]
    constant = node_def_pb2.NodeDef(name=f"{node.name}/varserve_number", op="Const")
    constant.attr["dtype"].type = types_pb2.DT_INT32
    value = tensor_util.make_tensor_proto(number, types_pb2.DT_INT32)
    constant.attr["value"].tensor.CopyFrom(value)
    printer = node_def_pb2.NodeDef(name=node.name, op="PyFunc")
    text = [each for each in node.input if not each.startswith("^")]
    controls = [each for each in node.input if each.startswith("^")]
    printer.input.extend([f"{constant.name}:output:0", *text, *controls])
    printer.attr["token"].s = token.encode()
    printer.attr["Tin"].list.type.extend([types_pb2.DT_INT32, types_pb2.DT_STRING])
    printer.attr["Tout"].list.SetInParent()
    return [constant, printer]


class Place(NamedTuple):
    """An output of an operation: the calls that lead to it, which one it is, and its dtype.

    `dtype` is a number of TensorFlow's DataType.
    """

    calls: tuple[str, ...]
    operation: str
    output: int
    dtype: int


def with_outputs(name: str, outputs: int, places: Sequence[Place]) -> Version:
    """The function with further outputs: what operations in it and in what it calls compute.

    Raises ValueError for a place that is not there.
    """
    registered: list[str] = []
    version = _version_with(name, list(places), registered)
    return Version(version, registered, outputs + len(places))


def _version_with(original: str, places: Sequence[Place], registered: list[str]) -> str:
    version = _new_name(original)
    definition = _copy(original, version)
    nodes = {node.name: node for node in definition.node_def}
    arguments = {argument.name: argument for argument in definition.signature.input_arg}
    # All that is wanted from one call takes one version of what it calls.
    below: dict[str, list[tuple[int, Place]]] = {}
    sources: dict[int, tuple[str, int]] = {}
    flat = _nested_names(definition)
    for index, place in enumerate(places):
        if place.calls:
            inside = place._replace(calls=place.calls[1:])
            below.setdefault(place.calls[0], []).append((index, inside))
        elif place.operation in arguments:
            sources[index] = (place.operation, place.dtype)
        else:
            key = f"{place.operation}:{place.output}"
            if key not in flat:
                raise ValueError(f"function {original} has no {key}")
            sources[index] = (flat[key], place.dtype)
    for call, wanted in below.items():
        node = nodes.get(call)
        if node is None or node.op not in _CALLS:
            raise ValueError(f"function {original} has no call {call}")
        inner = _version_with(node.attr["f"].func.name, [place for _, place in wanted], registered)
        first = len(node.attr["Tout"].list.type)
        added = _definition(inner).signature.output_arg[first:]
        node.attr["f"].func.name = inner
        node.attr["Tout"].list.type.extend(each.type for each in added)
        for number, ((index, _), each) in enumerate(zip(wanted, added, strict=True)):
            sources[index] = (f"{call}:output:{first + number}", each.type)
    for index in range(len(places)):
        source, dtype = sources[index]
        added = definition.signature.output_arg.add()
        added.name, added.type = f"varserve_{index}", dtype
        definition.ret[added.name] = source
    register_function(definition)
    registered.append(version)
    return version


def _nested_names(definition: Any) -> dict[str, str]:
    """`operation:output:0` of a FunctionDef by `operation:0`."""
    _, nested_to_flat = function_def_to_graph.function_def_to_graph_def(definition)
    return {flat: nested for nested, flat in nested_to_flat.items()}


def _copy(original: str, version: str) -> Any:
    definition = function_pb2.FunctionDef()
    definition.CopyFrom(_definition(original))
    definition.signature.name = version
    return definition


def _definition(name: str) -> Any:
    definition = function_definition(name)
    if definition is None:
        raise ValueError(f"TensorFlow knows no function {name}")
    return definition


def _redirect(node: Any, version_of: Callable[[str], str]) -> None:
    if _is_xla(node):
        return
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            attribute.func.name = version_of(attribute.func.name)
        for function in attribute.list.func:
            function.name = version_of(function.name)


def _callees(node: Any) -> Iterable[str]:
    if _is_xla(node):
        return
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _is_xla(node: Any) -> bool:
    return "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b


def _new_name(original: str) -> str:
    return f"{original}_varserve_{next(_numbers)}"
