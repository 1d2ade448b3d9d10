"""Where each inner tensor stands and what it is called: the tree of graphs that a function enters.

A site is one graph where it is entered: a function that is called twice has two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import Reason
from varserve_service.core.inspection.ports import InnerTensor, Place
from varserve_service.savedmodel.dtypes import SUPPORTED
from varserve_service.savedmodel.signatures import partial_shape

from .graphs import Argument
from .plan import Kind, Plan, Plans, Step, unsupported
from .rewriting import Place as CallPlace
from .state import Capture

_MOST_TENSORS = 200_000
_DEEPEST = 64
# What TensorFlow calls a call, where nobody gives it a name.
_CALL_NAME = re.compile(r"(Stateful)?PartitionedCall(_\d+)?$")
_HANDLES = frozenset({"Identity", "Switch", "RefSwitch", "Merge"})

# Outputs, from this one on, that are there for a gradient alone. Kernels that do not train leave in
# them what the memory had.
_FOR_GRADIENTS = {
    "FusedBatchNorm": 3,
    "FusedBatchNormV2": 3,
    "FusedBatchNormV3": 3,
    "CudnnRNN": 3,
    "CudnnRNNV2": 3,
    "CudnnRNNV3": 3,
}

Part = tuple[str, bool]
"""A part of an address, and whether it is a qualifier: something that people leave out."""


@dataclass(slots=True, eq=False)
class Site:
    """One graph where it is entered.

    `tensors` has for each step the index of each of its outputs among the inner tensors, -1 for
    what is not one. `first` and `last` bound the indices of all tensors in it and below it. `calls`
    are the names of the calls that lead to it; None where a loop, a branch or XLA is on the way.
    """

    plan: Plan
    place: Place
    calls: tuple[str, ...] | None = None
    tensors: list[tuple[int, ...]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    children: dict[int, tuple[Site, ...]] = field(default_factory=dict)
    first: int = 0
    last: int = 0


@dataclass(slots=True, eq=False)
class _Placed:
    """One step where it stands. The address grows while the regions around it are left."""

    address: tuple[Part, ...]
    site: Site

    def form(self, qualifiers: int) -> str:
        """The address with its last so many qualifiers."""
        parts: list[str] = []
        left = qualifiers
        for part, qualifier in reversed(self.address):
            if qualifier:
                if left == 0:
                    continue
                left -= 1
            parts.append(part)
        return "/".join(reversed(parts))


@dataclass(frozen=True, slots=True, eq=False)
class _Listed:
    placed: _Placed
    suffix: str
    op: str
    operation: str
    dtype: str
    shape: PartialShape
    variables: tuple[str, ...]

    def form(self, qualifiers: int) -> str:
        return self.placed.form(qualifiers) + self.suffix


class Tree:
    """All sites below one function, and its inner tensors in an order of computation.

    `feeds` are the names of its inputs, which are inner tensors too; `captures` its other
    arguments. `source_of` tells the source line of an operation in a function.
    """

    def __init__(
        self,
        plans: Plans,
        plan: Plan,
        feeds: Sequence[str],
        captures: Sequence[Capture],
        source_of: Callable[[str, str], str],
    ) -> None:
        self._plans = plans
        self._placed: list[_Placed] = []
        self._found: list[_Listed] = []
        self.root = Site(plan, Place.TOP, ())
        self.inputs = tuple(self._list_input(feed, plan, at) for at, feed in enumerate(feeds))
        """Index of each input among the inner tensors."""
        self._variables = {
            each.path: (each.dtype.name, partial_shape(each.shape))
            for each in captures
            if each.path and each.dtype is not None
        }
        paths: list[str | None] = [None for _ in feeds]
        paths += [each.path for each in captures]
        origins = dict(zip(plan.arguments, paths, strict=True))
        self._enter(self.root, (), origins, 0)
        self.root.first = 0
        for placed in self._placed:
            placed.site.names.append(placed.form(0))
        self.tensors = self._named(source_of)
        self.plans = tuple({id(site.plan): site.plan for site in _sites(self.root)}.values())
        """Of all sites, each once."""
        self.kinds = frozenset(step.kind for plan in self.plans for step in plan.steps)
        """Of all steps."""

    def places(self, indices: Iterable[int]) -> list[CallPlace] | None:
        """Where these tensors are computed; None where one of them is not at the top."""
        places = []
        for index in indices:
            listed = self._found[index]
            calls = listed.placed.site.calls
            if calls is None or not listed.operation:
                return None
            output = int(listed.suffix.removeprefix(":") or 0)
            dtype = tf.as_dtype(listed.dtype).as_datatype_enum
            places.append(CallPlace(calls, listed.operation, output, dtype))
        return places

    def _enter(
        self,
        site: Site,
        prefix: tuple[Part, ...],
        origins: Mapping[int, str | None],
        depth: int,
    ) -> None:
        if depth > _DEEPEST:
            raise unsupported(f"its calls are more than {_DEEPEST} deep")
        handles = {slot: path for slot, path in origins.items() if path}
        values: dict[int, tuple[str, ...]] = {}  # what was read of a variable, by slot
        specs = zip(site.plan.arguments, site.plan.argument_specs, strict=True)
        shapes = {slot: shape for slot, (_, shape) in specs}
        site.first = len(self._found)
        for number, step in enumerate(site.plan.steps):
            local = (*prefix, *((part, False) for part in step.name.split("/")))
            read = {handles[slot]: None for slot in step.inputs if slot in handles}
            for slot in step.inputs:
                read.update(dict.fromkeys(values.get(slot, ())))
            if step.op in _HANDLES:
                for slot in step.outputs:
                    if step.inputs and step.inputs[0] in handles:
                        handles[slot] = handles[step.inputs[0]]
            if step.op in ("ReadVariableOp", "Identity", "Cast"):
                for slot in step.outputs:
                    values[slot] = tuple(read)
            placed = _Placed(local, site)
            self._placed.append(placed)
            self._descend(site, number, step, prefix, local, handles, shapes, depth)
            shapes.update(zip(step.outputs, step.shapes, strict=True))
            site.tensors.append(self._list(step, placed, tuple(read)))
        site.last = len(self._found)

    def _descend(
        self,
        site: Site,
        number: int,
        step: Step,
        prefix: tuple[Part, ...],
        local: tuple[Part, ...],
        handles: Mapping[int, str],
        shapes: Mapping[int, PartialShape],
        depth: int,
    ) -> None:
        """Enter what the step enters: inner tensors come before what they lead to."""
        if not step.callees:
            return
        arguments = step.inputs[1:] if step.kind in (Kind.IF, Kind.CASE) else step.inputs
        children = []
        for index, name in enumerate(step.callees):
            given = [self._argument(slot, handles, shapes) for slot in arguments]
            if step.kind is Kind.WHILE:
                # A loop's variables may have another size in each iteration.
                given = [
                    Argument(shape, each.variable)
                    for each, shape in zip(given, step.shapes, strict=True)
                ]
            plan = self._plans.of_function(name, tuple(given))
            place, qualifier = _child_place(site.place, step.kind, index)
            calls = None
            if step.kind is Kind.CALL and site.calls is not None:
                calls = (*site.calls, step.name)
            child = Site(plan, place, calls)
            origins = {
                slot: handles.get(argument)
                for slot, argument in zip(plan.arguments, arguments, strict=False)
            }
            if qualifier:
                inner = _Region(prefix, step.name, qualifier)
                self._enter_region(child, inner, origins, depth + 1)
            else:
                is_default = bool(_CALL_NAME.match(local[-1][0]))
                self._enter(child, (*local[:-1], (local[-1][0], is_default)), origins, depth + 1)
            children.append(child)
        site.children[number] = tuple(children)

    def _argument(
        self, slot: int, handles: Mapping[int, str], shapes: Mapping[int, PartialShape]
    ) -> Argument:
        variable = self._variables[handles[slot]] if slot in handles else None
        return Argument(shapes.get(slot), variable)

    def _enter_region(
        self, site: Site, region: _Region, origins: Mapping[int, str | None], depth: int
    ) -> None:
        start = len(self._placed)
        self._enter(site, (), origins, depth)
        for placed in self._placed[start:]:
            placed.address = region.around(placed.address)

    def _list_input(self, feed: str, plan: Plan, at: int) -> int:
        dtype, shape = plan.argument_specs[at]
        placed = _Placed(tuple((part, False) for part in feed.split("/")), self.root)
        self._found.append(_Listed(placed, "", "Placeholder", "", dtype.name, shape, ()))
        return len(self._found) - 1

    def _list(self, step: Step, placed: _Placed, variables: tuple[str, ...]) -> tuple[int, ...]:
        indices = []
        for output, dtype in enumerate(step.dtypes):
            is_call = step.kind is Kind.CALL  # It gives what its function computes last.
            if dtype.base_dtype.name not in SUPPORTED or is_call or _is_unwritten(step, output):
                indices.append(-1)
                continue
            if len(self._found) >= _MOST_TENSORS:
                raise unsupported(
                    f"it has more than {_MOST_TENSORS} inner tensors", Reason.INSPECTION_TOO_LARGE
                )
            indices.append(len(self._found))
            self._found.append(
                _Listed(
                    placed,
                    f":{output}" if output else "",
                    step.op,
                    step.name,
                    dtype.base_dtype.name,
                    step.shapes[output],
                    variables,
                )
            )
        return tuple(indices)

    def _named(self, source_of: Callable[[str, str], str]) -> tuple[InnerTensor, ...]:
        most = [sum(qualifier for _, qualifier in each.placed.address) for each in self._found]
        names = [each.form(0) for each in self._found]
        bare = list(names)
        kept = 0
        # The fewest qualifiers that tell it from all others.
        while True:
            count = Counter(names)
            shared = [i for i, name in enumerate(names) if count[name] > 1 and most[i] > kept]
            if not shared:
                break
            kept += 1
            for index in shared:
                names[index] = self._found[index].form(kept)
        return tuple(
            InnerTensor(
                name=name,
                bare=plain,
                path=each.form(every),
                op=each.op,
                dtype=each.dtype,
                shape=each.shape,
                place=each.placed.site.place,
                variables=each.variables,
                source=source_of(each.placed.site.plan.function, each.operation),
            )
            for name, plain, every, each in zip(names, bare, most, self._found, strict=True)
        )


@dataclass(frozen=True, slots=True)
class _Region:
    """The body of a loop or a branch: `qualifier` says which, `name` is that of the loop or branch.

    TensorFlow 2 puts the name before those of the operations in it, TensorFlow 1 does not.
    """

    prefix: tuple[Part, ...]
    name: str
    qualifier: str

    def around(self, address: tuple[Part, ...]) -> tuple[Part, ...]:
        """The whole address of what has this one in the region."""
        own = tuple((part, False) for part in self.name.split("/"))
        inner = address[len(own) :] if address[: len(own)] == own else address
        return (*self.prefix, *own, (self.qualifier, True), *inner)


def _child_place(place: Place, kind: Kind, index: int) -> tuple[Place, str]:
    """Where what is entered stands, and the word for it in its address."""
    if kind is Kind.WHILE:
        inside, word = Place.LOOP, ("cond", "body")[index]
    elif kind is Kind.IF:
        inside, word = Place.BRANCH, ("then", "else")[index]
    elif kind is Kind.CASE:
        inside, word = Place.BRANCH, f"branch{index}"
    else:
        inside, word = Place.XLA if kind is Kind.XLA_CALL else place, ""
    # What XLA runs as one has nothing in it that is anywhere else.
    return (Place.XLA if place is Place.XLA else inside), word


def _is_unwritten(step: Step, output: int) -> bool:
    """What the output has is no result of the operation."""
    if output < _FOR_GRADIENTS.get(step.op, len(step.outputs)):
        return False
    attributes = dict(zip(step.attributes[::2], step.attributes[1::2], strict=True))
    return not attributes.get("is_training", True)


def _sites(site: Site) -> Iterator[Site]:
    yield site
    for children in site.children.values():
        for child in children:
            yield from _sites(child)
