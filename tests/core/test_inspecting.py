"""On which values a function is looked into, and what is refused before it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import SET, refusal
from tests.fakes import FakeFunction, FakeModel, FakeValue, FakeVariable
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory, Reason
from varserve_service.core.inspection.ports import (
    InnerTensor,
    Inspected,
    Inspection,
    InspectionLimits,
    Inspector,
    Patch,
    PatchKind,
    Place,
    Selection,
)
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.inspecting import Supposed
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec, Value

MIB = 2**20
X = {"x": np.zeros(2, np.float32), "n": np.int64(0)}
TENSORS = [
    InnerTensor("dense", "dense", "f/dense", "Relu", "float32", (None, 2), Place.TOP, ("A",)),
    InnerTensor("index", "index", "f/index", "ArgMax", "int64", (None,), Place.LOOP),
    InnerTensor("fused", "fused", "f/fused", "Mul", "float32", (2,), Place.XLA),
]


class Seen(FakeFunction):
    """Keeps what an inspection is given, and answers with the values that it begins with."""

    def __init__(self) -> None:
        super().__init__(
            "f",
            dict,
            inputs={"x": TensorSpec("float32", (2,)), "n": TensorSpec("int64", ())},
            outputs={"y": TensorSpec("float32", ()), "count": TensorSpec("int64", ())},
            reads=("a", "b"),
            writes=("w",),
        )
        self.selections: list[Selection] = []
        self.listed = 0
        self.during: Callable[[InspectionLimits], None] = lambda limits: None

    def inspector(self, overload: int) -> Inspector:
        assert overload == 0
        return self  # type: ignore[return-value]

    def tensors(self) -> list[InnerTensor]:
        self.listed += 1
        return TENSORS

    def inspect(
        self,
        inputs: Mapping[str, Any],
        values: Mapping[str, Value],
        selection: Selection,
        limits: InspectionLimits,
        go_on: Callable[[], None],
    ) -> Inspected:
        self.selections.append(selection)
        self.during(limits)
        go_on()
        return Inspected({path: FakeValue(value.numpy().copy()) for path, value in values.items()})


def model(names: tuple[str, ...] = ("a", "b", "w"), **options: Any) -> tuple[LiveModel, Seen]:
    """`names` of the variables whose paths are a, b and w."""

    def variable(path: str, name: str, number: float) -> FakeVariable:
        return FakeVariable(name, np.full(2, number, np.float32), path=path)

    function = Seen()
    variables = [*map(variable, "abw", names, (1, 2, 3)), variable("apart", "apart", 4)]
    return LiveModel(
        FakeModel(variables, [function, FakeFunction("plain", dict)]), **options
    ), function


def look(live: LiveModel, supposed: Supposed | None = None, **asked: Any) -> Any:
    return live.inspecting.inspect("f", X, {}, Inspection(**asked), supposed or Supposed())


def begun_with(answer: Any) -> dict[str, float]:
    return {path: float(value.numpy()[0]) for path, value in answer.inspected.outputs.items()}


def test_it_begins_with_the_values_as_they_are() -> None:
    """Of what it reads and of what it writes, at the revision that is told; nothing is changed."""
    live, _ = model()
    live.assign([Write("a", SET, np.full(2, 7, np.float32))])
    answer = look(live)
    assert begun_with(answer) == {"a": 7, "b": 2, "w": 3}
    assert answer.header == live.header
    assert live.header.revision == 1


def test_it_begins_with_what_is_assumed() -> None:
    """By name, for this run alone, beside the values as they are or as they were."""
    live, _ = model()
    for number in (5, 6):
        live.assign([Write("b", SET, np.full(2, number, np.float32))])
    assume = {"a": np.full(2, 9, np.float32)}
    assert begun_with(look(live, Supposed(assume))) == {"a": 9, "b": 6, "w": 3}
    before = look(live, Supposed(assume, at_revision=1, epoch=live.header.epoch))
    assert begun_with(before) == {"a": 9, "b": 5, "w": 3}
    assert before.header.revision == 1
    first = look(live, Supposed(at_revision=0))
    assert (begun_with(first), first.header.revision) == ({"a": 1, "b": 2, "w": 3}, 0)


@pytest.mark.parametrize(
    ("supposed", "reason"),
    [
        (Supposed({"apart": np.zeros(2, np.float32)}), Reason.INPUT_MISMATCH),
        (Supposed({"absent": np.zeros(2, np.float32)}), Reason.VARIABLE_NOT_FOUND),
        (Supposed({"a": np.zeros(3, np.float32)}), Reason.SHAPE_MISMATCH),
        (Supposed({"a": np.zeros(2, np.float64)}), Reason.DTYPE_MISMATCH),
        (Supposed(epoch="another"), Reason.EPOCH_MISMATCH),
        (Supposed(at_revision=0, epoch="another"), Reason.EPOCH_MISMATCH),
        (Supposed(at_revision=9), Reason.REVISION_IN_FUTURE),
    ],
)
def test_what_cannot_be_supposed(supposed: Supposed, reason: Reason) -> None:
    """It is refused before anything runs."""
    live, function = model()
    assert refusal(look, live, supposed).reason is reason
    assert not function.selections


def test_a_variable_without_a_value() -> None:
    """One that is read is needed; one that is only written has none to begin with."""
    for name, needed in (("a", True), ("w", False)):
        live, function = model()
        variable = next(v for v in live._parts.by_path.values() if v.spec.name == name)
        variable.array = None  # type: ignore[attr-defined]
        if needed:
            assert refusal(look, live).reason is Reason.VARIABLE_UNINITIALIZED
            assert not function.selections
        else:
            assert begun_with(look(live)) == {"a": 1, "b": 2}


def test_it_ends_when_its_caller_goes_or_its_time_is_over() -> None:
    """Between two operations, with a reason; at the deadline itself it is too late."""
    live, _ = model()
    for options in ({"cancelled": lambda: True}, {"deadline": time.monotonic()}):
        error = refusal(live.inspecting.inspect, "f", X, {}, Inspection(), Supposed(), **options)
        assert error.reason is Reason.DEADLINE_EXCEEDED
    far = time.monotonic() + 60
    live.inspecting.inspect("f", X, {}, Inspection(), Supposed(), deadline=far)


def test_room_for_its_own_copies_is_taken_before_it_runs() -> None:
    """Of what it writes, and of what TensorFlow copies; what it keeps is asked for as it goes."""
    room = [Room(30 * MIB, 100 * MIB)]
    budget = MemoryBudget("host", lambda: room[0])
    a = FakeVariable("a", np.zeros(5 * MIB, np.uint8))
    b = FakeVariable("b", np.zeros(5 * MIB, np.uint8), in_place=True)
    w = FakeVariable("w", np.zeros(5 * MIB, np.uint8))
    function = Seen()
    live = LiveModel(FakeModel([a, b, w], [function]), host_memory=budget)
    reserved: list[int] = []
    function.during = lambda limits: reserved.append(budget.reserved)
    look(live)
    assert reserved == [15 * MIB]
    function.during = lambda limits: limits.admit(20 * MIB)
    with pytest.raises(OutOfMemory, match="function 'f' needs"):
        look(live)
    room[0] = Room(14 * MIB, 100 * MIB)
    with pytest.raises(OutOfMemory):
        look(live)
    assert budget.reserved == 0


def test_the_tensors_are_listed_by_name_and_pattern() -> None:
    """With the names of the variables that they read; they are asked for once."""
    live, function = model()
    listed = live.inspecting.tensors("f")
    assert listed.header == live.header
    assert [each.name for each in listed.tensors] == ["dense", "index", "fused"]
    found = live.inspecting.tensors("f", ["fus*", "index"]).tensors
    assert [each.name for each in found] == ["index", "fused"]
    assert function.listed == 1


def test_the_variables_of_a_tensor_are_called_by_their_names() -> None:
    """And not by their paths, which few people know."""
    variable = FakeVariable("A/named", np.zeros(2, np.float32), path="A")
    function = Seen()
    others = [FakeVariable(name, np.zeros(2, np.float32)) for name in ("a", "b", "w")]
    live = LiveModel(FakeModel([variable, *others], [function]))
    assert live.inspecting.tensors("f").tensors[0].variables == ("A/named",)


@pytest.mark.parametrize("overload", [-1, 1])
def test_an_overload_that_is_not_there(overload: int) -> None:
    """It is refused with how many there are."""
    live, _ = model()
    error = refusal(live.inspecting.tensors, "f", overload=overload)
    assert error.reason is Reason.OVERLOAD_MISMATCH
    assert error.message.endswith(f"has 1 overloads; expected 0 to 0, found {overload}")


def test_a_function_that_cannot_be_looked_into() -> None:
    """Both to list and to inspect it is refused."""
    live, _ = model()
    for call, arguments in (
        (live.inspecting.tensors, ()),
        (live.inspecting.inspect, ({}, {}, Inspection(), Supposed())),
    ):
        assert refusal(call, "plain", *arguments).reason is Reason.INSPECTION_UNSUPPORTED


PATCH = Patch(PatchKind.VALUE, value=np.zeros((3, 2), np.float32))


def test_what_is_asked_for_is_found_by_index() -> None:
    """Probes, patches, and what a gradient is taken with respect to, in their order."""
    live, function = model()
    look(
        live,
        probes=("index", "dense"),
        patches={"dense": PATCH},
        gradients_of="y",
        wrt=("x", "b", "dense", "a"),
    )
    (selection,) = function.selections
    assert selection.probes == {0, 1}
    assert selection.patches == {0: PATCH}
    assert selection.wrt_inputs == ("x",)
    assert selection.wrt_variables == (("b", "b"), ("a", "a"))
    assert selection.wrt_tensors == (("dense", 0),)


def test_a_gradient_is_taken_by_name_and_by_path() -> None:
    """Of a variable; the answer has the name that was asked for."""
    live, function = model(names=("first", "second", "third"))
    look(live, gradients_of="y", wrt=("b", "third", "first", "a"))
    (selection,) = function.selections
    found = (("b", "b"), ("third", "w"), ("first", "a"), ("a", "a"))
    assert selection.wrt_variables == found


def test_what_xla_compiles_is_seen_when_it_is_opened() -> None:
    """By wish, or since a gradient opens it; a pattern leaves it out otherwise."""
    live, function = model()
    for asked in ({"probes": ("fused",)}, {"patches": {"fused": Patch(PatchKind.ZERO)}}):
        assert refusal(look, live, None, **asked).reason is Reason.TENSOR_INSIDE_XLA
        look(live, None, **asked, open_xla=True)
        look(live, None, **asked, gradients_of="y")
    look(live, probes=("*",))
    *opened, last = function.selections
    assert [sorted(each.probes) for each in opened] == [[2], [2], [], []]
    assert last.probes == {0, 1}


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        ({"wrt": ("x",)}, Reason.INPUT_MISMATCH, "wrt without gradients_of"),
        ({"gradients_of": "z"}, Reason.INPUT_MISMATCH, "expected one of the outputs: y, count"),
        ({"gradients_of": "count"}, Reason.GRADIENT_UNAVAILABLE, "'count' is of dtype int64"),
        (
            {"gradients_of": "y", "wrt": ("n",)},
            Reason.GRADIENT_UNAVAILABLE,
            "'n' is of dtype",
        ),
        ({"gradients_of": "y", "wrt": ("index",)}, Reason.GRADIENT_UNAVAILABLE, "dtype int64"),
        ({"gradients_of": "y", "wrt": ("no",)}, Reason.TENSOR_NOT_FOUND, "no inner tensor 'no'"),
        ({"patches": {"index": PATCH}}, Reason.PATCH_UNSUPPORTED, "it is of dtype int64"),
        (
            {"patches": {"dense": Patch(PatchKind.VALUE, value=np.zeros((3, 2)))}},
            Reason.DTYPE_MISMATCH,
            "expected dtype float32, found float64",
        ),
        (
            {"patches": {"dense": Patch(PatchKind.VALUE, value=np.zeros(2, np.float32))}},
            Reason.SHAPE_MISMATCH,
            "found [2]",
        ),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], reason: Reason, said: str) -> None:
    """It is refused with what was expected, before anything runs."""
    live, function = model()
    error = refusal(look, live, None, **asked)
    assert error.reason is reason
    assert said in error.message
    assert not function.selections
