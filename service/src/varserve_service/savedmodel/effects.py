"""What a concrete function does to state, read from its graph: variables read, written, scattered.

Errs on the safe side: an operation that is not known to only read counts as a write, and a write
that is not known to write rows alone as one of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .operations import Kind, kind_of
from .runtime import operation_definition

_SPARSE = re.compile(
    r"ResourceGather|ResourceScatter|ResourceSparseApply|ResourceStridedSliceAssign"
)
_PASS_THROUGH = frozenset(
    {"Identity", "IdentityN", "Enter", "RefEnter", "Exit", "Merge", "NextIteration", "Switch"}
)
# Operations that write the rows of their resources that their input `indices` names, and no others.
_WRITES_ROWS = re.compile(r"ResourceScatter\w+|ResourceSparseApply\w+")
# Operations that may go on, or wait, for ever.
_ENDLESS = re.compile(
    r"^(Stateless)?While$|^LoopCond$|Queue|Barrier|Iterator|Dataset|(Un)?[Ss]tage$|MapDefun|"
    r"MapStage|MapUnstage|MapPeek|PyFunc|BatchFunction|Collective|Recv$"
)
# What an operation makes anew lives and dies within one call.
_LOCAL = re.compile(r"Anonymous\w+|Dummy\w+|TensorArray\w*|Stack\w*")
PLAIN_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
"""Operations that call one function, once."""

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


@dataclass(frozen=True, slots=True)
class RowWrite:
    """An operation that writes rows, by the names of the calls that lead to it.

    `indices` is its input with their indices, as the FunctionDef has it, and `dtype` their dtype, a
    number of TensorFlow's DataType. `nested`: the innermost dimension is an index of many, of which
    the first is that of the row.
    """

    calls: tuple[str, ...]
    indices: str
    dtype: int
    nested: bool


@dataclass
class Effects:
    """Which arguments, by index, a function reads, writes or accesses sparsely.

    `row_writes` are those of a written argument that write rows; `writes_whole` has the arguments
    that are written in another way, too. `endless`: it has loops, or operations that wait, so that
    it may have to be cancelled.
    """

    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    writes_whole: set[int] = field(default_factory=set)
    row_writes: dict[int, list[RowWrite]] = field(default_factory=dict)
    sparse: set[int] = field(default_factory=set)
    changes_other_state: bool = False
    endless: bool = False

    def add(
        self, other: Effects, origins: Callable[[int], set[int]], call: str | None = None
    ) -> None:
        """Take over the effects of a callee whose argument i is any of `origins(i)` here.

        `call` is the name of the call, where that is just a call: not a loop, nor one of branches.
        """
        for mine, theirs in (
            (self.reads, other.reads),
            (self.writes, other.writes),
            (self.writes_whole, other.writes if call is None else other.writes_whole),
            (self.sparse, other.sparse),
        ):
            for index in theirs:
                mine |= origins(index)
        if call is not None:
            for index, found in other.row_writes.items():
                below = [replace(each, calls=(call, *each.calls)) for each in found]
                for mine_index in origins(index):
                    self.row_writes.setdefault(mine_index, []).extend(below)
        self.changes_other_state |= other.changes_other_state
        self.endless |= other.endless

    def write(self, arguments: set[int], rows: RowWrite | None = None) -> None:
        """Note that an operation writes arguments: rows of them, or maybe all."""
        self.writes |= arguments
        if rows is None:
            self.writes_whole |= arguments
            return
        for index in arguments:
            self.row_writes.setdefault(index, []).append(rows)


class EffectsAnalysis:
    """Effects of functions by name; each function of a model's library is analysed once.

    `find` gives the FunctionDef of a name, None where there is none; `is_stateful` what TensorFlow
    says of an operation, also of one that is not known.
    """

    def __init__(
        self, find: Callable[[str], Any | None], is_stateful: Callable[[str], bool]
    ) -> None:
        self._find = find
        self._is_stateful = is_stateful
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
        local = _local(definition)
        for node in definition.node_def:
            inputs = [_origins(name, origins) & resources for name in _data(node.input)]
            self._node(node, inputs, local, effects)
        if is_compiled(definition):  # XLA leaves out what is out of bounds in its own way.
            effects.write(set(effects.writes))
        return effects

    def _node(
        self, node: Any, inputs: Sequence[set[int]], local: Collection[str], effects: Effects
    ) -> None:
        """Add what one node does. `local`: nodes that give resources which the call itself made."""
        if _ENDLESS.search(node.op):
            effects.endless = True
        touched = set().union(*inputs) if inputs else set()
        if node.op in _PASS_THROUGH:
            return
        callees = _callees(node)
        if node.op in _CALLS:
            skip = _CALLS[node.op]
            for name in callees:
                self._call(
                    name,
                    lambda index: inputs[index + skip] if index + skip < len(inputs) else touched,
                    touched,
                    effects,
                    node.name if node.op in PLAIN_CALLS and not is_compiled(node) else None,
                )
            return
        # A call as TensorFlow 1 writes it: by an operation that is none of TensorFlow's.
        if operation_definition(node.op) is None and self._find(node.op) is not None:
            self._call(
                node.op,
                lambda index: inputs[index] if index < len(inputs) else touched,
                touched,
                effects,
            )
            return
        kind = self._kind_of(node)
        for name, offset in _callees_with_captures(node, callees):
            # A function of a dataset takes elements first, and then what it captured.
            def origins(index: int, name: str = name, offset: int | None = offset) -> set[int]:
                definition = self._find(name)
                if offset is None or definition is None:
                    return touched
                place = index - len(definition.signature.input_arg)
                return inputs[offset + place] if -offset <= place < 0 else touched

            self._call(name, origins, touched, effects)
        if kind in (Kind.FILES, Kind.PYTHON, Kind.NETWORK):
            effects.changes_other_state = True
        if _SPARSE.match(node.op):
            effects.sparse |= touched
        if kind is Kind.READS:
            effects.reads |= touched
        elif kind is Kind.CHANGES:
            effects.write(touched, _row_write(node))
            # It changes what the function has not been given: of its own, or the process's.
            own = [name.partition(":")[0] in local for name in _data(node.input)]
            effects.changes_other_state |= not touched and not any(own)
        elif kind is None and not callees:
            # Not in the list: what it is given it may change.
            effects.write(touched)

    def _call(
        self,
        name: str,
        origins: Callable[[int], set[int]],
        touched: set[int],
        effects: Effects,
        call: str | None = None,
    ) -> None:
        callee = self._of_name(name)
        if callee is None:
            effects.write(touched)
            effects.changes_other_state = effects.endless = True
        else:
            effects.add(callee, origins, call)

    def _kind_of(self, node: Any) -> Kind | None:
        kind = kind_of(node.op)
        if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file://"):
            return Kind.FILES
        if kind is None and self._is_stateful(node.op):
            return Kind.CHANGES
        return kind

    def _of_name(self, name: str) -> Effects | None:
        if name not in self._known:
            self._known[name] = None  # A function that calls itself: conservative.
            definition = self._find(name)
            if definition is not None:
                self._known[name] = self.of_definition(definition)
        return self._known[name]


_RESOURCE_TYPES = frozenset({20})  # DT_RESOURCE


def is_compiled(called: Any) -> bool:
    """Whether XLA compiles a function or a call, as a whole."""
    return "_XlaMustCompile" in called.attr and bool(called.attr["_XlaMustCompile"].b)


def _row_write(node: Any) -> RowWrite | None:
    """The write of an operation that writes rows; None of any other."""
    definition = operation_definition(node.op) if _WRITES_ROWS.fullmatch(node.op) else None
    if definition is None:
        return None
    place = [argument.name for argument in definition.input_arg].index("indices")
    nested = node.op.startswith("ResourceScatterNd")
    return RowWrite((), node.input[place], node.attr["Tindices"].type, nested)


def _local(definition: Any) -> set[str]:
    """Nodes that give resources which are made within the function, and what passes them on."""
    local = {node.name for node in definition.node_def if _LOCAL.fullmatch(node.op)}
    known = -1
    while known != (known := len(local)):
        for node in definition.node_def:
            inputs = [name.partition(":")[0] for name in _data(node.input)]
            if node.op in _PASS_THROUGH and inputs and local.issuperset(inputs):
                local.add(node.name)
    return local


def _callees_with_captures(node: Any, callees: Sequence[str]) -> list[tuple[str, int | None]]:
    """Each function of a node, and where its captures end among the inputs; None: not known.

    An operation of tf.data names its captures after its function: `predicate` has those in
    `predicate_other_arguments`, an only function those in `other_arguments`.
    """
    definition = operation_definition(node.op)
    if definition is None:
        return [(name, None) for name in callees]
    ends, end = {}, 0
    for arg in definition.input_arg:
        size = 1
        if arg.type_list_attr:
            size = len(node.attr[arg.type_list_attr].list.type)
        elif arg.number_attr:
            size = node.attr[arg.number_attr].i
        end += size
        ends[arg.name] = end
    found = []
    for key, attribute in sorted(node.attr.items()):
        if not attribute.HasField("func"):
            continue
        short = key.removesuffix("_func").removesuffix("_fn")
        places = (
            f"{key}_other_arguments",
            f"{short}_other_arguments",
            f"{key}_other_args",
            "other_arguments",
        )
        found.append((attribute.func.name, next((ends[p] for p in places if p in ends), None)))
    listed = {name for name, _ in found}
    return found + [(name, None) for name in callees if name not in listed]


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
