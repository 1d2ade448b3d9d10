"""Functions of a SavedModel as TensorFlow's runtime takes them: by definition, without a graph.

TensorFlow's own loader makes a graph in Python of each function, and of that a definition. This
holds the interpreter for tens of milliseconds at a time, and no call needs it. Here a definition is
registered as it was saved, and its graph is made when something asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tensorflow.python.ops import custom_gradient, handle_data_util
from tensorflow.python.saved_model import function_deserialization as deserialization
from tensorflow.python.saved_model import nested_structure_coder

_INPUT_SHAPES = "_input_shapes"
_OUTPUT_SHAPES = "_output_shapes"

# Whoever makes a graph may make those of the functions that it calls.
_making = threading.RLock()


class RestoredFunction(concrete_function.ConcreteFunction):  # type: ignore[misc]
    """A concrete function over a registered definition.

    `argument_specs` are dtype and shape of each input, captures included.
    """

    def __init__(
        self,
        definition: Any,
        children: Sequence[RestoredFunction],
        signature: Any,
        outputs: Any,
        connect: Callable[[Any], None],
    ) -> None:
        """`definition` is registered under another name. `signature` and `outputs` are the
        structures that were saved with it; `connect` is given the graph when it is made.
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
        self._result_specs = _result_specs(definition, outputs)
        # Of this the graph is made: it has what was known of shapes, which no call needs. And no
        # part of the SavedModel's message is kept, which would keep all of it.
        self._saved = definition.SerializeToString()
        registered = _completed(function_pb2.FunctionDef.FromString(self._saved))
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
        """Set what it captured: objects of the SavedModel, or tensors."""
        self._captured_inputs = [restore_captures.get_tensor_from_node(node) for node in nodes]
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
    ValueError for operations that TensorFlow does not know, which a graph would be refused for.
    """
    library, objects = meta_graph.graph_def.library, meta_graph.object_graph_def
    definitions = {each.signature.name: each for each in library.function}
    new_types, functions_of_gradients = {}, {}
    for each in library.registered_gradients:
        if each.registered_op_type:
            old = each.registered_op_type.encode()
            new_types[old] = custom_gradient.generate_name()
            functions_of_gradients[old] = each.gradient_func
    types_of_functions = {name: new_types[old] for old, name in functions_of_gradients.items()}
    needed = {
        name: sorted(deserialization._list_function_deps(each, definitions, functions_of_gradients))
        for name, each in definitions.items()
    }
    suffix = f"_load_{ops.uid()}"
    functions: dict[str, RestoredFunction] = {}
    by_new_name: dict[bytes, RestoredFunction] = {}
    gradients: dict[bytes, RestoredFunction] = {}

    def connect(graph: Any) -> None:
        deserialization._restore_gradient_functions(graph, by_new_name, gradients)

    reached = list(_in_order(_roots(objects), needed))
    _check_operations([definitions[name] for name in reached], definitions)
    for name in reached:
        definition = definitions[name]
        deserialization._fix_fdef_in_place(definition, functions, suffix, new_types)
        signature = outputs = None
        if name in objects.concrete_functions:
            saved = objects.concrete_functions[name]
            signature = nested_structure_coder.decode_proto(saved.canonicalized_input_signature)
            outputs = nested_structure_coder.decode_proto(saved.output_signature)
        children = [functions[each] for each in needed[name]]
        function = RestoredFunction(definition, children, signature, outputs, connect)
        functions[name] = by_new_name[function.name] = function
        if name in types_of_functions:
            gradients[types_of_functions[name].encode()] = function
            register = ops.RegisterGradient(types_of_functions[name])
            register(deserialization._gen_gradient_func(function))
    return functions


def _roots(objects: Any) -> list[str]:
    """Functions that objects refer to: by what is callable, or by a tensor in one."""
    captured = (
        node.captured_tensor.concrete_function
        for node in objects.nodes
        if node.WhichOneof("kind") == "captured_tensor"
    )
    return sorted({*objects.concrete_functions, *captured})


def _in_order(roots: Sequence[str], needed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """All that the roots need and the roots, each after what it needs. Raises ValueError."""
    done: set[str] = set()
    entered: set[str] = set()
    stack = [(name, iter(needed[name])) for name in reversed(roots)]
    while stack:
        name, rest = stack[-1]
        if name in done:
            stack.pop()
            continue
        entered.add(name)
        for each in rest:
            if each in entered - done:
                raise ValueError(f"function {each} calls itself")
            if each not in done:
                stack.append((each, iter(needed[each])))
                break
        else:
            stack.pop()
            done.add(name)
            yield name


def _check_operations(reached: Sequence[Any], definitions: Mapping[str, Any]) -> None:
    used = {node.op for definition in reached for node in definition.node_def} - set(definitions)
    unknown = sorted(op for op in used if op_def_registry.get(op) is None)
    if unknown:
        raise ValueError(
            f"it has operations that TensorFlow does not know: {', '.join(unknown)}; if a library "
            "has them, name it in the setting `loading`, as one of the model's op_libraries"
        )


def _argument_specs(definition: Any) -> Iterator[tf.TensorSpec]:
    shapes = definition.attr[_INPUT_SHAPES].list.shape if _INPUT_SHAPES in definition.attr else ()
    for index, argument in enumerate(definition.signature.input_arg):
        shape = None
        if index < len(shapes) and not (argument.type == _RESOURCE and argument.handle_data):
            shape = shapes[index]
        if index in definition.arg_attr:
            found = definition.arg_attr[index].attr
            if _OUTPUT_SHAPES in found:
                value = found[_OUTPUT_SHAPES]
                shape = value.list.shape[0] if value.WhichOneof("value") == "list" else value.shape
        yield tf.TensorSpec(tf.TensorShape(shape), tf.as_dtype(argument.type), argument.name)


_RESOURCE = tf.resource.as_datatype_enum


def _result_specs(definition: Any, outputs: Any) -> tuple[tf.TensorSpec, ...] | None:
    """Those that were saved with the function; None where they are not all its outputs."""
    leaves = tf.nest.flatten(outputs, expand_composites=True)
    found = tuple(leaf for leaf in leaves if isinstance(leaf, tf.TensorSpec))
    kinds = [tf.as_dtype(each.type) for each in definition.signature.output_arg]
    return found if [each.dtype for each in found] == kinds else None


def _completed(definition: Any) -> Any:
    """A definition as TensorFlow's own loader registers it: changes what it is given."""
    definition.signature.name = concrete_function._inference_name(definition.signature.name)
    definition.attr.pop(_INPUT_SHAPES, None)
    for node in definition.node_def:
        node.attr.pop(_OUTPUT_SHAPES, None)
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
