"""Commits that carry a check: nobody sees values that it does not let pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeValue, FakeVariable
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import FunctionFailed, OutOfMemory, Reason, RequestError
from varserve_service.core.inspection.ports import Inspected, Inspector
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.checking import Check
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation, TensorSpec, Value

Judge = Callable[..., dict[str, Any]]
MIB = 2**20


class Checking(FakeFunction):
    """A function that judges the values of the variables that it reads."""

    def __init__(self, judge: Judge, reads: tuple[str, ...]) -> None:
        super().__init__(
            "judge",
            judge,
            inputs={"limit": TensorSpec("float32", ())},
            outputs={"ok": TensorSpec("bool", ())},
            reads=reads,
        )
        self.judge = judge
        self.runs = 0

    def inspector(self, overload: int) -> Inspector:
        return self  # type: ignore[return-value]

    def run(self, inputs: Mapping[str, Any], values: Mapping[str, Value]) -> Inspected:
        self.runs += 1
        outputs = self.judge(**inputs, **{name: value.numpy() for name, value in values.items()})
        return Inspected({name: FakeValue(np.asarray(each)) for name, each in outputs.items()})

    def tensors(self) -> Any:
        raise NotImplementedError

    def inspect(self, *_: Any) -> Any:
        raise NotImplementedError


def below(limit: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:  # type: ignore[type-arg]
    return {"ok": bool((a + b).max() < limit), "largest": np.float32((a + b).max())}


def of(value: Any) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(value, np.float32)


def setting(variable: str, value: Any, **options: Any) -> Write:
    return Write(variable, Operation.SET, of(value), **options)


def live_of(judge: Judge = below) -> tuple[LiveModel, Checking, FakeVariable, FakeVariable]:
    a, b = FakeVariable("a", of([1, 2])), FakeVariable("b", of([1, 1]))
    function = Checking(judge, ("a", "b"))
    return LiveModel(FakeModel([a, b], [function])), function, a, b


CHECK = Check("judge", {"limit": of(10)})


def test_values_that_pass_go_in_once() -> None:
    """A check that passes lets both writes in, as one commit of one revision."""
    live, function, a, b = live_of()
    answer = live.assign([setting("a", [3, 3]), setting("b", [4, 4])], check=CHECK)
    assert answer.header.revision == live.header.revision == 1
    assert (a.array.tolist(), b.array.tolist()) == ([3, 3], [4, 4])
    assert function.runs == 1


def test_values_that_do_not_pass_change_nothing() -> None:
    """A boolean output that is false refuses the commit, with the outputs; no revision moves."""
    live, _, a, _ = live_of()
    with pytest.raises(RequestError, match="largest = 101") as failed:
        live.assign([setting("a", [100, 0])], check=CHECK)
    assert failed.value.reason is Reason.CHECK_FAILED
    assert failed.value.metadata["output/ok"] == "False"
    assert live.header.revision == 0
    assert a.array.tolist() == [1, 2]


@pytest.mark.parametrize(("count", "shown"), [(8, str([0.0] * 8)), (9, "float32 [9]")])
def test_outputs_are_shown_as_far_as_they_are_short(count: int, shown: str) -> None:
    """Of a longer one dtype and shape, and of many outputs the first ones."""
    outputs = {"ok": False} | {f"out{n}": np.zeros(count, np.float32) for n in range(20)}
    live, *_ = live_of(lambda **_: outputs)
    with pytest.raises(RequestError) as failed:
        live.assign([setting("a", [100, 0])], check=CHECK)
    assert failed.value.metadata["output/out0"] == shown
    assert len([key for key in failed.value.metadata if key.startswith("output/")]) == 16


def test_a_check_that_fails_refuses() -> None:
    """A function that raises refuses the commit, with what it said."""

    def broken(**_: Any) -> dict[str, Any]:
        raise FunctionFailed("function 'judge' failed: weights are not finite")

    live, _, a, _ = live_of(broken)
    with pytest.raises(RequestError, match="weights are not finite") as failed:
        live.assign([setting("a", [100, 0])], check=CHECK)
    assert failed.value.reason is Reason.CHECK_FAILED
    assert a.array.tolist() == [1, 2]


@pytest.mark.parametrize("in_place", [False, True])
def test_the_check_sees_regions_and_sums(in_place: bool) -> None:
    """What it sees is the whole value after the writes, whatever they write of it."""
    seen: list[list[float]] = []

    def look(limit: Any, a: Any) -> dict[str, Any]:
        seen.append(a.tolist())
        return {"ok": True}

    a = FakeVariable("a", of([1, 2, 3]), in_place=in_place)
    live = LiveModel(FakeModel([a], [Checking(look, ("a",))]))
    live.assign([setting("a", [9], region=Rows(np.array([1])))], check=CHECK)
    live.assign([Write("a", Operation.ADD, of([1, 1, 1]))], check=CHECK)
    assert seen == [[1, 9, 3], [2, 10, 4]]
    assert a.array.tolist() == [2, 10, 4]


def test_a_check_needs_room_for_the_wholes_that_it_looks_at() -> None:
    """Of a variable that is written in place: a copy of what is there, and the one it will be."""
    live, function = large_of(room=16 * MIB - 1)
    row = setting("a", [1], region=Rows(np.array([0])))
    with pytest.raises(OutOfMemory, match=f"the check by function 'judge' needs {16 * MIB} bytes"):
        live.assign([row], check=CHECK)
    assert (function.runs, live.header.revision) == (0, 0)
    live, function = large_of(room=16 * MIB)
    live.assign([setting("a", [1], region=Rows(np.array([0])))], check=CHECK)
    assert (function.runs, live.header.revision, live.memory.host.reserved) == (1, 1, 0)


def large_of(*, room: int) -> tuple[LiveModel, Checking]:
    a = FakeVariable("a", np.zeros(2 * MIB, np.float32), in_place=True)
    function = Checking(lambda **_: {"ok": True}, ("a",))
    memory = MemoryBudget("host", lambda: Room(room, 100 * MIB), 0)
    return LiveModel(FakeModel([a], [function]), host_memory=memory), function


def test_what_was_overtaken_is_checked_again() -> None:
    """Somebody writes what the check looked at before the commit: it is checked with that."""
    live, _, a, _ = live_of()

    def interfering(limit: Any, a: Any, b: Any) -> dict[str, Any]:
        if live.header.revision == 0:
            live.assign([setting("b", [50, 50])])
        return below(limit, a, b)

    function = live._parts.functions.find("judge")
    assert isinstance(function, Checking)
    function.judge = interfering
    with pytest.raises(RequestError) as failed:
        live.assign([setting("a", [3, 3])], check=CHECK)
    assert failed.value.reason is Reason.CHECK_FAILED
    assert function.runs == 2
    assert a.array.tolist() == [1, 2]


def test_a_check_that_is_always_overtaken_gives_up() -> None:
    """Others write before each commit: after some attempts the commit is given up, undone."""
    live, function, a, _ = live_of()

    def interfering(limit: Any, a: Any, b: Any) -> dict[str, Any]:
        live.assign([setting("b", [1, 1])])
        return {"ok": True}

    function.judge = interfering
    with pytest.raises(RequestError) as failed:
        live.assign([setting("a", [3, 3])], check=CHECK)
    assert failed.value.reason is Reason.REVISION_MISMATCH
    assert a.array.tolist() == [1, 2]


def test_a_check_looks_only_at_what_has_a_value() -> None:
    """A variable that it reads and that has none is named; one that the write sets has one."""
    a, b = FakeVariable("a", of([1, 2])), FakeVariable("b", None, shape=(2,))
    function = Checking(below, ("a", "b"))
    live = LiveModel(FakeModel([a, b], [function]))
    with pytest.raises(RequestError) as failed:
        live.assign([setting("a", [3, 3])], check=CHECK)
    assert failed.value.reason is Reason.VARIABLE_UNINITIALIZED
    assert (function.runs, a.array.tolist()) == (0, [1, 2])
    live.assign([setting("b", [3, 3])], check=CHECK)
    assert function.runs == 1


def test_a_request_that_was_done_is_not_checked_again() -> None:
    """The same request gets its first answer, though the check would not pass any more."""
    live, function, _, _ = live_of()
    request = WriteRequest("r", b"")
    first = live.assign([setting("a", [3, 3])], check=CHECK, request=request)
    function.judge = lambda **_: {"ok": False}
    again = live.assign([setting("a", [3, 3])], check=CHECK, request=request)
    assert (again.header, function.runs) == (first.header, 1)


def test_a_function_that_cannot_be_looked_into_is_no_check() -> None:
    """A plain fake, unknown functions and wrong inputs are refused before anything runs."""
    a = FakeVariable("a", of([1, 2]))
    live = LiveModel(FakeModel([a], [FakeFunction("plain", dict)]))
    for check, reason in (
        (Check("plain"), Reason.INSPECTION_UNSUPPORTED),
        (Check("nothing"), Reason.FUNCTION_NOT_FOUND),
        (Check("plain", {"x": of(1)}), Reason.INPUT_MISMATCH),
    ):
        with pytest.raises(RequestError) as failed:
            live.assign([setting("a", [3, 3])], check=check)
        assert failed.value.reason is reason
    assert a.array.tolist() == [1, 2]
