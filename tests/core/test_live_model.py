"""What LiveModel promises, on a numpy model: no TensorFlow, no sockets."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.waiting import until
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Conditions, Read

SET, ADD, SUB = Operation.SET, Operation.ADD, Operation.SUB
SCALAR = TensorSpec("float32", ())


def array(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def value_of(live: LiveModel, name: str) -> np.ndarray[Any, Any]:
    (entry,) = live.read([Read(name)]).entries
    assert entry.value is not None
    return entry.value.numpy()


def refusal(call: Any, *args: Any, **kwargs: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(*args, **kwargs)
    return caught.value


def two(in_place: bool = False) -> tuple[LiveModel, FakeVariable, FakeVariable]:
    a = FakeVariable("a", array(1, 2, 3), in_place=in_place)
    b = FakeVariable("b", array(10, 20), in_place=in_place)
    return LiveModel(FakeModel([a, b])), a, b


def test_a_commit_moves_the_revision_of_the_model_and_of_what_it_wrote() -> None:
    """A commit moves the model's revision by one, and that of the variables it wrote alone."""
    live, *_ = two()
    answer = live.assign([Write("a", SET, array(4, 5, 6))])
    revisions = {v.spec.name: v.revision for v in live.describe().variables}
    assert (answer.header.revision, live.header.revision, revisions) == (1, 1, {"a": 1, "b": 0})


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("operation", "region", "value", "expected"),
    [
        (SET, None, array(4, 5, 6), [4, 5, 6]),
        (ADD, None, array(4, 5, 6), [5, 7, 9]),
        (SUB, None, array(1, 1, 1), [0, 1, 2]),
        (SET, Slices((Slice(0, 3, 2),)), array(7, 8), [7, 2, 8]),
        (ADD, Slices((Slice(1, 2),)), array(5), [1, 7, 3]),
        (SET, Rows(np.array([2, 0])), array(7, 8), [8, 2, 7]),
        (ADD, Rows(np.array([1, 1, 0])), array(1, 2, 3), [4, 5, 3]),
        (SUB, Rows(np.array([1, 1])), array(1, 1), [1, 0, 3]),
        (SET, Rows(np.array([], np.int64)), array(), [1, 2, 3]),
    ],
)
def test_every_operation_on_every_region(
    in_place: bool, operation: Operation, region: Any, value: Any, expected: list[float]
) -> None:
    """SET, ADD and SUB do to a region what numpy does, however the variable is written."""
    live, *_ = two(in_place)
    live.assign([Write("a", operation, value, region)])
    assert value_of(live, "a").tolist() == expected


@pytest.mark.parametrize("in_place", [False, True])
def test_writes_of_one_commit_are_applied_in_order(in_place: bool) -> None:
    """Several writes to one variable in a commit see what those before them did."""
    live, *_ = two(in_place)
    live.assign(
        [
            Write("a", ADD, array(1, 1, 1)),
            Write("a", SET, array(50), Slices((Slice(1, 2),))),
            Write("a", ADD, array(1, 1), Rows(np.array([1, 2]))),
        ]
    )
    assert value_of(live, "a").tolist() == [2, 51, 5]
    assert live.header.revision == 1


def test_many_regions_of_one_commit_are_laid_over_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A copy of the whole for each would keep a thread for minutes, whatever the deadline is."""
    live, a, _ = two()
    copies = []
    overlay = a.overlay
    monkeypatch.setattr(a, "overlay", lambda *of: copies.append(1) or overlay(*of))
    kept = value_of(live, "a")
    regions = [Slices((Slice(n % 2, n % 2 + 1),)) for n in range(1000)]
    live.assign(
        [Write("a", SET if n < 500 else ADD, array(n), each) for n, each in enumerate(regions)]
        + [Write("a", ADD, array(1, 1, 1)), Write("a", SET, array(9), Rows(np.array([2])))]
    )
    added = [sum(range(500 + n, 1000, 2)) for n in range(2)]
    assert value_of(live, "a").tolist() == [498 + added[0] + 1, 499 + added[1] + 1, 9]
    assert kept.tolist() == [1, 2, 3]
    assert len(copies) <= 4


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_commit_that_fails_half_way_changes_nothing(in_place: bool, failing: int) -> None:
    """When a write of a commit fails, those before it are taken back and no revision moves."""
    live, a, b = two(in_place)
    (a, b)[failing].fail_after = 0
    error = refusal(live.assign, [Write("a", SET, array(7, 7, 7)), Write("b", SET, array(8, 8))])
    assert error.reason is Reason.OUT_OF_MEMORY
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == ([1, 2, 3], [10, 20])
    assert [v.revision for v in live.describe().variables] == [0, 0]
    assert live.header.revision == 0


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (Write("nope", SET, array(1)), Reason.VARIABLE_NOT_FOUND),
        (Write("a", SET, array(1)), Reason.SHAPE_MISMATCH),
        (Write("a", ADD, np.float32(1) * np.ones(())), Reason.DTYPE_MISMATCH),
        (Write("a", SET, array(1), Slices((Slice(0, 9),))), Reason.REGION_INVALID),
        (Write("a", SET, array(1), Slices((Slice(2, 1),))), Reason.REGION_INVALID),
        (Write("a", SET, array(1), Slices((Slice(), Slice()))), Reason.REGION_INVALID),
        (Write("a", SET, array(1), Slices((Slice(0, 3, -1),))), Reason.REGION_INVALID),
        (Write("a", SET, array(1), Rows(np.array([3]))), Reason.REGION_INVALID),
        (Write("a", SET, array(1), Rows(np.array([-1]))), Reason.REGION_INVALID),
        (Write("a", SET, array(1, 2), Rows(np.array([1, 1]))), Reason.REGION_INVALID),
        (Write("a", SET, array(1, 2), Rows(np.array([1]))), Reason.SHAPE_MISMATCH),
        (Write("flag", ADD, np.array(True)), Reason.OPERATION_UNSUPPORTED),
        (Write("empty", ADD, array(1)), Reason.VARIABLE_UNINITIALIZED),
        (Write("empty", SET, array(1), Slices(())), Reason.VARIABLE_UNINITIALIZED),
        (Write("a", SET, array(1, 2, 3), None, 5), Reason.REVISION_MISMATCH),
    ],
)
def test_a_bad_write_is_refused_and_takes_the_good_one_with_it(
    write: Write, reason: Reason
) -> None:
    """A write that does not fit has its reason, and nothing else of its commit happens."""
    live = LiveModel(
        FakeModel(
            [
                FakeVariable("a", array(1, 2, 3)),
                FakeVariable("good", array(1)),
                FakeVariable("flag", np.array(True)),
                FakeVariable("empty", None, shape=(1,)),
            ]
        )
    )
    error = refusal(live.assign, [Write("good", SET, array(2)), write])
    assert error.reason is reason
    assert (value_of(live, "good").tolist(), live.header.revision) == ([1], 0)


def test_a_set_gives_an_uninitialized_variable_its_value() -> None:
    """A variable without a value cannot be read, is given one by SET, and then can."""
    live = LiveModel(FakeModel([FakeVariable("empty", None, shape=(None,))]))
    assert refusal(live.read, [Read("empty")]).reason is Reason.VARIABLE_UNINITIALIZED
    live.assign([Write("empty", SET, array(1, 2))])
    assert value_of(live, "empty").tolist() == [1, 2]


def test_a_name_that_fits_two_variables_is_refused_with_both_paths() -> None:
    """An ambiguous name lists the paths, and each path is accepted."""
    live = LiveModel(
        FakeModel(
            [
                FakeVariable("v", array(1), path="left/v"),
                FakeVariable("v", array(2), path="right/v"),
            ]
        )
    )
    error = refusal(live.read, [Read("v")])
    assert error.reason is Reason.NAME_AMBIGUOUS
    assert "left/v, right/v" in error.message
    assert value_of(live, "right/v").tolist() == [2]


def test_a_snapshot_holds_what_was_there_when_it_was_taken() -> None:
    """Values of a snapshot do not change when their variables are written."""
    for in_place in (False, True):
        live, *_ = two(in_place)
        snapshot = live.read([Read("a"), Read("b"), Read("a", Rows(np.array([1])))])
        live.assign([Write("a", SET, array(7, 7, 7)), Write("b", ADD, array(1, 1))])
        held = [entry.value.numpy().tolist() for entry in snapshot.entries if entry.value]
        assert held == [[1, 2, 3], [10, 20], [2]]


def test_if_newer_than_leaves_out_what_was_not_written_since() -> None:
    """A read conditional on a revision carries a value only if that variable was written since."""
    live, *_ = two()
    live.assign([Write("a", SET, array(4, 5, 6))])

    def has_value(name: str, revision: int, epoch: str = "") -> bool:
        (entry,) = live.read([Read(name)], if_newer_than=revision, epoch=epoch).entries
        return entry.value is not None

    epoch = live.header.epoch
    assert [has_value("a", 0), has_value("a", 1), has_value("b", 0)] == [True, False, False]
    assert [has_value("a", 1, epoch), has_value("a", 1, "another")] == [False, True]


def test_conditions_on_the_model() -> None:
    """A write conditional on revision or epoch happens only then, and the error has the present."""
    live, *_ = two()
    write = [Write("a", SET, array(4, 5, 6))]
    error = refusal(live.assign, write, conditions=Conditions(model_revision=3))
    assert (error.reason, error.metadata["current_revision"]) == (Reason.REVISION_MISMATCH, "0")
    error = refusal(live.assign, write, conditions=Conditions(epoch="another"))
    assert error.reason is Reason.EPOCH_MISMATCH
    assert live.header.revision == 0
    live.assign(write, conditions=Conditions(0, live.header.epoch))
    assert live.header.revision == 1


def test_a_request_that_comes_again_is_not_done_again() -> None:
    """The same request id gets its first answer, and another payload under it is refused."""
    live, *_ = two()
    request = WriteRequest("r1", b"payload")
    first = live.assign([Write("a", ADD, array(1, 1, 1))], request=request, read_back=Read("a"))
    again = live.assign([Write("a", ADD, array(1, 1, 1))], request=request, read_back=Read("a"))
    assert again is first
    assert value_of(live, "a").tolist() == [2, 3, 4]
    error = refusal(
        live.assign, [Write("a", SET, array(0, 0, 0))], request=WriteRequest("r1", b"other")
    )
    assert error.reason is Reason.REQUEST_ID_REUSED


def test_what_was_read_back_is_what_the_write_left() -> None:
    """Reading back gives the value after the write; too large a one fails the whole write."""
    live, *_ = two()
    answer = live.assign([Write("a", ADD, array(1, 1, 1))], read_back=Read("a"))
    assert answer.values["a"].numpy().tolist() == [2, 3, 4]
    error = refusal(
        live.assign,
        [Write("a", ADD, array(1, 1, 1))],
        read_back=Read("a"),
        max_read_back_bytes=11,
    )
    assert error.reason is Reason.MESSAGE_TOO_LARGE
    assert (value_of(live, "a").tolist(), live.header.revision) == ([2, 3, 4], 1)


def test_a_request_that_comes_again_gets_its_answer_though_it_would_not_fit_any_more() -> None:
    """A variable of any size may have another one by now, and memory may be short."""
    free = FakeVariable("free", array(1, 2), shape=(None,))
    big = FakeVariable("big", np.zeros(2**21, np.float32))
    available = [2**30]
    memory = MemoryBudget("host", lambda: Room(available[0], 2**30))
    live = LiveModel(FakeModel([free, big]), host_memory=memory)
    add = [Write("free", ADD, array(1, 1))]
    region = [Write("big", SET, array(1), Rows(np.array([5])))]
    first = live.assign(add, request=WriteRequest("add", b"1")).header
    second = live.assign(region, request=WriteRequest("region", b"2")).header
    live.assign([Write("free", SET, array(1, 2, 3))])
    available[0] = 0
    assert live.assign(add, request=WriteRequest("add", b"1")).header == first
    assert live.assign(region, request=WriteRequest("region", b"2")).header == second
    assert refusal(live.assign, add).reason is Reason.SHAPE_MISMATCH
    again = refusal(live.assign, add, request=WriteRequest("add", b"other"))
    assert again.reason is Reason.REQUEST_ID_REUSED
    assert refusal(live.assign, region).reason is Reason.OUT_OF_MEMORY


def test_a_change_that_was_overtaken_is_worked_out_again() -> None:
    """An addition worked out before the lock starts from what another commit left meanwhile."""
    a = FakeVariable("a", array(1))
    live = LiveModel(FakeModel([a]))
    combine, overtaken = a.combine, []

    def overtake(*args: Any) -> Any:
        result = combine(*args)
        if not overtaken:
            overtaken.append(True)
            live.assign([Write("a", SET, array(100))])
        return result

    a.combine = overtake  # type: ignore[method-assign]
    live.assign([Write("a", ADD, array(1))])
    assert (value_of(live, "a").tolist(), live.header.revision) == ([101], 2)


def writing_function(a: FakeVariable, b: FakeVariable) -> FakeFunction:
    def call(x: Any) -> dict[str, Any]:
        a.array = a.array + x
        if x < 0:
            raise ArithmeticError("x is negative")
        b.array = b.array + x
        return {"sum": np.float32(a.array.sum() + b.array.sum()) * np.ones((), np.float32)}

    return FakeFunction(
        "shift", call, inputs={"x": SCALAR}, outputs={"sum": SCALAR}, writes=("a", "b")
    )


def test_a_function_that_writes_is_a_commit() -> None:
    """A run of a writing function moves the revision of the model and of its write set."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b], [writing_function(a, b)]))
    answer = live.run("shift", {"x": np.ones((), np.float32)}, {})
    assert (answer.header.revision, answer.values["sum"].numpy().item()) == (1, 41)
    assert [v.revision for v in live.describe().variables] == [1, 1]


def test_a_function_that_fails_half_way_changes_nothing() -> None:
    """What a function wrote before it failed is taken back."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b], [writing_function(a, b)]))
    error = refusal(live.run, "shift", {"x": -np.ones((), np.float32)}, {})
    assert error.reason is Reason.FUNCTION_FAILED
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == ([1, 2, 3], [10, 20])
    assert live.header.revision == 0


def test_a_function_whose_outputs_are_too_large_changes_nothing() -> None:
    """Outputs beyond the limit undo the writes of the run that made them."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b], [writing_function(a, b)]))
    error = refusal(live.run, "shift", {"x": np.ones((), np.float32)}, {}, max_output_bytes=3)
    assert error.reason is Reason.MESSAGE_TOO_LARGE
    assert (value_of(live, "a").tolist(), live.header.revision) == ([1, 2, 3], 0)


def test_a_run_that_comes_again_is_not_done_again() -> None:
    """A writing function with a request id runs once."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b], [writing_function(a, b)]))
    x = {"x": np.ones((), np.float32)}
    request = WriteRequest("r", b"")
    assert live.run("shift", x, {}, request=request) is live.run("shift", x, {}, request=request)
    assert value_of(live, "a").tolist() == [2, 3, 4]


def test_readers_share_and_a_waiting_writer_goes_before_later_readers() -> None:
    """Functions that only read run side by side; a writer that waits is not overtaken for ever."""
    gate = Gate()

    def wait() -> dict[str, Any]:
        gate()
        return {}

    a = FakeVariable("a", array(1))
    live = LiveModel(FakeModel([a], [FakeFunction("wait", wait)]))
    order: list[str] = []
    threads = [threading.Thread(target=live.run, args=("wait", {}, {}))]
    threads[0].start()
    assert gate.reached.wait(60)
    assert value_of(live, "a").tolist() == [1]  # beside the function that runs

    def write() -> None:
        live.assign([Write("a", SET, array(2))])
        order.append("write")

    def read() -> None:
        assert value_of(live, "a").tolist() == [2]
        order.append("read")

    threads.append(threading.Thread(target=write))
    threads[-1].start()
    until(lambda: live._parts.lock._writers_waiting)
    threads.append(threading.Thread(target=read))
    threads[-1].start()
    gate.opened.set()
    for thread in threads:
        thread.join(60)
    assert order == ["write", "read"]


def test_a_deadline_that_passes_while_waiting_changes_nothing() -> None:
    """A writer that cannot have the lock in time says so, and later readers are not held up."""
    gate = Gate()

    def wait() -> dict[str, Any]:
        gate()
        return {}

    a = FakeVariable("a", array(1))
    live = LiveModel(FakeModel([a], [FakeFunction("wait", wait)]))
    thread = threading.Thread(target=live.run, args=("wait", {}, {}))
    thread.start()
    assert gate.reached.wait(60)
    error = refusal(live.assign, [Write("a", SET, array(2))], deadline=time.monotonic() + 0.05)
    assert error.reason is Reason.DEADLINE_EXCEEDED
    assert value_of(live, "a").tolist() == [1]
    gate.opened.set()
    thread.join(60)


def test_header_unless_written() -> None:
    """A reader that knows a variable learns at once whether it still does, even beside a write."""
    v, gate = FakeVariable("v", np.zeros((2, 1), np.float32), in_place=True), Gate()
    live = LiveModel(FakeModel([v, FakeVariable("w", np.zeros(1, np.float32))]))
    assert live.header_unless_written("v", since=0) == live.header
    live.assign([Write("w", Operation.SET, np.ones(1, np.float32))])
    found = live.header_unless_written("v", since=0)
    assert found is not None
    assert found.revision == 1
    assert live.header_unless_written("w", since=0) is None
    v.between_rows = gate
    writer = threading.Thread(
        target=live.assign, args=[[Write("v", Operation.SET, np.ones((2, 1), np.float32))]]
    )
    writer.start()
    assert gate.reached.wait(60)
    assert live.header_unless_written("w", since=1) is None
    gate.opened.set()
    writer.join(60)
    assert live.header_unless_written("v", since=0) is None
    assert live.header_unless_written("v", since=2) is not None


def test_history_is_bounded_as_asked() -> None:
    """A model that is given a history keeps that one, however empty, and so no more than it may."""
    history = History(max_commits=2, max_bytes=2**20)
    live = LiveModel(FakeModel([FakeVariable("v", np.zeros(1, np.float32))]), history=history)
    for _ in range(5):
        live.assign([Write("v", Operation.SET, np.ones(1, np.float32))])
    assert [commit.revision for commit in history.after(0)] == [4, 5]
    assert (history.reaches(3), history.reaches(2)) == (True, False)
