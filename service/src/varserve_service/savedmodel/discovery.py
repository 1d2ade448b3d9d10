"""Which variables and functions of a loaded object graph are served, and under which paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from varserve_service.core.ports.loaded_model import (
    FunctionKind,
    FunctionSpec,
    Omission,
    OmissionKind,
)

from .copies import find_copies
from .dtypes import SUPPORTED
from .effects import EffectsAnalysis
from .functions import Callee, CallEffects, LookInto, SavedFunction
from .object_graph import Nodes, is_function, is_polymorphic, own_name
from .placement import Placement
from .row_writes import RowWrites
from .runtime import argument_specs, function_definition, is_stateful, release
from .signatures import (
    Undescribable,
    describe,
    distinct,
    function_parameters,
    signature_parameters,
)

_SIGNATURES = "signatures/"


_REFERENCE = (
    "it is a reference variable of TensorFlow 1 that nothing gives a value, or with an operation "
    "that resource variables do not have; save the model with resource variables"
)


@dataclass(frozen=True, slots=True)
class FoundVariable:
    """A variable that is served. `copies`: paths of copies of it that no function uses."""

    path: str
    variable: tf.Variable
    copies: tuple[str, ...] = ()


def find_variables(root: Any, nodes: Nodes) -> tuple[dict[str, FoundVariable], list[Omission]]:
    """The variables that are served, by path, and those that are not, with the reason."""
    found = {path: node for path, node in nodes if isinstance(node, tf.Variable)}
    if hasattr(root, "prune") and hasattr(root, "graph"):
        # TensorFlow 1 format: there is no object graph, only a list.
        found = {own_name(variable): variable for variable in found.values()}
    handles = {id(variable.handle) for variable in found.values()}
    captured: set[int] = set()
    for concrete in _concretes(nodes):
        captured.update(id(capture) for capture in concrete.captured_inputs)
        for variable in concrete.graph.variables:
            if id(variable.handle) not in handles:
                handles.add(id(variable.handle))
                found[_free(own_name(variable), found)] = variable
    omissions = [
        Omission(OmissionKind.VARIABLE, name, _REFERENCE) for name in _reference_variables(root)
    ]
    for path in [path for path, node in found.items() if node.dtype.name not in SUPPORTED]:
        reason = f"it is of type {found.pop(path).dtype.name}, which varserve does not carry"
        omissions.append(Omission(OmissionKind.VARIABLE, path, reason))
    copies = find_copies(nodes, found, captured)
    for path, original in copies.items():
        # No function uses it, so that its memory is of no use either.
        release(found.pop(path))
        reason = f"it is a copy of variable {original!r} that no function uses"
        omissions.append(Omission(OmissionKind.VARIABLE, path, reason))
    served = {
        path: FoundVariable(
            path, variable, tuple(copy for copy, original in copies.items() if original == path)
        )
        for path, variable in found.items()
    }
    return served, omissions


def _reference_variables(root: Any) -> list[str]:
    """Names of the reference variables of a graph in TensorFlow 1 format."""
    graph = getattr(root, "graph", None)
    if graph is None or not hasattr(root, "prune"):
        return []
    return sorted(op.name for op in graph.get_operations() if op.type in ("VariableV2", "Variable"))


def _free(path: str, taken: Mapping[str, object]) -> str:
    free, number = path, 1
    while free in taken:
        free, number = f"{path}_{number}", number + 1
    return free


def find_functions(
    nodes: Nodes,
    variables: Mapping[str, FoundVariable],
    placement: Placement,
    look_into: LookInto,
) -> tuple[list[SavedFunction], set[str], list[Omission]]:
    """The functions that are served, the paths of variables that they access sparsely, and what is
    not served, with the reason.
    """
    omissions: list[Omission] = []
    effects = _EffectsOnVariables(variables)
    keys = {
        path.removeprefix(_SIGNATURES)
        for path, node in nodes
        if is_function(node) and path.startswith(_SIGNATURES)
    }
    functions = []
    # Signatures first, each group by name.
    for path, node in sorted(
        ((path, node) for path, node in nodes if is_function(node)),
        key=lambda item: (not item[0].startswith(_SIGNATURES), item[0]),
    ):
        callees, reasons = _overloads(node, effects)
        omissions += (Omission(OmissionKind.FUNCTION, path, reason) for reason in reasons)
        if not callees:
            continue
        overloads = tuple(callee.overload for callee in callees)
        if path.startswith(_SIGNATURES):
            kind, name = FunctionKind.SIGNATURE, path.removeprefix(_SIGNATURES)
            parameters = signature_parameters(overloads)
        else:
            kind, name = FunctionKind.FUNCTION, f"./{path}" if path in keys else path
            parameters = function_parameters(node)
        spec = FunctionSpec(name, path, kind, overloads, parameters)
        functions.append(SavedFunction(spec, callees, placement, look_into))
    return functions, effects.sparse, omissions


def _overloads(node: Any, effects: Callable[[Any], CallEffects]) -> tuple[list[Callee], list[str]]:
    """What can be called of a function, and why the rest of it cannot."""
    function_type = getattr(node, "function_type", None)
    parameters = list(function_type.parameters.values()) if function_type else []
    defaults = getattr(node, "_default_values", None) or {}
    concretes = node.concrete_functions if is_polymorphic(node) else [node]
    callees: list[Callee] = []
    reasons = [] if concretes else ["it has no concrete function"]
    for number, concrete in enumerate(concretes):
        try:
            callees.append(describe(concrete, parameters, defaults, effects))
        except Undescribable as problem:
            reason = str(problem)
        except Exception as error:
            # A model can have functions of any make: none of them ends the service.
            reason = f"it cannot be described: {type(error).__name__}: {error}"
        else:
            continue
        reasons.append(reason if len(concretes) == 1 else f"overload {number}: {reason}")
    return distinct(callees), reasons


def _concretes(nodes: Nodes) -> Iterator[Any]:
    for _, node in nodes:
        if is_polymorphic(node):
            yield from node.concrete_functions
        elif is_function(node):
            yield node


class _EffectsOnVariables:
    """Effects of concrete functions in terms of the served variables; notes sparse access."""

    def __init__(self, variables: Mapping[str, FoundVariable]) -> None:
        self._paths = {id(found.variable.handle): path for path, found in variables.items()}
        self._analysis = EffectsAnalysis(function_definition, is_stateful)
        self.sparse: set[str] = set()

    def __call__(self, concrete: Any) -> CallEffects:
        definition = concrete.inference_fn.definition
        effects = self._analysis.of_definition(definition)
        captures = concrete.captured_inputs
        first = len(argument_specs(concrete)) - len(captures)
        paths = {
            index: self._paths[id(capture)]
            for index, capture in enumerate(captures, first)
            if id(capture) in self._paths
        }

        def of(indices: set[int]) -> tuple[str, ...]:
            return tuple(sorted({paths[index] for index in indices if index in paths}))

        self.sparse.update(of(effects.sparse))
        other = effects.changes_other_state or bool(effects.writes - paths.keys())
        rows = RowWrites.of(definition.signature.name, effects, paths)
        return CallEffects(of(effects.reads), of(effects.writes), other, effects.endless, rows)
