"""Reference variables of TensorFlow 1, made resource variables in a graph before it is loaded.

TensorFlow has no object for a reference variable. A graph means the same with resource variables:
what took a reference takes a handle, and what took the value takes what a read gives. Every node
keeps its name and its results. Knows graphs alone.

    as it was               | as it is
    ------------------------+-----------------------------------------------------------------
    VariableV2              | VarHandleOp
    RefSwitch, RefEnter     | Switch, Enter, of handles
    Assign, ScatterAdd      | AssignVariableOp, ResourceScatterAdd, as `NAME/write`, and a read
                            | after it as `NAME`
    any other               | itself, after a read
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tensorflow.core.framework import node_def_pb2, types_pb2, variable_pb2

from .runtime import operation_definition

_VARIABLES = ("VariableV2", "Variable")
_PASSED_ON = {
    "RefIdentity": "Identity",
    "RefSwitch": "Switch",
    "RefMerge": "Merge",
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefNextIteration": "NextIteration",
}
_RESOURCE_NAMES = {
    "Assign": "AssignVariableOp",
    "AssignAdd": "AssignAddVariableOp",
    "AssignSub": "AssignSubVariableOp",
    "IsVariableInitialized": "VarIsInitializedOp",
}
_LISTED = ("variables", "local_variables")
"""The collections whose variables TensorFlow makes objects of."""
_REF = 100
"""How much larger the number of a type is where it is a reference (DT_FLOAT_REF)."""


def has_references(meta_graph: Any) -> bool:
    """Whether a MetaGraphDef in TensorFlow 1 format has reference variables."""
    if meta_graph.object_graph_def.nodes:
        return False
    return any(node.op in _VARIABLES for node in meta_graph.graph_def.node)


def without_references(meta_graph: Any) -> None:
    """Make the reference variables of a MetaGraphDef resource variables, in place.

    Those stay as they are that nothing gives a value, or that an operation takes for which
    TensorFlow has no counterpart.
    """
    conversion = _Conversion(meta_graph.graph_def)
    conversion.convert()
    for signature in meta_graph.signature_def.values():
        for output in signature.outputs.values():
            conversion.convert_output(output)
    conversion.convert_collections(meta_graph.collection_def)


class _Conversion:
    """What becomes of one graph. A tensor is named as nodes name their inputs: `NODE:OUTPUT`."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._nodes = {node.name: node for node in graph.node}
        self._names = set(self._nodes)
        self._referred: dict[str, frozenset[str]] = {}
        self._initializers: dict[str, str] = {}
        self._converted = self._convertible()

    # What can be converted.

    def _convertible(self) -> set[str]:
        """The variables that something gives a value, and all of whose uses have counterparts."""
        uses = []
        for node in self._graph.node:
            variables = frozenset[str]().union(*map(self._refers_to, _taken(node)))
            if not variables:
                continue
            uses.append((variables, _counterpart(node.op) is not None))
            if node.op == "Assign":
                for variable in self._refers_to(node.input[0]):
                    self._initializers.setdefault(variable, node.name)
        kept = set(self._initializers)
        before = -1
        while before != (before := len(kept)):
            for variables, possible in uses:
                if not possible or not variables <= kept:
                    kept -= variables
        return kept

    def _refers_to(self, tensor: str) -> frozenset[str]:
        """The variables to which a tensor is a reference; none: it is a value."""
        name, _, output = tensor.partition(":")
        node = self._nodes.get(name)
        if node is None:  # also `^NODE`
            return frozenset()
        if node.op in _VARIABLES:
            return frozenset({name})
        if tensor not in self._referred:
            self._referred[tensor] = frozenset()  # A loop comes back to here.
            definition = operation_definition(node.op)
            if definition is not None and _is_reference(definition.output_arg, int(output or 0)):
                found = map(self._refers_to, _taken(node))
                self._referred[tensor] = frozenset[str]().union(*found)
        return self._referred[tensor]

    # The conversion.

    def convert(self) -> None:
        """Convert the nodes."""
        nodes = [made for node in self._graph.node for made in self._made_of(node)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def convert_output(self, info: Any) -> None:
        """Let an output of a signature that is a reference be a value."""
        for part in (info, *info.composite_tensor.components):
            if self._refers_to(part.name.removesuffix(":0")) & self._converted:
                part.dtype %= _REF
                name = self._free(part.name.partition(":")[0] + "/output")
                handle, controls = self._handle(part.name.removesuffix(":0"))
                self._graph.node.append(_read(name, handle, part.dtype, controls))
                part.name = f"{name}:0"

    def convert_collections(self, collections: Any) -> None:
        """Let TensorFlow make objects of the variables."""
        listed: set[str] = set()
        for key, collection in collections.items():
            for number, data in enumerate(collection.bytes_list.value):
                definition = variable_pb2.VariableDef.FromString(data)
                name = definition.variable_name.removesuffix(":0")
                if name in self._converted:
                    if key in _LISTED:
                        listed.add(name)
                    definition.is_resource = True
                    definition.snapshot_name = f"{_reader_of(name)}:0"
                    collection.bytes_list.value[number] = definition.SerializeToString()
        for name in sorted(self._converted - listed):
            definition = variable_pb2.VariableDef(
                variable_name=f"{name}:0",
                initializer_name=self._initializers[name],
                snapshot_name=f"{_reader_of(name)}:0",
                is_resource=True,
            )
            values = collections["variables"].bytes_list.value
            values.append(definition.SerializeToString())

    def _made_of(self, node: Any) -> Iterator[Any]:
        """The nodes that take the place of one."""
        if node.name in self._converted:
            yield _handle_node(node)
            yield _read(_reader_of(node.name), node.name, node.attr["dtype"].type, ())
            return
        if not any(self._refers_to(name) & self._converted for name in node.input):
            yield node
            return
        new = node_def_pb2.NodeDef()
        new.CopyFrom(node)
        new.attr.pop("_output_shapes", None)
        data = [name for name in node.input if not name.startswith("^")]
        controls = [name for name in node.input if name.startswith("^")]
        references = _input_references(operation_definition(node.op), node)
        handles = []
        for at, name in enumerate(data):
            if not self._refers_to(name) & self._converted:
                continue
            handle, after = self._handle(name)
            if references[at] or node.op in _PASSED_ON:
                handles.append(handle)
                data[at] = handle
                controls += after
            else:
                reader = self._free(f"{node.name}/read")
                yield _read(reader, handle, self._dtype(name), [*controls, *after])
                data[at] = reader
        del new.input[:]
        new.input.extend([*data, *dict.fromkeys(controls)])
        if node.op in _PASSED_ON:
            new.op = _PASSED_ON[node.op]
            new.attr["T"].type = types_pb2.DT_RESOURCE
        elif handles:
            yield from self._written(new, handles[0], self._dtype(node.input[0]))
            return
        yield new

    def _written(self, node: Any, handle: str, dtype: int) -> Iterator[Any]:
        """A node that takes references, whose inputs are handles already."""
        op = _counterpart(node.op)
        assert op is not None
        old, new = operation_definition(node.op), operation_definition(op)
        assert old is not None
        assert new is not None
        name = node.name
        if len(new.output_arg) < len(old.output_arg):
            node.name = self._free(f"{name}/write")
            yield _read(name, handle, dtype, [f"^{node.name}"])
        known = {attribute.name for attribute in new.attr}
        for key in list(node.attr):
            if not key.startswith("_") and key not in known:
                del node.attr[key]
        if "dtype" in known:
            node.attr["dtype"].type = dtype
        node.op = op
        yield node

    def _handle(self, tensor: str) -> tuple[str, list[str]]:
        """The handle in place of a reference, and the nodes that must have run before."""
        node = self._nodes[tensor.partition(":")[0]]
        if node.op in _VARIABLES or node.op in _PASSED_ON:
            return tensor, []
        # The reference that a write passes on.
        handle, controls = self._handle(node.input[0])
        return handle, [*controls, f"^{node.name}"]

    def _dtype(self, tensor: str) -> int:
        """The type of what a reference is of."""
        node = self._nodes[tensor.partition(":")[0]]
        return int(node.attr["dtype" if node.op in _VARIABLES else "T"].type) % _REF

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._names:
            free, number = f"{name}_{number}", number + 1
        self._names.add(free)
        return free


def _reader_of(variable: str) -> str:
    # TensorFlow looks for a read of this name.
    return f"{variable}/Read/ReadVariableOp"


def _handle_node(node: Any) -> Any:
    handle = node_def_pb2.NodeDef(name=node.name, op="VarHandleOp", device=node.device)
    handle.input.extend(node.input)
    for key in ("dtype", "shape", "container", "shared_name", "_class"):
        if key in node.attr:
            handle.attr[key].CopyFrom(node.attr[key])
    if node.op == "Variable" and not node.attr["shape"].shape.dim:
        handle.attr["shape"].shape.unknown_rank = True  # as that operation says it
    return handle


def _read(name: str, handle: str, dtype: int, controls: Sequence[str]) -> Any:
    node = node_def_pb2.NodeDef(name=name, op="ReadVariableOp", input=[handle, *controls])
    node.attr["dtype"].type = dtype
    return node


def _counterpart(op: str) -> str | None:
    """The operation that does with handles, or values, what this one does with references."""
    definition = operation_definition(op)
    if definition is None:
        return None
    if op in _PASSED_ON:
        return _PASSED_ON[op]
    if not any(argument.is_ref for argument in definition.input_arg):
        return op
    name = _RESOURCE_NAMES.get(op, f"Resource{op}")
    return None if operation_definition(name) is None else name


def _is_reference(arguments: Sequence[Any], index: int) -> bool:
    """Whether an output is a reference. None of the operations with such outputs has lists."""
    return index < len(arguments) and bool(arguments[index].is_ref)


def _taken(node: Any) -> list[str]:
    """The inputs that a node takes as references, and not as values."""
    definition = operation_definition(node.op)
    if definition is None:
        return []
    taken = zip(node.input, _input_references(definition, node), strict=False)
    return [name for name, is_reference in taken if is_reference]


def _input_references(definition: Any, node: Any) -> list[bool]:
    """Of each input of a node, whether it takes a reference."""
    taken: list[bool] = []
    for argument in definition.input_arg:
        count = 1
        if argument.number_attr:
            count = int(node.attr[argument.number_attr].i)
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        taken += [bool(argument.is_ref)] * count
    return taken
