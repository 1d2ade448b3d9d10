"""Tests are run on a changed copy of the sources, in a fork of a process that is warm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.mutants.mutations import Mutation
from tests.mutants.trial import FOUND, HUNG, SURVIVED, Trial, named, with_whole_tests
from tests.mutants.warm import WarmProcess

TEST = """\
import sys

import room


def test_it():
    assert "numpy" in sys.modules
    assert not [name for name in sys.modules if name.startswith("varserve")]
    while room.VALUE == 3:
        pass
    assert room.VALUE == 1
"""


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[WarmProcess]:
    process = WarmProcess(tmp_path / "bytecode")
    yield process
    process.close()


def test_each_run_imports_the_sources_that_it_is_given(warm: WarmProcess, tmp_path: Path) -> None:
    """The exit code is the one of its own sources, and a run that hangs is ended."""
    (tmp_path / "test_it.py").write_text(TEST)
    output = tmp_path / "output"

    def run(value: int, seconds: float) -> int | None:
        source = tmp_path / str(value)
        source.mkdir()
        (source / "room.py").write_text(f"VALUE = {value}\n")
        arguments = ["-q", "-p", "no:cacheprovider", str(tmp_path / "test_it.py")]
        return warm.run(arguments, [source], output, seconds)

    assert run(1, 100) == 0, output.read_text()
    assert run(2, 100) == 1
    assert "assert 2 == 1" in output.read_text()
    assert run(3, 2) is None
    assert run(4, 100) == 1


class Made(Trial):
    """Its tests do what their names say, on a file that holds `b` where it is changed."""

    def __init__(self, folder: Path) -> None:
        (folder / "room.py").write_text("a")
        self._folder = folder
        self._changes = 0
        self._sound = {}
        self.runs: list[list[str]] = []

    def _run(self, tests: Sequence[str], seconds: float, each: float) -> tuple[str, str]:
        changed = self.source(Path("room.py")) == b"b"
        self.runs.append(list(tests))
        for test in tests:
            seen = sum(test in some for some in self.runs) > 1
            if "hangs" in test and (changed or "anyway" in test):
                return HUNG, ""
            if "fails" in test and (changed or "anyway" in test) and not ("once" in test and seen):
                return FOUND, f"FAILED {test} - assert"
        return SURVIVED, ""


@pytest.mark.parametrize(
    ("tests", "outcome", "by"),
    [
        (["x", "x.fails"], FOUND, "x.fails"),
        (["x.fails_anyway", "y.fails"], FOUND, "y.fails"),
        (["x.fails_once", "y.fails"], FOUND, "y.fails"),
        (["x.fails_once", "y"], SURVIVED, ""),
        (["x", "x.hangs"], HUNG, ""),
        (["x.hangs_anyway"], SURVIVED, ""),
    ],
)
def test_only_what_is_due_to_a_mutant_finds_it(
    tests: list[str], outcome: str, by: str, tmp_path: Path
) -> None:
    """A failure comes twice, and neither it nor a hang comes without the mutant."""
    found = Made(tmp_path).outcome(Path("room.py"), Mutation(1, "", 0, 1, "b"), tests, (9, 9))
    assert found == (outcome, f"FAILED {by} - assert" if by else "")


def test_the_test_of_a_line_of_the_summary() -> None:
    """The longest name that fits; none if the line is about something else."""
    tests = ["a.py::test_x", "a.py::test_x[1 - 2]", "a.py::test_y"]
    assert named("FAILED a.py::test_x[1 - 2] - assert 3", tests) == tests[1]
    assert named("ERROR a.py - NameError", tests) is None


def test_an_example_whose_name_changed_is_run_by_its_test() -> None:
    """All examples of the test are run; a test that has no examples and is not there is not."""
    tests = ["a::x[1]", "a::x[2]", "a::y[1]", "a::z", "a::gone"]
    known = with_whole_tests(tests, {"a::x[1]", "a::x[2]", "a::gone"})
    assert known == ["a::x", "a::y[1]", "a::z"]
