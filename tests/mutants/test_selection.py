"""Each line has its tests, those that find most of its mutants in a second first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import FIRST, batches, within_budget
from tests.mutants.coverage_map import CoverageMap
from tests.mutants.mentions import Mentions, defined_at, statement_at
from tests.mutants.rooms import BESIDE, OWN, ROOMS, ROOT

MODULE = """\
LIMIT = 7

@dataclass
class Options:
    nbytes: int = (
        3
    )

    def __init__(self, first=1):
        self.first = first

    def fits(self, more=2):
        return more < (
            self.nbytes
        )
"""
USER = """\
def takes(options):
    return options.nbytes


def gives():
    return LIMIT
"""
FAR = """\
Few = tuple[3]
Many = list[Few]


def uses(value: Many):
    return value


def idle():
    few = 3
"""
TESTS = """\
PAGE = Options(nbytes=1)


def test_documented():
    assert LIMIT == 7


def test_other():
    assert True
"""


def covered() -> CoverageMap:
    """`m.py` is executed by three tests, one of them spends its time elsewhere; `u.py` by one."""
    lines = {
        "m.py": {1: {""}, 5: {""}, 9: {""}, 12: {""}, 10: {"r::quick", "o::wide"}, 13: {"r::slow"}},
        "far.py": {1: {""}, 2: {""}, 5: {""}, 6: {"o::wide"}, 9: {""}},
        "u.py": {2: {"o::wide"}, 6: {"r::quick"}, 7: {"o::wide"}, 8: {"o::wide"}},
    }
    seconds = {"r::quick": 0.5, "o::wide": 0.3, "r::slow": 9.0}
    sources = {"m.py": MODULE, "u.py": USER, "far.py": FAR}
    seconds |= {"t.py::test_documented[7]": 0.1, "t.py::test_other": 0.2}
    return CoverageMap(lines, seconds, Mentions(sources, {"t.py": TESTS}))


@pytest.mark.parametrize(
    ("line", "tests"),
    [
        (10, ["r::quick", "o::wide"]),  # half of what `quick` executes is here, a fourth of `wide`
        (13, ["r::slow"]),
        (14, ["r::slow"]),  # a line of the same statement
        (12, ["r::slow"]),  # a default is used where the function's lines are
        (9, ["t.py::test_documented[7]", "t.py::test_other", "r::quick", "o::wide"]),
        (1, ["t.py::test_documented[7]", "r::quick"]),
        (6, ["t.py::test_documented[7]", "t.py::test_other", "o::wide"]),
        (3, []),
    ],
)
def test_the_tests_of_a_line(line: int, tests: list[str]) -> None:
    """Those that execute it; at an import, those that mention what it defines, or execute it."""
    assert covered().tests_of(Path("m.py"), line) == tests


def test_those_of_a_file_of_the_same_name_come_first() -> None:
    """However long they take, and whatever else they execute."""
    found = covered()
    found.lines["m.py"][10] |= {"r/test_m.py::slow"}
    found.seconds["r/test_m.py::slow"] = 20.0
    assert found.tests_of(Path("m.py"), 10) == ["r/test_m.py::slow", "r::quick", "o::wide"]


def test_a_name_that_is_used_by_way_of_another() -> None:
    """A type of a type has the tests of the function that takes it; what is not run has none."""
    assert covered().tests_of(Path("far.py"), 1) == ["o::wide"]
    assert covered().tests_of(Path("far.py"), 10) == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (1, {"LIMIT"}),
        (4, {"Options"}),
        (6, {"nbytes"}),
        (9, {"Options"}),
        (12, {"fits"}),
        (2, set()),
    ],
)
def test_what_a_line_defines(line: int, names: set[str]) -> None:
    """A constant, a field, a function; what `__init__` takes is given to the class."""
    assert defined_at(MODULE, line) == names


@pytest.mark.parametrize(
    ("line", "around"), [(1, [1]), (6, [5, 6, 7]), (14, [13, 14, 15]), (4, [4]), (9, [9, 10])]
)
def test_the_statement_around_a_line(line: int, around: list[int]) -> None:
    """The innermost one; a function's, where the line is its head; never a whole class."""
    assert list(statement_at(MODULE, line)) == around


def test_tests_are_chosen_within_a_budget() -> None:
    """One test is run however long it takes, and one that takes too long hinders no other."""
    seconds = {"a": 1.0, "b": 4.0, "c": 2.0}
    assert within_budget(["a", "b", "c"], seconds, 3) == ["a", "c"]
    assert within_budget(["b"], seconds, 3) == ["b"]


def test_a_few_tests_of_the_room_are_run_first() -> None:
    """Then its others, then a few of the other rooms'; each room's within the budget."""
    own, others = [f"r::{n}" for n in range(FIRST + 1)], ["o::0", "o::1", "o::2"]
    seconds = dict.fromkeys(own, 0.01) | {"o::0": 0.9, "o::1": 0.2, "o::2": 5.0}
    found = list(batches([*others, *own], ("r::",), seconds, 2))
    assert found == [own[:FIRST], own[FIRST:], ["o::0"], ["o::1"]]


def test_what_is_named_by_hand_is_there() -> None:
    """A test that is not there would find nothing, and nobody would be told."""
    assert BESIDE.keys() <= ROOMS.keys()
    for test in (test for tests in BESIDE.values() for test in tests):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), test
    for folder in (folder for folders in OWN.values() for folder in folders):
        assert (ROOT / folder).is_dir(), folder
