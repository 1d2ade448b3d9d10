"""What was kept is put back where it fits, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import value_of
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.arrays.patches import Elements, Part
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.errors import JournalError, Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind, Origin
from varserve_service.core.ports.journal import KeptBase, KeptChange, KeptCommit, Position
from varserve_service.core.ports.messages import Read


class Kept:
    """A journal that only gives back."""

    epoch = "kept"
    shared = None
    inline_bytes = 0
    nbytes = 0

    def __init__(
        self, *, base: Sequence[KeptBase] = (), commits: Sequence[KeptCommit] = ()
    ) -> None:
        self._base, self._commits = base, commits
        self.horizon = max((each.revision for each in base), default=0)
        self.position = Position(self.horizon + len(commits))
        self.started = False

    def base(self) -> Iterator[KeptBase]:
        return iter(self._base)

    def commits(self) -> Iterator[KeptCommit]:
        return iter(self._commits)

    def records(self) -> Iterator[Any]:
        return iter(())

    answers = records

    def start(self) -> None:
        self.started = True


def live_of(in_place: bool, journal: Kept) -> LiveModel:
    variable = FakeVariable("v", np.zeros((3, 2), np.float32), in_place=in_place)
    return LiveModel(FakeModel([variable]), journal=journal)  # type: ignore[arg-type]


def change(part: Part, *shape: int) -> KeptChange:
    return KeptChange("v", part, np.ones(shape, np.float32))


def commit(revision: int, *changes: KeptChange) -> KeptCommit:
    return KeptCommit(revision, 0, CommitKind.ASSIGN, Origin(), None, changes)


ROWS = Rows(np.array([2, 0]))
COLUMN = Slices((Slice(), Slice(1)))
ELEMENTS = Elements(np.array([0, 5]))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("part", "shape", "expected"),
    [
        (None, (3, 2), [[1, 1], [1, 1], [1, 1]]),
        (ROWS, (2, 2), [[1, 1], [0, 0], [1, 1]]),
        (COLUMN, (3, 1), [[0, 1], [0, 1], [0, 1]]),
        (ELEMENTS, (2,), [[1, 0], [0, 0], [0, 1]]),
    ],
)
def test_a_part_is_put_back(
    in_place: bool, part: Part, shape: tuple[int, ...], expected: list[list[int]]
) -> None:
    """As the base, and as a commit after it; elements are only ever of a base."""
    journal = Kept(base=[KeptBase(4, change(part, *shape))])
    live = live_of(in_place, journal)
    assert value_of(live, "v").tolist() == expected
    assert (live.header.revision, live.header.epoch, journal.started) == (4, "kept", True)
    if part is not ELEMENTS:
        live = live_of(in_place, Kept(commits=[commit(1, change(part, *shape))]))
        assert value_of(live, "v").tolist() == expected
        assert live.header.revision == 1


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (None, (3,)),
        (None, (2, 3)),
        (ROWS, (1, 2)),
        (ROWS, (2, 1)),
        (COLUMN, (3, 2)),
        (ELEMENTS, (1,)),
        (ELEMENTS, (2, 1)),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    in_place: bool, part: Part, shape: tuple[int, ...]
) -> None:
    """It is named with both shapes, and nothing is spread over what is larger."""
    with pytest.raises(JournalError, match=r"variable 'v': expected a value of shape") as caught:
        live_of(in_place, Kept(base=[KeptBase(1, change(part, *shape))]))
    assert f"found {list(shape)}" in str(caught.value)


def test_a_part_that_is_outside_is_refused() -> None:
    """As a caller's would be."""
    with pytest.raises(RequestError):
        live_of(False, Kept(base=[KeptBase(1, change(Rows(np.array([3])), 1, 2))]))


@pytest.mark.parametrize("in_place", [False, True])
def test_parts_upon_parts(in_place: bool) -> None:
    """A base of elements, then rows, the whole, and rows again; what is between is known."""
    journal = Kept(
        base=[KeptBase(2, change(ELEMENTS, 2))],
        commits=[
            commit(3, change(ROWS, 2, 2)),
            commit(4, change(None, 3, 2)),
            commit(5, change(Rows(np.array([1])), 1, 2)),
        ],
    )
    live = live_of(in_place, journal)
    assert value_of(live, "v").tolist() == [[1, 1], [1, 1], [1, 1]]
    before = [[[1, 0], [0, 0], [0, 1]], [[1, 1], [0, 0], [1, 1]]]
    for revision, expected in enumerate(before, 2):
        (entry,) = live.timeline.read([Read("v")], revision).entries
        assert entry.value is not None
        assert (entry.value.numpy().tolist(), entry.revision) == (expected, revision)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_had_no_value_at_first_has_a_past_from_its_first_write_on(in_place: bool) -> None:
    """Each kept write replaced the one before it; before the first there was nothing."""
    wholes = [KeptChange("v", None, np.full((3, 2), n, np.float32)) for n in (1, 2, 4)]
    row = KeptChange("v", Rows(np.array([1])), np.full((1, 2), 3, np.float32))
    changes = [*wholes[:2], row, wholes[2]]
    commits = [commit(number, each) for number, each in enumerate(changes, 1)]
    variable = FakeVariable("v", None, shape=(3, 2), in_place=in_place)
    live = LiveModel(FakeModel([variable]), journal=Kept(commits=commits))  # type: ignore[arg-type]
    expected = {1: [1, 1, 1], 2: [2, 2, 2], 3: [2, 3, 2], 4: [4, 4, 4]}
    for revision, rows in expected.items():
        (entry,) = live.timeline.read([Read("v")], revision).entries
        assert entry.value is not None
        assert entry.value.numpy()[:, 0].tolist() == rows
    with pytest.raises(RequestError) as caught:
        live.timeline.read([Read("v")], 0)
    assert caught.value.reason is Reason.VARIABLE_UNINITIALIZED
