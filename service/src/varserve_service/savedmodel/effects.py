"""What a concrete function does to state, read from its graph: variables read, written, scattered.

Errs on the safe side: an operation that is not known to only read counts as a write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_READS = frozenset(
    {
        "ReadVariableOp",
        "_ReadVariablesOp",
        "ResourceGather",
        "ResourceGatherNd",
        "VarIsInitializedOp",
        "VariableShape",
    }
)
_SPARSE = re.compile(
    r"ResourceGather|ResourceScatter|ResourceSparseApply|ResourceStridedSliceAssign"
)
_PASS_THROUGH = frozenset(
    {"Identity", "IdentityN", "Enter", "RefEnter", "Exit", "Merge", "NextIteration", "Switch"}
)
# Operations that change tables, queues, readers, iterators, files or summaries: state that no
# revision counts. Stacks and tensor arrays live and die within one call.
_OTHER_STATE = re.compile(
    r"LookupTable(Insert|Import|Remove)|InitializeTable|(Queue|Barrier)(Enqueue|Dequeue|Close|"
    r"InsertMany|TakeMany)|Reader(Read|Reset|RestoreState)|Iterator(GetNext|FromStringHandle)|"
    r"MakeIterator|(Un)?[Ss]tage$|MapStage|MapUnstage|MapClear|WriteFile|SaveV2|SaveSlices|"
    r"MergeV2Checkpoints|Write\w*Summary|FlushSummaryWriter|CloseSummaryWriter|"
    r"Accumulator(ApplyGradient|TakeGradient|SetGlobalStep)|(Eager)?PyFunc(Stateless)?$|"
    r"^(Assign|AssignAdd|AssignSub|Scatter\w+|Apply\w+|SparseApply\w+|CountUpTo)$"
)
# Operations that may go on, or wait, for ever.
_ENDLESS = re.compile(
    r"^(Stateless)?While$|^LoopCond$|Queue|Barrier|Iterator|Dataset|(Un)?[Ss]tage$|MapDefun|"
    r"MapStage|MapUnstage|MapPeek|PyFunc|BatchFunction|Collective|Recv$"
)
# How many inputs precede the arguments of the functions that an operation calls.
_CALLS = {
    "PartitionedCall": 0,
    "StatefulPartitionedCall": 0,
    "TPUPartitionedCall": 0,
    "While": 0,
    "StatelessWhile": 0,
    "If": 1,
    "StatelessIf": 1,
    "Case": 1,
    "StatelessCase": 1,
    "MapDefun": 0,
    "BatchFunction": 0,
}


@dataclass
class Effects:
    """Which arguments, by index, a function reads, writes or accesses sparsely.

    `endless`: it has loops, or operations that wait, so that it may have to be cancelled.
    """

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    sparse: set[int] = field(default_factory=set)
    changes_other_state: bool = False
    endless: bool = False

    def add(self, other: Effects, origins: Callable[[int], set[int]]) -> None:
        """Take over the effects of a callee whose argument i is any of `origins(i)` here."""
        for mine, theirs in (
            (self.reads, other.reads),
            (self.writes, other.writes),
            (self.sparse, other.sparse),
        ):
            for index in theirs:
                mine |= origins(index)
        self.changes_other_state |= other.changes_other_state
        self.endless |= other.endless


class EffectsAnalysis:
    """Effects of functions by name; each function of a model's library is analysed once.

    `find` gives the FunctionDef of a name, None where there is none.
    """

    def __init__(self, find: Callable[[str], Any | None]) -> None:
        self._find = find
        self._known: dict[str, Effects | None] = {}

    def of_definition(self, definition: Any) -> Effects:
        """Effects of a FunctionDef over the indices of its input arguments."""
        effects = Effects()
        origins: dict[str, set[int]] = {
            arg.name: {index} for index, arg in enumerate(definition.signature.input_arg)
        }
        resources = {
            index
            for index, arg in enumerate(definition.signature.input_arg)
            if arg.type in _RESOURCE_TYPES
        }
        # Nodes of a FunctionDef come in no promised order; loops of TF1 control flow need more
        # than one pass anyway. Origins only grow, so this ends.
        known = -1
        while known != (known := sum(len(found) for found in origins.values())):
            for node in definition.node_def:
                for output, names in _passed(node):
                    for name in names:
                        found = _origins(name, origins) & resources
                        if found:
                            origins.setdefault(output, set()).update(found)
        for node in definition.node_def:
            inputs = [_origins(name, origins) & resources for name in _data(node.input)]
            self._node(node, inputs, effects)
        return effects

    def _node(self, node: Any, inputs: Sequence[set[int]], effects: Effects) -> None:
        if _OTHER_STATE.search(node.op):
            effects.changes_other_state = True
        if _ENDLESS.search(node.op):
            effects.endless = True
        touched = set().union(*inputs) if inputs else set()
        if node.op in _PASS_THROUGH:
            return
        callees = _callees(node)
        if node.op in _CALLS:
            skip = _CALLS[node.op]
            for name in callees:
                callee = self._of_name(name)
                if callee is None:
                    effects.writes |= touched
                    effects.changes_other_state = effects.endless = True
                    continue
                effects.add(
                    callee,
                    lambda index: inputs[index + skip] if index + skip < len(inputs) else touched,
                )
            return
        for name in callees:
            callee = self._of_name(name)
            # Which argument goes where is not known for this operation: all of them anywhere.
            effects.changes_other_state |= callee is None or callee.changes_other_state
            effects.endless |= callee is None or callee.endless
        if _SPARSE.match(node.op):
            effects.sparse |= touched
        if node.op in _READS:
            effects.reads |= touched
        else:
            effects.writes |= touched

    def _of_name(self, name: str) -> Effects | None:
        if name not in self._known:
            self._known[name] = None  # A function that calls itself: conservative.
            definition = self._find(name)
            if definition is not None:
                self._known[name] = self.of_definition(definition)
        return self._known[name]


_RESOURCE_TYPES = frozenset({20})  # DT_RESOURCE


def _origins(name: str, origins: dict[str, set[int]]) -> set[int]:
    """Arguments that an input is, given as `argument`, `node:output:index` or `node:index`."""
    node, _, rest = name.partition(":")
    return origins.get(node, set()) | origins.get(f"{node}:{rest.rpartition(':')[2]}", set())


def _passed(node: Any) -> list[tuple[str, list[str]]]:
    """Outputs of a node that may be one of its inputs, each with these inputs."""
    inputs = _data(node.input)
    if node.op in _PASS_THROUGH:
        return [(node.name, inputs)]
    if node.op in ("While", "StatelessWhile"):
        return [(f"{node.name}:{index}", [name]) for index, name in enumerate(inputs)]
    if node.op in _CALLS:
        types = node.attr["Tout"].list.type
        resources = [index for index, dtype in enumerate(types) if dtype in _RESOURCE_TYPES]
        return [(f"{node.name}:{index}", inputs) for index in resources]
    return []


def _data(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.startswith("^")]


def _callees(node: Any) -> list[str]:
    names = []
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            names.append(attribute.func.name)
        elif attribute.HasField("list"):
            names.extend(function.name for function in attribute.list.func)
    return names
