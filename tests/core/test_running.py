"""What a run gives: the outputs that are asked for, within a bound, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import refusal, value_of
from tests.fakes import FakeFunction, FakeModel, FakeRun, FakeVariable
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import partwise
from varserve_service.core.errors import Reason
from varserve_service.core.model import running
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.function_messages import (
    FunctionMessage,
    MessageKind,
    MessageListener,
)
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Read

SAID = FunctionMessage(MessageKind.PRINT, "PrintV2", (), "hello")


class Printing(FakeFunction):
    """A function that prints a line at each run, and may write a variable."""

    def __init__(self, variable: FakeVariable, *, writes: bool) -> None:
        def call() -> dict[str, Any]:
            if writes:
                assert variable.array is not None
                variable.array = variable.array + 1
            return {"a": np.zeros(3, np.float32), "b": np.zeros(1, np.int64)}

        outputs = {"a": TensorSpec("float32", None), "b": TensorSpec("int64", (1,))}
        super().__init__("f", call, outputs=outputs, writes=("v",) if writes else ())
        self.heard = 0

    def stage(
        self, overload: int, inputs: Mapping[str, Any], on_message: MessageListener | None = None
    ) -> FakeRun:
        def call() -> dict[str, Any]:
            if on_message is not None:
                self.heard += 1
                on_message(SAID)
            return self._call()

        return FakeRun(self, call)


def model(*, writes: bool) -> tuple[LiveModel, Printing]:
    variable = FakeVariable("v", np.zeros(2, np.float32))
    function = Printing(variable, writes=writes)
    return LiveModel(FakeModel([variable], [function])), function


def names(answer: Any) -> list[str]:
    return list(answer.values)


@pytest.mark.parametrize("writes", [False, True])
def test_the_outputs_that_are_asked_for(writes: bool) -> None:
    """In the order of the request; all of them where none is named."""
    live, _ = model(writes=writes)
    assert names(live.run("f", {}, {})) == ["a", "b"]
    assert names(live.run("f", {}, {}, outputs=("b", "a"))) == ["b", "a"]
    assert names(live.run("f", {}, {}, outputs=("b",))) == ["b"]
    error = refusal(live.run, "f", {}, {}, outputs=("b", "c"))
    assert error.reason is Reason.INPUT_MISMATCH
    assert error.message.endswith("no output 'c'; expected outputs: a, b")
    assert live.header.revision == (3 if writes else 0)


@pytest.mark.parametrize("writes", [False, True])
def test_outputs_have_a_bound(writes: bool) -> None:
    """As large as it is they are given; a byte more is refused, and nothing is written."""
    live, _ = model(writes=writes)
    live.run("f", {}, {}, max_output_bytes=20)
    live.run("f", {}, {}, outputs=("a",), max_output_bytes=12)
    revision = live.header.revision
    for options in ({"max_output_bytes": 19}, {"outputs": ("a",), "max_output_bytes": 11}):
        error = refusal(live.run, "f", {}, {}, **options)
        assert error.reason is Reason.MESSAGE_TOO_LARGE
        assert f"at most {options['max_output_bytes']} in" in error.message
    assert live.header.revision == revision


@pytest.mark.parametrize("writes", [False, True])
def test_what_is_printed_goes_to_who_asks(writes: bool) -> None:
    """It counts with the outputs; a request that comes again runs nothing and prints nothing."""
    live, function = model(writes=writes)
    request = WriteRequest("r", b"")
    assert live.run("f", {}, {}).messages == ()
    assert function.heard == 0
    answer = live.run("f", {}, {}, messages=True, request=request)
    assert (answer.messages, names(answer)) == ((SAID,), ["a", "b"])
    again = live.run("f", {}, {}, messages=True, request=request)
    assert again.messages == (() if writes else (SAID,))
    size = 20 + 4 * len("hello") + len("PrintV2") + 64
    assert live.run("f", {}, {}, messages=True, max_output_bytes=size).messages == (SAID,)
    error = refusal(live.run, "f", {}, {}, messages=True, max_output_bytes=size - 1)
    assert error.reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("elements", [7, 8])
def test_a_function_may_give_a_variable_its_first_value(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    """Large or small, written in place or not: there is nothing to copy, and to put back."""
    monkeypatch.setattr(partwise, "PART_BYTES", 28)
    variables = [
        FakeVariable(name, None, shape=(None,), in_place=name == "table")
        for name in ("table", "plain")
    ]

    def fill() -> dict[str, Any]:
        for variable in variables:
            variable.array = np.ones(elements, np.float32)
        return {}

    function = FakeFunction("fill", fill, writes=("table", "plain"))
    live = LiveModel(FakeModel(list(variables), [function]))
    assert live.run("fill", {}, {}).header.revision == 1
    assert value_of(live, "table").tolist() == value_of(live, "plain").tolist() == [1] * elements
    assert live.run("fill", {}, {}).header.revision == 2
    events = live.timeline.watch(0).events
    first, second = ([c.previous is None for c in event.changes] for event in events)
    assert (first, second) == ([True, True], [False, False])


def test_a_function_reads_only_what_has_a_value() -> None:
    """It is refused before it runs."""
    ran: list[int] = []

    def look() -> dict[str, Any]:
        ran.append(1)
        return {}

    function = FakeFunction("look", look, reads=("v",))
    live = LiveModel(FakeModel([FakeVariable("v", None, shape=(2,))], [function]))
    assert refusal(live.run, "look", {}, {}).reason is Reason.VARIABLE_UNINITIALIZED
    assert ran == []


@pytest.mark.parametrize("rows", [[1], [0, 2], [], None])
def test_what_is_put_back_is_what_was_there_when_it_began(
    monkeypatch: pytest.MonkeyPatch, rows: list[int] | None
) -> None:
    """A large table is copied beforehand; what others wrote meanwhile is in the copy, too.

    `rows`: which of them; none: nothing; None: the whole.
    """
    monkeypatch.setattr(partwise, "PART_BYTES", 8)
    table = FakeVariable("table", np.zeros((3, 2), np.float32), in_place=True)

    def fail() -> dict[str, Any]:
        assert table.array is not None
        table.array[:] = 99
        raise ArithmeticError("it fails")

    live = LiveModel(FakeModel([table], [FakeFunction("fail", fail, writes=("table",))]))
    copy = running.EarlierCopy.__init__
    expected = np.zeros((3, 2), np.float32)

    def overtaken(self: Any, *arguments: Any) -> None:
        copy(self, *arguments)
        if rows == []:
            return
        region = None if rows is None else Rows(np.array(rows))
        value = np.full((3 if rows is None else len(rows), 2), 7, np.float32)
        expected[slice(None) if rows is None else rows] = value
        live.assign([Write("table", Operation.SET, value, region)])

    monkeypatch.setattr(running.EarlierCopy, "__init__", overtaken)
    assert refusal(live.run, "fail", {}, {}).reason is Reason.FUNCTION_FAILED
    assert value_of(live, "table").tolist() == expected.tolist()
    assert live.header.revision == (0 if rows == [] else 1)


class Scattering(FakeFunction):
    """Writes rows of a table, and knows which beforehand, and some that the table does not have."""

    def __init__(
        self, table: FakeVariable, rows: list[int], *, fails: bool = False, name: str = "table"
    ) -> None:
        def call() -> dict[str, Any]:
            assert table.array is not None
            table.array[rows] = 7
            if fails:
                raise ArithmeticError("it fails")
            return {}

        super().__init__("scatter", call, writes=(name,))
        overload = replace(self.spec.overloads[0], writes_rows=(name,))
        self.spec = replace(self.spec, overloads=(overload,))
        self._name = name
        self._rows = np.array([*rows, -1, 99], np.int64)

    def stage(self, *arguments: Any) -> FakeRun:
        run = super().stage(*arguments)
        run.written_rows = lambda: {self._name: self._rows}  # type: ignore[attr-defined]
        return run


@pytest.mark.parametrize("part_bytes", [8, 2**20])
@pytest.mark.parametrize("fails", [False, True])
def test_a_function_that_writes_known_rows_replaces_those_alone(
    monkeypatch: pytest.MonkeyPatch, part_bytes: int, fails: bool
) -> None:
    """Of a large table: they are put back if it fails, and are what the history has of it."""
    monkeypatch.setattr(partwise, "PART_BYTES", part_bytes)
    table = FakeVariable("table", np.zeros((6, 2), np.float32), in_place=True)
    live = LiveModel(FakeModel([table], [Scattering(table, [1, 5], fails=fails)]))
    read = table.read
    taken: list[int] = []

    def reading(region: Any = None) -> Any:
        value = read(region)
        taken.append(value.shape[0])
        return value

    monkeypatch.setattr(table, "read", reading)
    if fails:
        assert refusal(live.run, "scatter", {}, {}).reason is Reason.FUNCTION_FAILED
        assert (value_of(live, "table").sum(), live.header.revision) == (0, 0)
        return
    assert live.run("scatter", {}, {}).header.revision == 1
    large = part_bytes == 8
    assert max(taken) == (2 if large else 6)
    expected = [[0, 0], [7, 7], [0, 0], [0, 0], [0, 0], [7, 7]]
    assert value_of(live, "table").tolist() == expected
    (event,) = live.timeline.watch(0).events
    (change,) = event.changes
    assert isinstance(change.region, Rows) is large
    (before,) = live.timeline.read([Read("table")], 0).entries
    assert before.value is not None
    assert before.value.numpy().sum() == 0
    live.revert(0)
    assert value_of(live, "table").sum() == 0


@pytest.mark.parametrize(("written", "by_rows"), [(2, True), (3, False)])
def test_a_function_that_left_half_of_the_rows_as_they_were_wrote_the_others(
    monkeypatch: pytest.MonkeyPatch, written: int, by_rows: bool
) -> None:
    """Where it wrote more than half of a large table, it wrote the whole."""
    monkeypatch.setattr(partwise, "PART_BYTES", 8)
    table = FakeVariable("table", np.zeros((4, 2), np.float32), in_place=True)

    def change() -> dict[str, Any]:
        assert table.array is not None
        table.array[:written] = 1
        return {}

    live = LiveModel(FakeModel([table], [FakeFunction("change", change, writes=("table",))]))
    live.run("change", {}, {})
    (event,) = live.timeline.watch(0).events
    assert isinstance(event.changes[0].region, Rows) is by_rows


@pytest.mark.parametrize("in_place", [False, True])
def test_a_function_may_write_what_has_no_rows(in_place: bool) -> None:
    """Scalars and strings are kept as wholes, whatever is written to them later."""
    scalar = FakeVariable("scalar", np.zeros((), np.int64), in_place=in_place)
    words = FakeVariable("words", np.array([b"a", b"b"], object), in_place=in_place)

    def change() -> dict[str, Any]:
        scalar.array = np.array(5, np.int64)
        words.array = np.array([b"long", b"er"], object)
        return {}

    function = FakeFunction("change", change, writes=("scalar", "words"))
    live = LiveModel(FakeModel([scalar, words], [function]))
    assert live.run("change", {}, {}).header.revision == 1
    live.assign([Write("scalar", Operation.SET, np.array(9, np.int64))])
    (event, _) = live.timeline.watch(0).events
    told = [change.value.value.numpy().tolist() for change in event.changes if change.value.value]
    assert told == [5, [b"long", b"er"]]
    live.revert(0)
    assert (int(value_of(live, "scalar")), value_of(live, "words").tolist()) == (0, [b"a", b"b"])
