"""TensorFlow's import of a graph, without what Python makes of it: whether a function is sound.

TensorFlow's own loader imports each function so, and refuses what this refuses. But here operations
become no Python objects, and the import does not hold the interpreter, since TensorFlow's C
interface is called by ctypes.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.python.framework import op_def_registry, versions

INPUT_SHAPES = "_input_shapes"
OUTPUT_SHAPES = "_output_shapes"
_RESOURCE = tf.resource.as_datatype_enum
# Bytes of a constant from which on it is not copied: shapes and sizes are of fewer.
_LARGE = 16 * 1024
# Nodes are imported under a prefix of their function.
_PREFIX = re.compile(r"varserve\.\d+/")
# What TensorFlow resolves to more than a name where it can.
_NODE = re.compile(r"\{\{node ([^}]*)\}\}")


class _Unsound(Exception):
    """What TensorFlow does not take of a function, for people."""


class GraphImport:
    """Functions are imported into it one after the other, each after those that it calls.

    A context: what it made of them is gone at its end.
    """

    def __init__(self) -> None:
        self._c = _c_interface()
        self._graph = self._c.TF_NewGraph()
        # As in Python's graphs: the operations of a library need not know of shapes.
        self._c.TF_SetRequireShapeInferenceFns(self._graph, 0)
        self._status = self._c.TF_NewStatus()
        self._count = 0
        self._outputs_of: dict[str, list[tuple[str, str, str]]] = {}
        self._new: list[Any] = []

    def __enter__(self) -> GraphImport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._c.TF_DeleteGraph(self._graph)
        self._c.TF_DeleteStatus(self._status)

    def check(self, name: str, definition: Any) -> None:
        """Import the nodes of a FunctionDef, which messages call `name`. Raises ValueError."""
        try:
            self._import(self._as_graph(definition))
        except _Unsound as problem:
            raise ValueError(
                f"function {name!r} is damaged, or of a TensorFlow that {tf.__version__} does not "
                f"read: {problem}; save the model again"
            ) from None

    def _import(self, graph: Any) -> None:
        for each in self._new:
            _copy_function(each, graph.library.function.add())
        self._new.clear()
        data = graph.SerializeToString()
        self._count += 1
        buffer = self._c.TF_NewBufferFromString(data, len(data))
        options = self._c.TF_NewImportGraphDefOptions()
        try:
            self._c.TF_ImportGraphDefOptionsSetPrefix(options, b"varserve.%d" % self._count)
            self._c.TF_ImportGraphDefOptionsSetValidateColocationConstraints(options, 0)
            self._c.TF_GraphImportGraphDef(self._graph, buffer, options, self._status)
        finally:
            self._c.TF_DeleteImportGraphDefOptions(options)
            self._c.TF_DeleteBuffer(buffer)
        if self._c.TF_GetCode(self._status):
            message = self._c.TF_Message(self._status).decode(errors="replace")
            raise _Unsound(_NODE.sub(r"node '\1'", _PREFIX.sub("", message)))

    def add(self, definition: Any) -> None:
        """Let the functions that come after call this FunctionDef."""
        self._outputs_of[definition.signature.name] = _output_arguments(definition.signature)
        self._new.append(definition)

    def _as_graph(self, definition: Any) -> Any:
        """The nodes, a placeholder for each input, and an identity of its type for each output."""
        graph = graph_pb2.GraphDef()
        graph.versions.producer = versions.GRAPH_DEF_VERSION
        graph.versions.min_consumer = versions.GRAPH_DEF_VERSION_MIN_CONSUMER
        signature = definition.signature
        shapes = _saved_shapes(definition)
        if shapes and len(shapes) < len(signature.input_arg):
            raise _Unsound(f"it has {len(signature.input_arg)} inputs, and {len(shapes)} shapes")
        tensors: dict[str, str] = {}
        for argument, shape in zip(signature.input_arg, input_shapes(definition), strict=True):
            node = graph.node.add(name=argument.name, op="Placeholder")
            node.attr["dtype"].type = argument.type
            if shape is not None:
                node.attr["shape"].shape.CopyFrom(shape)
            tensors[argument.name] = argument.name
        _copy_nodes(definition.node_def, graph.node)
        for node in definition.node_def:
            tensors.update(self._outputs(node))
        names = {node.name for node in graph.node}
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name.startswith("^"):
                    if name[1:] not in names:
                        raise _Unsound(f"its node {node.name!r} waits for {name[1:]!r}, {_NONE}")
                elif name in tensors:
                    node.input[place] = tensors[name]
                else:
                    raise _Unsound(f"its node {node.name!r} takes {name!r}, {_NONE}")
        prefix = "returned"
        while prefix in names:
            prefix += "_"
        for place, argument in enumerate(signature.output_arg):
            name = definition.ret.get(argument.name, "")
            if name not in tensors:
                raise _Unsound(f"its output {argument.name!r} is {name!r}, {_NONE}")
            node = graph.node.add(name=f"{prefix}/{place}", op="Identity", input=[tensors[name]])
            node.attr["T"].type = argument.type
        for name in signature.control_output:
            if definition.control_ret.get(name) not in names:
                raise _Unsound(f"its control output {name!r} is {_NONE}")
        return graph

    def _outputs(self, node: Any) -> Iterator[tuple[str, str]]:
        """Outputs of a node as a function names them, and as a graph does."""
        arguments = self._outputs_of.get(node.op)
        if arguments is None:
            arguments = _output_arguments(op_def_registry.get(node.op))
            self._outputs_of[node.op] = arguments
        index = 0
        for argument, counted_by, listed_by in arguments:
            count = 1
            if counted_by:
                count = node.attr[counted_by].i
            elif listed_by:
                count = len(node.attr[listed_by].list.type)
            for place in range(count):
                yield f"{node.name}:{argument}:{place}", f"{node.name}:{index}"
                index += 1


_NONE = "which is not there"


def check_constants(graph_def: Any) -> None:
    """Raise ValueError if a constant's value is of another type than the constant.

    TensorFlow does not look, until it folds the constant and ends the process.
    """
    for where, nodes in (
        ("its graph", graph_def.node),
        *((f"function {f.signature.name!r}", f.node_def) for f in graph_def.library.function),
    ):
        for node in nodes:
            if node.op != "Const":
                continue
            declared, found = node.attr["dtype"].type, node.attr["value"].tensor.dtype
            if declared != found:
                raise ValueError(
                    f"{where} is damaged: its constant {node.name!r} is declared as "
                    f"{_type_name(declared)}, and its value is of {_type_name(found)}"
                )


def _type_name(number: int) -> str:
    return (
        str(types_pb2.DataType.Name(number))
        if number in types_pb2.DataType.values()
        else str(number)
    )


def input_shapes(definition: Any) -> Iterator[Any]:
    """What is known of the shape of each input of a FunctionDef, as a message; None: nothing."""
    shapes = _saved_shapes(definition)
    for index, argument in enumerate(definition.signature.input_arg):
        shape = None
        if index < len(shapes) and not (argument.type == _RESOURCE and argument.handle_data):
            shape = shapes[index]
        if index in definition.arg_attr:
            found = definition.arg_attr[index].attr
            if OUTPUT_SHAPES in found:
                value = found[OUTPUT_SHAPES]
                shape = value.list.shape[0] if value.WhichOneof("value") == "list" else value.shape
        yield shape


def _copy_nodes(nodes: Iterable[Any], copies: Any) -> None:
    """Append nodes, with zeros for the elements of large constants: these tell nothing here."""
    for node in nodes:
        if node.op != "Const" or len(node.attr["value"].tensor.tensor_content) < _LARGE:
            copies.append(node)
            continue
        copy = copies.add(name=node.name, op=node.op, input=node.input, device=node.device)
        for key, value in node.attr.items():
            if key != "value":
                copy.attr[key].CopyFrom(value)
        copy.attr["value"].tensor.dtype = node.attr["value"].tensor.dtype
        copy.attr["value"].tensor.tensor_shape.CopyFrom(node.attr["value"].tensor.tensor_shape)


def _copy_function(definition: Any, copy: Any) -> None:
    for field, value in definition.ListFields():
        if field.name == "node_def":
            _copy_nodes(value, copy.node_def)
        elif field.name == "signature":
            copy.signature.CopyFrom(value)
        else:
            getattr(copy, field.name).MergeFrom(value)


def _saved_shapes(definition: Any) -> Sequence[Any]:
    return definition.attr[INPUT_SHAPES].list.shape if INPUT_SHAPES in definition.attr else ()


def _output_arguments(found: Any) -> list[tuple[str, str, str]]:
    """Name of each output of an OpDef, and the attribute that says how many it is, if any does."""
    return [(each.name, each.number_attr, each.type_list_attr) for each in found.output_arg]


@cache
def _c_interface() -> ctypes.CDLL:
    """The calls of `tensorflow/c/c_api.h` that are used here, which give the interpreter away."""
    (path,) = Path(tf.sysconfig.get_lib()).glob("libtensorflow_cc.so*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("TF_NewGraph", pointer, ()),
        ("TF_DeleteGraph", None, (pointer,)),
        ("TF_SetRequireShapeInferenceFns", None, (pointer, ctypes.c_bool)),
        ("TF_NewStatus", pointer, ()),
        ("TF_DeleteStatus", None, (pointer,)),
        ("TF_GetCode", number, (pointer,)),
        ("TF_Message", text, (pointer,)),
        ("TF_NewBufferFromString", pointer, (text, ctypes.c_size_t)),
        ("TF_DeleteBuffer", None, (pointer,)),
        ("TF_NewImportGraphDefOptions", pointer, ()),
        ("TF_DeleteImportGraphDefOptions", None, (pointer,)),
        ("TF_ImportGraphDefOptionsSetPrefix", None, (pointer, text)),
        (
            "TF_ImportGraphDefOptionsSetValidateColocationConstraints",
            None,
            (pointer, ctypes.c_ubyte),
        ),
        ("TF_GraphImportGraphDef", None, (pointer, pointer, pointer, pointer)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
