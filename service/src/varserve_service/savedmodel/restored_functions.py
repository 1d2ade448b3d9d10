"""Functions of a SavedModel as TensorFlow's runtime takes them: by definition, without a graph.

TensorFlow's own loader makes a graph in Python of each function, and of that a definition. This
holds the interpreter for tens of milliseconds at a time, and no call needs it. Here a definition is
registered as it was saved, and its graph is made when something asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.function.capture import restore_captures
from tensorflow.core.function.polymorphism import function_type as function_types
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import (
    atomic_function,
    attributes,
    concrete_function,
)
from tensorflow.python.framework import function_def_to_graph, op_def_registry, ops
from tensorflow.python.ops import handle_data_util
from tensorflow.python.saved_model import function_deserialization as deserialization
from tensorflow.python.saved_model import nested_structure_coder

from .function_library import FunctionLibrary
from .graph_import import INPUT_SHAPES, OUTPUT_SHAPES, GraphImport, input_shapes

# Whoever makes a graph may make those of the functions that it calls.
_making = threading.RLock()


class RestoredFunction(concrete_function.ConcreteFunction):  # type: ignore[misc]
    """A concrete function over a registered definition.

    `argument_specs` are dtype and shape of each input, captures included.
    """

    def __init__(
        self,
        definition: Any,
        registered: Any,
        children: Sequence[RestoredFunction],
        signature: Any,
        outputs: Any,
        connect: Callable[[Any], None],
    ) -> None:
        """`registered` is what TensorFlow is given of the definition. `signature` and `outputs` are
        the structures that were saved with it; `connect` is given the graph when it is made.
        """
        # What the base class takes from the graph is set here: its own constructor is not called.
        self._arg_keywords = self._num_positional_args = self._garbage_collector = None
        self._captured_inputs: list[Any] = []
        self._first_order_tape_functions: dict[Any, Any] = {}
        self._higher_order_tape_functions: dict[Any, Any] = {}
        self._function_type = function_types.from_structured_signature(signature, outputs)
        self._gradients: Any = None
        self._variables: Sequence[Any] = ()
        self._children = children
        self._signature, self._outputs = signature, outputs
        self._connect = connect
        self.argument_specs = tuple(_argument_specs(definition))
        self._types_of_variables = [
            tf.as_dtype(each.handle_data[0].dtype) if each.handle_data else None
            for each in definition.signature.input_arg
        ]
        self._result_specs = _result_specs(definition, outputs)
        # Of this the graph is made: it has what was known of shapes, which no call needs. And no
        # part of the SavedModel's message is kept, which would keep all of it.
        self._saved = definition.SerializeToString()
        self._attrs = attributes.parse_func_attrs(
            {
                name: type(value).FromString(value.SerializeToString())
                for name, value in registered.attr.items()
                if name != attributes.EAGER_RUNTIME_CONSTRUCTION_CONTEXT
            }
        )
        runtime = context.context()
        runtime.add_function_def(registered)
        self._inference_function = _Definition(
            registered.signature.name,
            runtime,
            self._function_type,
            [each.inference_fn for each in children],
            atomic_function.CallOptions(is_stateful=_is_stateful(registered)),
            make_graph=self._make_graph,
        )

    def bind(self, nodes: Sequence[Any]) -> None:
        """Set what it captured: objects of the SavedModel, or tensors. Raises ValueError."""
        captured = [restore_captures.get_tensor_from_node(node) for node in nodes]
        first = len(self.argument_specs) - len(captured)
        if first < 0:
            raise ValueError(
                f"it captures {len(captured)} objects, and has {len(self.argument_specs)} inputs"
            )
        types = self._types_of_variables[first:]
        for place, (node, tensor, dtype) in enumerate(zip(nodes, captured, types, strict=True)):
            found, expected = tensor.dtype, self.argument_specs[first + place].dtype
            if found == expected == tf.resource and dtype and isinstance(node, tf.Variable):
                found, expected = node.dtype, dtype
            if found != expected:
                raise ValueError(
                    f"it captures object {place} as {expected.name}, and this is of {found.name}"
                )
        self._captured_inputs = captured
        self._variables = [node for node in nodes if isinstance(node, tf.Variable)]

    @property
    def result_specs(self) -> Sequence[Any]:
        """Dtype and shape of each output."""
        return self.outputs if self._result_specs is None else self._result_specs

    @property
    def name(self) -> Any:
        return self._inference_function.name

    @property
    def function_def(self) -> Any:
        return self._inference_function.cached_definition

    @property
    def variables(self) -> Sequence[Any]:
        return tuple(self._variables)

    @property
    def structured_input_signature(self) -> Any:
        return self._signature

    @property
    def structured_outputs(self) -> Any:
        return self._outputs

    @property
    def graph(self) -> Any:
        return self._func_graph if self._inference_function.has_graph else _Outline(self)

    @property
    def _func_graph(self) -> Any:
        return self._inference_function.graph

    @property
    def _delayed_rewrite_functions(self) -> Any:
        if self._gradients is None:
            self._gradients = concrete_function._DelayedRewriteGradientFunctions(
                self._inference_function, None
            )
        return self._gradients

    def add_to_graph(self, g: Any = None, overwrite: bool = False) -> None:
        graph = g
        if graph is None and not context.executing_eagerly():
            graph = ops.get_default_graph()
        if graph is not None:
            graph._add_function_recursive(self._inference_function)

    def _make_graph(self) -> Any:
        definition = function_pb2.FunctionDef.FromString(self._saved)
        with ops.init_scope(), ops.Graph().as_default() as outer:
            for child in self._children:
                child.add_to_graph(outer)
            graph = function_def_to_graph.function_def_to_graph(
                definition,
                structured_input_signature=self._signature,
                structured_outputs=self._outputs,
            )
        self._connect(graph)
        for child in self._children:
            child.add_to_graph(graph)
        graph.variables = self._variables
        captured = self._captured_inputs
        taken = graph.inputs[len(graph.inputs) - len(captured) :]
        for tensor, inner in zip(captured, taken, strict=True):
            graph.replace_capture(tensor, inner)
            if inner.dtype == tf.resource:
                handle_data_util.copy_handle_data(tensor, inner)
            graph.capture(tensor)
        return graph


class _Definition(atomic_function.AtomicFunction):  # type: ignore[misc]
    """A function of the runtime whose graph is made when it is first asked for."""

    __slots__ = ("_made", "_make_graph")

    def __init__(self, *args: Any, make_graph: Callable[[], Any]) -> None:
        super().__init__(*args)
        self._make_graph = make_graph
        self._made: Any = None

    @property
    def has_graph(self) -> bool:
        """Whether it was made."""
        return self._made is not None

    @property
    def graph(self) -> Any:
        with _making:
            if self._made is None:
                self._made = self._make_graph()
            return self._made


class _Outline:
    """What is known of a graph that is not made; whatever else is asked of it makes it."""

    def __init__(self, function: RestoredFunction) -> None:
        self._function = function
        self.structured_input_signature = function.structured_input_signature
        self.structured_outputs = function.structured_outputs
        self.variables = function.variables

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function._func_graph, name)


def restore_functions(meta_graph: Any) -> dict[str, RestoredFunction]:
    """The functions of a MetaGraphDef that its objects can reach, by their names in it.

    Changes the MetaGraphDef. They are registered under names that no other function has. Raises
    ValueError for what TensorFlow would make no graph of.
    """
    library, objects = FunctionLibrary(meta_graph), meta_graph.object_graph_def
    suffix = f"_load_{ops.uid()}"
    functions: dict[str, RestoredFunction] = {}
    by_new_name: dict[bytes, RestoredFunction] = {}
    gradients: dict[bytes, RestoredFunction] = {}

    def connect(graph: Any) -> None:
        deserialization._restore_gradient_functions(graph, by_new_name, gradients)

    with GraphImport() as trial:
        for name in library.reached:
            definition = library.definitions[name]
            deserialization._fix_fdef_in_place(
                definition, functions, suffix, library.gradient_types
            )
            trial.check(name, definition)
            registered = _completed(definition)
            trial.add(registered)
            signature = outputs = None
            if name in objects.concrete_functions:
                saved = objects.concrete_functions[name]
                signature = nested_structure_coder.decode_proto(saved.canonicalized_input_signature)
                outputs = nested_structure_coder.decode_proto(saved.output_signature)
            children = [functions[each] for each in library.needed[name]]
            function = RestoredFunction(
                definition, registered, children, signature, outputs, connect
            )
            functions[name] = by_new_name[function.name] = function
            if name in library.gradients:
                gradient_type = library.gradients[name]
                gradients[gradient_type.encode()] = function
                register = ops.RegisterGradient(gradient_type)
                register(deserialization._gen_gradient_func(function))
    return functions


def _argument_specs(definition: Any) -> Iterator[tf.TensorSpec]:
    shapes = input_shapes(definition)
    for argument, shape in zip(definition.signature.input_arg, shapes, strict=True):
        yield tf.TensorSpec(tf.TensorShape(shape), tf.as_dtype(argument.type), argument.name)


def _result_specs(definition: Any, outputs: Any) -> tuple[tf.TensorSpec, ...] | None:
    """Those that were saved with the function; None where they are not all its outputs."""
    leaves = tf.nest.flatten(outputs, expand_composites=True)
    found = tuple(leaf for leaf in leaves if isinstance(leaf, tf.TensorSpec))
    kinds = [tf.as_dtype(each.type) for each in definition.signature.output_arg]
    return found if [each.dtype for each in found] == kinds else None


def _completed(definition: Any) -> Any:
    """A definition as TensorFlow's own loader registers it."""
    definition = function_pb2.FunctionDef.FromString(definition.SerializeToString())
    definition.signature.name = concrete_function._inference_name(definition.signature.name)
    definition.attr.pop(INPUT_SHAPES, None)
    for node in definition.node_def:
        node.attr.pop(OUTPUT_SHAPES, None)
        for name, value in _defaults(node.op):
            if name not in node.attr:
                node.attr[name].CopyFrom(value)
    return definition


@cache
def _defaults(op: str) -> list[tuple[str, Any]]:
    """Attributes that an operation has where a node says nothing of them."""
    known = op_def_registry.get(op)
    attrs = known.attr if known is not None else ()
    return [(attr.name, attr.default_value) for attr in attrs if attr.HasField("default_value")]


def _is_stateful(definition: Any) -> bool:
    """Whether a call of it in a graph has to be a stateful one."""
    known = {node.op: op_def_registry.get(node.op) for node in definition.node_def}
    return any(each is None or each.is_stateful for each in known.values())
