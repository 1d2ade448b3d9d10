"""What a run of the tests says of those that it skipped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.conftest import pytest_terminal_summary


def told(*skipped: tuple[str, str]) -> list[str]:
    """The lines of the summary after tests, by their ids, were skipped for reasons."""
    lines: list[str] = []
    reports = [
        SimpleNamespace(nodeid=node, longrepr=("file.py", 1, f"Skipped: {reason}"))
        for node, reason in skipped
    ]
    reporter: Any = SimpleNamespace(
        stats={"skipped": reports} if reports else {}, section=lines.append, line=lines.append
    )
    pytest_terminal_summary(reporter)
    return lines


def test_a_run_ends_with_what_was_skipped_and_why() -> None:
    """Each reason is one line with the number of tests and their files; none is no section."""
    skipped = [("tests/a.py::one", "no strace"), ("tests/b.py::two[x]", "no GPU")]
    assert told(*skipped, ("tests/a.py::three", "no strace")) == [
        "skipped",
        "1: no GPU (tests/b.py)",
        "2: no strace (tests/a.py)",
    ]
    assert told() == []
