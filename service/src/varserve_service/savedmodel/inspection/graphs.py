"""A function definition as a graph, with the shapes that its tensors have where it is called.

TensorFlow saves functions without shapes: they are worked out anew from those of the arguments, and
of the variables behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph, importer
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.ops import handle_data_util

from varserve_service.core.arrays.shapes import PartialShape


@dataclass(frozen=True, slots=True)
class Argument:
    """What is known of an argument: its shape; `variable`: dtype and shape of what it handles."""

    shape: PartialShape = None
    variable: tuple[str, PartialShape] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A graph with its inputs, its outputs, and the operations that have to run besides."""

    inputs: Sequence[Any]
    outputs: Sequence[Any]
    control_outputs: Sequence[Any]


def graph_of(definition: Any, arguments: Sequence[Argument]) -> Graph:
    """The graph of a FunctionDef that is called with such arguments."""
    try:
        return _with_shapes(definition, arguments)
    except (ValueError, tf.errors.OpError):
        # What a shape that is not to be had rules out runs nevertheless.
        graph = function_def_to_graph.function_def_to_graph(definition)
        return Graph(graph.inputs, graph.outputs, graph.control_outputs)


def _with_shapes(definition: Any, arguments: Sequence[Argument]) -> Graph:
    shapes = [_proto(argument.shape) for argument in arguments]
    found, flat_names = function_def_to_graph.function_def_to_graph_def(definition, shapes)
    names = [argument.name for argument in definition.signature.input_arg]
    nodes = [node for node in found.node if node.name not in names]
    for node in nodes:
        node.attr.pop("_class", None)  # Names of operations that may be elsewhere.
    found.ClearField("node")
    found.node.extend(nodes)
    used = {name if ":" in name else f"{name}:0" for node in nodes for name in node.input}
    controls = {name for node in nodes for name in node.input if name.startswith("^")}
    graph = FuncGraph(definition.signature.name)
    with graph.as_default():
        inputs = [
            _placeholder(spec, argument)
            for spec, argument in zip(definition.signature.input_arg, arguments, strict=True)
        ]
        feeds: dict[str, Any] = {}
        for name, tensor in zip(names, inputs, strict=True):
            # TensorFlow fails on what nothing in the graph uses.
            feeds |= {key: tensor for key in (f"{name}:0",) if key in used}
            feeds |= {key: tensor for key in (f"^{name}",) if key in controls}
        importer.import_graph_def(found, input_map=feeds, name="")
        by_name = dict(zip(names, inputs, strict=True))
        outputs = []
        for output in definition.signature.output_arg:
            flat = flat_names[definition.ret[output.name]]
            source = flat.partition(":")[0]
            is_input = source in by_name
            outputs.append(by_name[source] if is_input else graph.get_tensor_by_name(flat))
        control_outputs = [
            graph.get_operation_by_name(definition.control_ret[name])
            for name in definition.signature.control_output
        ]
    return Graph(inputs, outputs, control_outputs)


def _placeholder(spec: Any, argument: Argument) -> Any:
    dtype = tf.as_dtype(spec.type)
    shape = tf.TensorShape(argument.shape)
    tensor = tf.compat.v1.placeholder(dtype, shape, name=spec.name)
    if argument.variable is not None:
        kind, sizes = argument.variable
        data = handle_data_util.create_handle_data(tf.TensorShape(sizes), tf.as_dtype(kind))
        handle_data_util.set_handle_data(tensor, data)
    return tensor


def _proto(shape: PartialShape) -> Any:
    return tf.TensorShape(shape).as_proto()
