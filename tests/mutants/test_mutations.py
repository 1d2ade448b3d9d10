"""The mutants of a source text are changes that its tests could find."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.coverage_map import moved_lines
from tests.mutants.mutations import described, mutations
from tests.mutants.rooms import ROOMS, ROOT, files_of


def mutants_of(source: str) -> set[str]:
    return {mutation.apply(source.encode()).decode() for mutation in mutations(source.encode())}


@pytest.mark.parametrize(
    ("source", "mutant"),
    [
        ("x = a < b", "x = a <= b"),
        ("x = a is None", "x = a is not None"),
        ("x = a and b", "x = a or b"),
        ("x = a + b", "x = a - b"),
        ("x = not a", "x = (a)"),
        ("x = 7", "x = 8"),
        ("f(wait=True)", "f(wait=False)"),
        ("x = f() < time.monotonic() + 7", "x = f() < time.monotonic() - 7"),
        ("if a:\n    f()", "if not (a):\n    f()"),
        ("self.sync()", "pass"),
        ("async def f():\n    await g()", "async def f():\n    pass"),
        ("self.a = b", "pass"),
        ("raise ValueError", "pass"),
        ("def f():\n    return a", "def f():\n    return None"),
        ("with lock:\n    pass", "with __import__('contextlib').nullcontext():\n    pass"),
    ],
)
def test_each_kind_of_change(source: str, mutant: str) -> None:
    """A source text has the mutant that changes its one behaviour."""
    assert mutant in mutants_of(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "log.info('done', count=3)",
        "x: Literal[1]",
        "X: TypeAlias = A | B",
        "x = f'{7}'",
        "x = zip(a, b, strict=True)",
        "assert a is not None",
        "x = run(query, prepare=True, binary=True)",
        "x = time.monotonic() >= until",
        "@dataclass(slots=True)\nclass A:\n    x: int",
    ],
)
def test_what_is_no_behaviour_is_not_changed(source: str) -> None:
    """Docstrings, log lines, types and text for people have no mutants."""
    assert mutants_of(source) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_every_mutant_of_the_program_is_a_program(room: str) -> None:
    """Each room has mutants, each of them can be parsed, and its description shows the change."""
    count = 0
    for path in files_of(room):
        source = (ROOT / path).read_bytes()
        every = mutations(source)
        count += len(every)
        for mutation in every[:: max(1, len(every) // 5)]:
            ast.parse(mutation.apply(source))
            before, *_, after = described(mutation, source)
            assert (before[:2], after[:2]) == ("- ", "+ ")
    assert count > 100


def test_lines_are_followed_to_where_they_are_now() -> None:
    """A changed line is what it was before; a new one belongs to the lines around it, too."""
    before, after = "a\nb\nc\nd\ne", "a\nnew\nb\nc\nchanged\nmore\ne"
    moved = {1: [1, 2], 2: [2, 3], 3: [4, 5, 6], 4: [5, 6], 5: [5, 6, 7]}
    assert dict(moved_lines(before, after)) == moved


def test_a_line_that_is_gone_became_nothing() -> None:
    """What was executed only there is executed nowhere."""
    assert dict(moved_lines("a\nb\nc", "a\nc")) == {1: [1], 2: [], 3: [2]}
    assert dict(moved_lines("a", "a\nlast")) == {1: [1, 2]}
