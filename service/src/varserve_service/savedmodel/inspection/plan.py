"""How one graph is executed operation by operation: its steps, with all that stays the same.

A plan is made once for each function definition. Owns nothing of a run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import Reason, RequestError
from varserve_service.savedmodel.placement import Placement
from varserve_service.savedmodel.runtime import function_definition, reference_reader

from .graphs import Argument, Graph, graph_of

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_FRAMES = frozenset(
    {"Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "RefNextIteration", "LoopCond"}
)


class Kind(Enum):
    """What executing a step means."""

    EXECUTE = auto()
    NOTHING = auto()
    CONSTANT = auto()
    CALL = auto()
    XLA_CALL = auto()
    WHILE = auto()
    IF = auto()
    CASE = auto()
    PRINT = auto()
    LEGACY_PRINT = auto()
    ASSERT = auto()
    CHECK_NUMERICS = auto()
    SWITCH = auto()
    MERGE = auto()
    REFERENCE = auto()


_KINDS = {
    "NoOp": Kind.NOTHING,
    "Const": Kind.CONSTANT,
    "PartitionedCall": Kind.CALL,
    "StatefulPartitionedCall": Kind.CALL,
    "While": Kind.WHILE,
    "StatelessWhile": Kind.WHILE,
    "If": Kind.IF,
    "StatelessIf": Kind.IF,
    "Case": Kind.CASE,
    "StatelessCase": Kind.CASE,
    "PrintV2": Kind.PRINT,
    "Print": Kind.LEGACY_PRINT,
    "Assert": Kind.ASSERT,
    "CheckNumerics": Kind.CHECK_NUMERICS,
    "CheckNumericsV2": Kind.CHECK_NUMERICS,
    "Switch": Kind.SWITCH,
    "RefSwitch": Kind.SWITCH,
    "Merge": Kind.MERGE,
    "RefMerge": Kind.MERGE,
    "VariableV2": Kind.REFERENCE,
    "Variable": Kind.REFERENCE,
}


@dataclass(slots=True, eq=False)
class Step:
    """One operation. `inputs` and `outputs` are slots of the plan's values.

    `controls` are steps that come first; `callees` the functions that it enters, in the order of
    Kind: the function; condition and body; then and else; the branches. `released` are the slots
    that nothing needs after it.
    """

    kind: Kind
    op: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    controls: tuple[int, ...]
    dtypes: tuple[tf.DType, ...]
    shapes: tuple[PartialShape, ...]
    attributes: tuple[Any, ...] = ()
    callees: tuple[str, ...] = ()
    constant: tf.Tensor | None = None
    custom_gradient: str = ""
    text: Mapping[str, str] = field(default_factory=dict)
    read_reference: Callable[[], tf.Tensor] | None = None
    released: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Plan:
    """A graph in an order of computation.

    `arguments` are the slots of its inputs, `results` those of its outputs. `function` is the name
    of its definition. `may_be_dead`: it has branches of TensorFlow 1, of which one side is not run.
    """

    function: str
    steps: tuple[Step, ...]
    slots: int
    arguments: tuple[int, ...]
    argument_specs: tuple[tuple[tf.DType, PartialShape], ...]
    results: tuple[int, ...]
    may_be_dead: bool


class Plans:
    """The plans of one model's functions, each made when it is first asked for."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._known: dict[tuple[str, tuple[Argument, ...]], Plan] = {}

    def of_concrete(self, concrete: Any) -> Plan:
        """The plan of a concrete function. Raises RequestError INSPECTION_UNSUPPORTED."""
        name = concrete.inference_fn.name
        name = name.decode() if isinstance(name, bytes) else str(name)
        key = (name, ())
        if key not in self._known:
            controls = _control_outputs(concrete.graph)
            graph = Graph(concrete.inputs, concrete.outputs, controls)
            self._known[key] = self._plan(name, graph)
        return self._known[key]

    def of_function(self, name: str, arguments: tuple[Argument, ...]) -> Plan:
        """The plan of a function that another one calls with such arguments.

        Raises RequestError INSPECTION_UNSUPPORTED.
        """
        key = (name, arguments)
        if key not in self._known:
            definition = function_definition(name)
            if definition is None:
                raise unsupported(f"it calls function {name!r}, which TensorFlow does not know")
            self._known[key] = self._plan(name, graph_of(definition, arguments))
        return self._known[key]

    def _plan(self, function: str, graph: Graph) -> Plan:
        inputs, outputs = graph.inputs, graph.outputs
        arguments = {tensor.op.name for tensor in inputs}
        targets = [tensor.op for tensor in outputs] + list(graph.control_outputs)
        operations = _in_order(targets, arguments)
        slots: dict[tuple[str, int], int] = {}

        def slot(tensor: Any) -> int:
            return slots.setdefault((tensor.op.name, tensor.value_index), len(slots))

        argument_slots = tuple(slot(tensor) for tensor in inputs)
        position = {operation.name: index for index, operation in enumerate(operations)}
        steps = []
        last_use: dict[int, int] = {}
        for index, operation in enumerate(operations):
            read = tuple(slot(tensor) for tensor in operation.inputs)
            written = tuple(slot(tensor) for tensor in operation.outputs)
            for each in (*read, *written):
                last_use[each] = index
            controls = [position[c.name] for c in operation.control_inputs if c.name in position]
            with self._placement.scope():
                steps.append(_step(operation, read, written, tuple(controls)))
        results = tuple(slot(tensor) for tensor in outputs)
        for each, index in last_use.items():
            if each not in results:
                steps[index].released += (each,)
        return Plan(
            function,
            tuple(steps),
            len(slots),
            argument_slots,
            tuple((tensor.dtype, _shape(tensor.shape)) for tensor in inputs),
            results,
            any(step.kind in (Kind.SWITCH, Kind.MERGE) for step in steps),
        )


def unsupported(problem: str, reason: Reason = Reason.INSPECTION_UNSUPPORTED) -> RequestError:
    """What says that a function cannot be looked into."""
    return RequestError(reason, f"the function cannot be inspected: {problem}")


def _control_outputs(graph: Any) -> list[Any]:
    found = getattr(graph, "control_outputs", None) or []
    return [graph.get_operation_by_name(each) if isinstance(each, str) else each for each in found]


def _in_order(targets: Sequence[Any], arguments: set[str]) -> list[Any]:
    """The operations that the targets need, in an order of computation, without the arguments."""
    needed: dict[str, Any] = {}
    waiting = list(targets)
    while waiting:
        operation = waiting.pop()
        if operation.name in needed or operation.name in arguments:
            continue
        if operation.type in _FRAMES:
            raise unsupported(
                "it has a loop of TensorFlow 1 (Enter, Exit, NextIteration), whose tensors belong "
                "to frames; save the model again with tf.compat.v1.enable_control_flow_v2()"
            )
        needed[operation.name] = operation
        waiting += [tensor.op for tensor in operation.inputs]
        waiting += operation.control_inputs
    # Operations of a graph are numbered as they were made: this keeps that order where it can be.
    numbers = {name: operation._id for name, operation in needed.items()}
    missing: dict[str, int] = {}
    followers: dict[str, list[str]] = {}
    for name, operation in needed.items():
        before = {t.op.name for t in operation.inputs} | {c.name for c in operation.control_inputs}
        before = {each for each in before if each in needed}
        missing[name] = len(before)
        for each in before:
            followers.setdefault(each, []).append(name)
    ready = [(numbers[name], name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, name = heapq.heappop(ready)
        ordered.append(needed[name])
        for follower in followers.get(name, ()):
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, (numbers[follower], follower))
    return ordered


def _step(
    operation: Any, inputs: tuple[int, ...], outputs: tuple[int, ...], controls: tuple[int, ...]
) -> Step:
    node = operation.node_def
    kind = _KINDS.get(operation.type, Kind.EXECUTE)
    step = Step(
        kind,
        operation.type,
        operation.name,
        inputs,
        outputs,
        controls,
        tuple(tensor.dtype for tensor in operation.outputs),
        tuple(_shape(tensor.shape) for tensor in operation.outputs),
    )
    if operation.type not in CALLS and "_gradient_op_type" in node.attr:
        step.custom_gradient = node.attr["_gradient_op_type"].s.decode()
    if kind is Kind.CONSTANT:
        dtype = tf.as_dtype(node.attr["dtype"].type)
        step.constant = tf.constant(tf.make_ndarray(node.attr["value"].tensor), dtype=dtype)
    elif kind is Kind.CALL:
        step.callees = (node.attr["f"].func.name,)
        if "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b:
            step.kind = Kind.XLA_CALL
    elif kind is Kind.WHILE:
        step.callees = (node.attr["cond"].func.name, node.attr["body"].func.name)
    elif kind is Kind.IF:
        step.callees = (node.attr["then_branch"].func.name, node.attr["else_branch"].func.name)
    elif kind is Kind.CASE:
        step.callees = tuple(branch.name for branch in node.attr["branches"].list.func)
    elif kind is Kind.PRINT:
        end = node.attr["end"].s.decode() if "end" in node.attr else "\n"
        stream = node.attr["output_stream"].s.decode() or "stderr"
        step.text = {"end": end, "stream": stream}
    elif kind is Kind.LEGACY_PRINT:
        step.text = {"message": node.attr["message"].s.decode(errors="replace")}
    elif kind is Kind.REFERENCE:
        step.read_reference = reference_reader(node)
    elif kind is Kind.EXECUTE and op_def_registry.get(operation.type) is None:
        # The name of a function as an operation: a call, as TensorFlow 1 writes it.
        step.kind, step.callees = Kind.CALL, (operation.type,)
    elif kind is Kind.EXECUTE and operation.type in ("Placeholder", "_Arg"):
        raise unsupported(f"its placeholder {operation.name!r} is fed by none of its inputs")
    if step.kind in (Kind.EXECUTE, Kind.CHECK_NUMERICS):
        step.attributes = _attributes(operation.type, node)
    return step


def _shape(shape: tf.TensorShape) -> PartialShape:
    return None if shape.rank is None else tuple(shape.as_list())


_READ: Mapping[str, Callable[[Any], Any]] = {
    "type": lambda value: value.type,
    "list(type)": lambda value: list(value.list.type),
    "int": lambda value: value.i,
    "list(int)": lambda value: list(value.list.i),
    "float": lambda value: value.f,
    "list(float)": lambda value: list(value.list.f),
    "bool": lambda value: value.b,
    "list(bool)": lambda value: list(value.list.b),
    "string": lambda value: value.s,
    "list(string)": lambda value: list(value.list.s),
    "shape": lambda value: _sizes(value.shape),
    "list(shape)": lambda value: [_sizes(shape) for shape in value.list.shape],
    "tensor": lambda value: value.tensor,
    "func": lambda value: value.func.name,
    "list(func)": lambda value: [function.name for function in value.list.func],
}


def _sizes(shape: Any) -> list[int] | None:
    return None if shape.unknown_rank else [size.size for size in shape.dim]


def _attributes(op: str, node: Any) -> tuple[Any, ...]:
    """The attributes that the operation itself has, as the eager runtime takes them."""
    flat: list[Any] = []
    for attribute in op_def_registry.get(op).attr:
        if attribute.name not in node.attr:
            continue
        value = node.attr[attribute.name]
        if value.WhichOneof("value") is None:
            continue
        if attribute.type not in _READ:
            raise unsupported(f"its operation {node.name!r} ({op}) has an attribute of a rare type")
        flat += [attribute.name, _READ[attribute.type](value)]
    return tuple(flat)
