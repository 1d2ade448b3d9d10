"""Tests are run on a changed copy of the sources, in a fork of a process that is warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.trial import named, with_whole_tests
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
