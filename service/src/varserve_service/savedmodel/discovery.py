"""Which variables and functions of a loaded object graph are served, and under which paths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from varserve_service.core.ports.loaded_model import FunctionKind, FunctionSpec

from .dtypes import SUPPORTED
from .effects import EffectsAnalysis
from .functions import Callee, CallEffects, SavedFunction
from .object_graph import is_function, is_polymorphic, own_name
from .placement import Placement
from .runtime import function_definition
from .signatures import Undescribable, describe, distinct

_log = logging.getLogger(__name__)

Nodes: TypeAlias = Sequence[tuple[str, Any]]
"""Path and object of each node of an object graph."""

_SIGNATURES = "signatures/"


def find_variables(model: str, root: Any, nodes: Nodes) -> dict[str, tf.Variable]:
    """The variables that are served, by path; what cannot be is logged under the model's name."""
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
    _leave_out(model, found, _unservable(found), "their types cannot be served", logging.WARNING)
    _leave_out(model, found, _copies(found, captured), "they are unused copies", logging.INFO)
    return found


def _leave_out(
    model: str, found: dict[str, tf.Variable], paths: Sequence[str], why: str, level: int
) -> None:
    if paths:
        shown = ", ".join(f"{path} ({found[path].dtype.name})" for path in paths)
        _log.log(level, "model %r: variables left out because %s: %s", model, why, shown)
    for path in paths:
        del found[path]


def _unservable(found: Mapping[str, tf.Variable]) -> list[str]:
    return [path for path, variable in found.items() if variable.dtype.name not in SUPPORTED]


def _copies(found: Mapping[str, tf.Variable], captured: set[int]) -> list[str]:
    """Paths of what Keras 3 leaves in an export: each variable again, as `_all_variables/N`.

    No function uses the copies, so changing one would change nothing; and they would take the
    variables' names.
    """
    used = {
        (variable.name, variable.dtype, str(variable.shape))
        for variable in found.values()
        if id(variable.handle) in captured
    }
    return [
        path
        for path, variable in found.items()
        if path.startswith("_")
        and id(variable.handle) not in captured
        and (variable.name, variable.dtype, str(variable.shape)) in used
    ]


def _free(path: str, taken: Mapping[str, object]) -> str:
    free, number = path, 1
    while free in taken:
        free, number = f"{path}_{number}", number + 1
    return free


def find_functions(
    nodes: Nodes, variables: Mapping[str, tf.Variable], placement: Placement
) -> tuple[list[SavedFunction], set[str]]:
    """The functions that are served, and the paths of variables that they access sparsely."""
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
        callees = _overloads(path, node, effects)
        if not callees:
            _log.debug("function %s left out: it takes or gives what is no tensor", path)
            continue
        kind, name = FunctionKind.FUNCTION, f"./{path}" if path in keys else path
        if path.startswith(_SIGNATURES):
            kind, name = FunctionKind.SIGNATURE, path.removeprefix(_SIGNATURES)
        spec = FunctionSpec(name, path, kind, tuple(callee.overload for callee in callees))
        functions.append(SavedFunction(spec, callees, placement))
    return functions, effects.sparse


def _overloads(path: str, node: Any, effects: Callable[[Any], CallEffects]) -> list[Callee]:
    function_type = getattr(node, "function_type", None)
    parameters = list(function_type.parameters.values()) if function_type else []
    defaults = getattr(node, "_default_values", None) or {}
    callees = []
    for concrete in node.concrete_functions if is_polymorphic(node) else [node]:
        try:
            callees.append(describe(concrete, parameters, defaults, effects))
        except Undescribable as problem:
            _log.warning("function %s: an overload is left out: %s", path, problem)
    return distinct(callees)


def _concretes(nodes: Nodes) -> Iterator[Any]:
    for _, node in nodes:
        if is_polymorphic(node):
            yield from node.concrete_functions
        elif is_function(node):
            yield node


class _EffectsOnVariables:
    """Effects of concrete functions in terms of the served variables; notes sparse access."""

    def __init__(self, variables: Mapping[str, tf.Variable]) -> None:
        self._paths = {id(variable.handle): path for path, variable in variables.items()}
        self._analysis = EffectsAnalysis(function_definition)
        self.sparse: set[str] = set()

    def __call__(self, concrete: Any) -> CallEffects:
        effects = self._analysis.of_definition(concrete.inference_fn.definition)
        captures = concrete.captured_inputs
        first = len(concrete.inputs) - len(captures)
        paths: dict[int, str] = {}
        unserved: set[int] = set()
        of_graph = {id(variable.handle) for variable in concrete.graph.variables}
        for index, capture in enumerate(captures, first):
            if id(capture) in self._paths:
                paths[index] = self._paths[id(capture)]
            elif id(capture) in of_graph:
                unserved.add(index)

        def of(indices: set[int]) -> tuple[str, ...]:
            return tuple(sorted({paths[index] for index in indices if index in paths}))

        self.sparse.update(of(effects.sparse))
        other = effects.changes_other_state or bool(effects.writes & unserved)
        return CallEffects(of(effects.reads), of(effects.writes), other)
