"""Where names are mentioned: what tests a line that runs only when its module is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

STEPS = 3
"""How far names are followed: one that is mentioned where another is defined, and so on."""


class Mentions:
    """The names in the texts of the program and of its tests, by path."""

    def __init__(self, sources: Mapping[str, str], tests: Mapping[str, str]) -> None:
        self._sources = sources
        self._tests = tests

    @cached_property
    def _lines(self) -> dict[str, set[tuple[str, int]]]:
        """For each name the lines of the program that mention it."""
        found: dict[str, set[tuple[str, int]]] = {}
        for path, text in self._sources.items():
            for name, line in _names(ast.parse(text)):
                found.setdefault(name, set()).add((path, line))
        return found

    @cached_property
    def _functions(self) -> dict[str, set[str]]:
        """For each name the tests that mention it: `file::test`, or a file and `::`."""
        found: dict[str, set[str]] = {}
        for path, text in self._tests.items():
            for outer in ast.parse(text).body:
                parts = outer.body if isinstance(outer, ast.ClassDef) else [outer]
                for part in parts:
                    name = getattr(part, "name", "")
                    owner = f"{path}::{name if name.startswith('test_') else ''}"
                    for mentioned, _ in _names(part):
                        found.setdefault(mentioned, set()).add(owner)
        return found

    def statement_at(self, path: Path, line: int) -> range:
        """The lines of the statement around a line."""
        return statement_at(self._sources[str(path)], line)

    def of(self, path: Path, line: int) -> tuple[set[str], set[tuple[str, int]]]:
        """What mentions what a line defines: tests, and lines of the program with their paths.

        A test is `file::test`, or `file::` for all of a file. What mentions a name that is defined
        by means of this one counts as well.
        """
        tests: set[str] = set()
        places: set[tuple[str, int]] = set()
        seen: set[str] = set()
        names = defined_at(self._sources[str(path)], line)
        for _ in range(STEPS):
            seen |= names
            tests |= {test for name in names for test in self._functions.get(name, ())}
            new = {place for name in names for place in self._lines.get(name, ())} - places
            places |= new
            names = set()
            for source, at in new:
                text = self._sources[source]
                if not _is_in_body(text, at):
                    names |= defined_at(text, at) - seen
                    # Of a function, whose head it is, the body too.
                    places |= {(source, each) for each in statement_at(text, at)}
        return tests, places


def defined_at(source: str, line: int) -> set[str]:
    """The names that a line defines when its module is imported, the class's for `__init__`.

    They are of a variable, a field, a class, or the function whose defaults or body it is.
    """
    owner = ""
    for statement in _around(source, line):
        match statement:
            case ast.ClassDef():
                owner = statement.name
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                special = statement.name.startswith("_") and statement.name.endswith("_")
                return {owner if special else statement.name}
            case ast.Assign():
                return {name for target in statement.targets for name, _ in _names(target)}
            case ast.AnnAssign() | ast.AugAssign():
                return {name for name, _ in _names(statement.target)}
    return {owner} - {""}


def statement_at(source: str, line: int) -> range:
    """The lines of the innermost statement around a line; of a function, whose head it is, too."""
    innermost: ast.stmt | None = None
    for statement in _around(source, line):
        innermost = statement
    if innermost is None or isinstance(innermost, ast.ClassDef):
        return range(line, line + 1)
    return range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1)


def _is_in_body(source: str, line: int) -> bool:
    """Whether a line is in the body of a function."""
    return any(
        isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and line >= each.body[0].lineno
        for each in _around(source, line)
    )


_parsed = cache(ast.parse)


def _around(source: str, line: int) -> Iterator[ast.stmt]:
    """The statements around a line, the outermost first."""
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            yield node


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name in a tree that is used or set, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                yield node.id, node.lineno
            case ast.Attribute():
                yield node.attr, node.end_lineno or node.lineno
            case ast.keyword(arg=str()):
                yield str(node.arg), node.lineno
