"""What is asked before a value is taken, what a read gives, and what is known without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import SET, array, refusal, two, value_of
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change import changes
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import partwise
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.input_bounds import InputBounds
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind
from varserve_service.core.ports.loaded_model import Operation, TensorSpec, Variable
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.host_value import HostValue

ROW = Rows(np.array([1]))


class Asked:
    """What was asked of `admit`."""

    def __init__(self) -> None:
        self.of: list[tuple[str, tuple[int, ...], bool]] = []

    def __call__(self, spec: Any, read: Read, shape: tuple[int, ...], copied: bool) -> None:
        self.of.append((spec.name, shape, copied))
        if spec.name == "no":
            raise RequestError(Reason.OUT_OF_MEMORY, "no")


def model() -> LiveModel:
    values = np.zeros((4, 2), np.float32)
    return LiveModel(
        FakeModel(
            [
                FakeVariable("plain", values.copy()),
                FakeVariable("table", values.copy(), in_place=True),
                FakeVariable("large", values.copy(), in_place=True),
                FakeVariable("no", values.copy()),
                FakeVariable("unset", None, shape=(2,)),
            ]
        )
    )


@pytest.mark.parametrize("past", [False, True])
def test_each_value_is_admitted_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, past: bool
) -> None:
    """With its shape, and whether it is a copy: a region, and a whole that is written in place."""
    live, asked = model(), Asked()
    # One variable alone is read by parts, and needs no copy.
    monkeypatch.setattr(partwise, "PART_BYTES", 31)
    monkeypatch.setattr(live._parts.by_path["table"], "writes_in_place", True)
    large = live._parts.by_path["large"]

    def is_large(variable: Variable) -> bool:
        return variable is large

    for place in ("model.reading", "model.timeline"):
        monkeypatch.setattr(f"varserve_service.core.{place}.is_large", is_large)

    def read(*reads: Read) -> Any:
        asked.of.clear()
        if past:
            return live.timeline.read(reads, 0, admit=asked)
        return live.read(reads, admit=asked)

    read(Read("plain", ROW), Read("table", Slices((Slice(1, 3),))), Read("large"))
    assert asked.of == [("plain", (1, 2), True), ("table", (2, 2), True), ("large", (4, 2), False)]
    read(Read("plain"), Read("table"))
    assert asked.of == [("plain", (4, 2), past), ("table", (4, 2), True)]
    with pytest.raises(RequestError) as refused:
        read(Read("plain"), Read("no"), Read("table"))
    assert refused.value.reason is Reason.OUT_OF_MEMORY
    assert [name for name, *_ in asked.of] == ["plain", "no"]
    assert refusal(read, Read("unset")).reason is Reason.VARIABLE_UNINITIALIZED
    wrong = refusal(read, Read("plain", Rows(np.array([4]))))
    assert (wrong.reason, asked.of) == (Reason.REGION_INVALID, [])


def test_what_was_written_since_is_admitted_as_it_was() -> None:
    """The shape of then: it may have been another."""
    live, asked = LiveModel(FakeModel([FakeVariable("a", array(1, 2), shape=(None,))])), Asked()
    live.assign([Write("a", SET, array(1, 2, 3))])
    live.timeline.read([Read("a")], 0, admit=asked)
    assert asked.of == [("a", (2,), True)]


def test_a_value_that_is_not_newer_is_not_admitted() -> None:
    """Nothing of it is taken."""
    live, asked = model(), Asked()
    live.assign([Write("plain", SET, np.ones((4, 2), np.float32))])
    live.read([Read("plain"), Read("no")], if_newer_than=0, admit=asked)
    assert [name for name, *_ in asked.of] == ["plain"]


def test_what_is_known_without_waiting() -> None:
    """Nothing while a writer has the lock; of what was not written, the present state."""
    live, *_ = two()
    live.assign([Write("a", SET, array(4, 5, 6))])
    assert live.header_unless_written("a", since=0) is None
    assert live.header_unless_written("a", since=1) == live.header
    assert live.header_unless_written("b", since=0) == live.header
    with live._parts.lock.exclusive():
        assert live.header_unless_written("b", since=0) is None
        assert live.outline().header == live.header
    with live._parts.lock.exclusive():  # nobody kept it
        pass


def test_an_outline_has_the_shapes_that_cannot_change() -> None:
    """Those of the present value, and what is left out, are told with the lock alone."""
    variables = [
        FakeVariable("fixed", array(1, 2)),
        FakeVariable("dynamic", array(1, 2), shape=(None,)),
        FakeVariable("unset", None, shape=(2,)),
    ]
    live = LiveModel(FakeModel(variables))
    told = {v.spec.name: v.shape for v in live.outline().variables}
    assert told == {"fixed": (2,), "dynamic": None, "unset": None}
    told = {v.spec.name: v.shape for v in live.describe().variables}
    assert told == {"fixed": (2,), "dynamic": (2,), "unset": None}


def test_a_run_is_checked_without_its_values() -> None:
    """Overload and bounds of rank and size; bounds of values wait until they are there."""
    function = FakeFunction("f", lambda x: {}, inputs={"x": TensorSpec("float32", None)})
    live = LiveModel(
        FakeModel([], [function]),
        input_bounds={"f": {"x": InputBounds(max_rank=1, max_value=1.0)}},
    )
    assert live.check_run("f", {"x": array(9)}, {}) == 0
    error = refusal(live.check_run, "f", {"x": array(9).reshape(1, 1)}, {})
    assert "expected a rank of at most 1, found 2" in error.message
    assert refusal(live.run, "f", {"x": array(9)}, {}).reason is Reason.INPUT_MISMATCH


def test_what_loading_set_is_the_first_commit() -> None:
    """Once, with the values that loading left, and not where there are commits."""
    loaded = FakeModel([FakeVariable("a", array(1, 2)), FakeVariable("b", array(3))])
    live = LiveModel(loaded)
    live.keep_what_loading_set()
    assert live.header.revision == 0
    loaded.set_at_load = frozenset({"a"})
    live.keep_what_loading_set()
    live.keep_what_loading_set()
    (commit,) = live.timeline.commits(9).commits
    assert (commit.revision, commit.kind) == (1, CommitKind.ASSIGN)
    assert [write.path for write in commit.writes] == ["a"]
    assert commit.origin.message == "what the SavedModel set when it was loaded"
    assert value_of(live, "a").tolist() == [1, 2]


def test_what_loading_set_may_be_kept_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that came in between is not overwritten; any other failure is told."""
    loaded = FakeModel([FakeVariable("a", array(1, 2))])
    loaded.set_at_load = frozenset({"a"})
    for reason, told in ((Reason.REVISION_MISMATCH, False), (Reason.STATE_STORE_FULL, True)):
        live = LiveModel(loaded)

        def assign(*_: Any, reason: Reason = reason, **more: Any) -> None:
            assert more["conditions"].model_revision == 0
            raise RequestError(reason, "no")

        monkeypatch.setattr(live, "assign", assign)
        if told:
            assert refusal(live.keep_what_loading_set).reason is reason
        else:
            live.keep_what_loading_set()


def test_which_values_are_received_into_memory_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large wholes of what is written in place, where they replace and do not add."""
    monkeypatch.setattr(changes, "_SWAPPED_BYTES", 31)
    live, whole = model(), np.zeros((4, 2), np.float32)
    assert live.swaps(Write("table", SET, whole))
    assert not live.swaps(Write("plain", SET, whole))
    assert not live.swaps(Write("table", Operation.ADD, whole))
    assert not live.swaps(Write("table", SET, whole, Rows(np.arange(4))))
    monkeypatch.setattr(changes, "_SWAPPED_BYTES", 32)
    assert not live.swaps(Write("table", SET, whole))
    blank = live.blank(Write("table", SET, whole))
    assert (blank.shape, blank.dtype) == ((4, 2), np.float32)


def test_values_are_sent_as_other_floats_alone() -> None:
    """At a revision, too, and an answer: what is read back is cast, and bounded as it is sent."""
    live, *_ = two()
    (entry,) = live.read([Read("a", dtype="float64")]).entries
    assert entry.value is not None
    assert entry.value.dtype == "float64"
    error = refusal(live.read, [Read("a", dtype="int32")])
    assert error.reason is Reason.CAST_UNSUPPORTED
    assert refusal(live.timeline.read, [Read("a", dtype="int32")], 0).reason is error.reason
    assert "expected float16, bfloat16, float32, float64 as the dtype" in error.message
    counts = LiveModel(FakeModel([FakeVariable("n", np.zeros(2, np.int32))]))
    error = refusal(counts.read, [Read("n", dtype="float32")])
    assert "expected its own, int32, as the dtype" in error.message
    assert counts.read([Read("n", dtype="int32")]).entries[0].value is not None
    write, back = Write("a", SET, array(4, 5, 6)), Read("a", dtype="float64")
    error = refusal(live.assign, [write], read_back=back, max_read_back_bytes=23)
    assert (error.reason, error.metadata["nbytes"]) == (Reason.MESSAGE_TOO_LARGE, "24")
    assert live.header.revision == 0
    write = Write("a", SET, array(4, 5, 6))
    answer = live.assign([write], read_back=back, max_read_back_bytes=24)
    assert answer.values["a"].dtype == "float64"


def test_what_is_told_of_a_model_without_waiting() -> None:
    """Its fingerprint, its variables, and whether a write would fit."""
    live, a, _ = two()
    assert live.fingerprint == "fake"
    assert [spec.name for spec in live.specs] == ["a", "b"]
    live.check([Write("a", SET, array(1, 2, 3))])
    error = refusal(live.check, [Write("a", SET, array(1, 2, 3)), Write("b", SET, array(1))])
    assert error.reason is Reason.SHAPE_MISMATCH
    assert live.is_movable("a")
    moved = array(1, 2, 3)
    live.move("a", 0, moved)
    assert a.array is not None
    assert np.shares_memory(a.array, moved)


def test_strings_have_no_bytes_of_elements() -> None:
    """They are read as what they are."""
    with pytest.raises(TypeError, match="strings"):
        HostValue(np.array([b"a"], object)).buffer(0, 1)
    with pytest.raises(ValueError, match="plain bytes"):
        aligned_empty((1,), object)


def test_large_strings_that_are_written_in_place_are_swapped_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They cannot be read by parts, so the value is kept as well."""
    monkeypatch.setattr(changes, "_SWAPPED_BYTES", 3)
    words = FakeVariable("w", np.array([b"a", b"b"], object), in_place=True)
    live = LiveModel(FakeModel([words]))
    live.assign([Write("w", SET, np.array([b"long", b"er"], object))])
    assert value_of(live, "w").tolist() == [b"long", b"er"]
    live.assign([Write("w", SET, np.array([b"x"], object), ROW)])
    events = live.timeline.watch(0).events
    told = [change.value.value for event in events for change in event.changes]
    assert [each.numpy().tolist() for each in told if each] == [[b"long", b"er"], [b"x"]]
    live.revert(1)
    assert value_of(live, "w").tolist() == [b"long", b"er"]
    live.revert(0)
    assert value_of(live, "w").tolist() == [b"a", b"b"]
