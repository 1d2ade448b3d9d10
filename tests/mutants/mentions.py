"""Where names are mentioned: what tests a line that runs only when its module is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path


class Mentions:
    """The names in the texts of the program and of its tests, by path."""

    def __init__(self, sources: Mapping[str, str], tests: Mapping[str, str]) -> None:
        self._sources = sources
        self._tests = tests

    @cached_property
    def _lines(self) -> dict[str, list[tuple[str, int]]]:
        """For each name the lines of the program that mention it."""
        found: dict[str, list[tuple[str, int]]] = {}
        for path, text in self._sources.items():
            for name, line in _names(ast.parse(text)):
                found.setdefault(name, []).append((path, line))
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
                    for name, _ in _names(part):
                        found.setdefault(name, set()).add(owner)
        return found

    def statement_at(self, path: Path, line: int) -> range:
        """The lines of the statement around a line."""
        return statement_at(self._sources[str(path)], line)

    def in_program(self, path: Path, line: int) -> set[tuple[str, int]]:
        """The lines of the program that mention what a line defines."""
        names = defined_at(self._sources[str(path)], line)
        return {place for name in names for place in self._lines.get(name, ())}

    def in_tests(self, path: Path, line: int) -> set[str]:
        """The tests that mention what a line defines: `file::test`, or a file and `::`."""
        names = defined_at(self._sources[str(path)], line)
        return {owner for name in names for owner in self._functions.get(name, ())}


def defined_at(source: str, line: int) -> set[str]:
    """The names that the statement around a line defines: variables, attributes, functions."""
    names: set[str] = set()
    owner = ""
    for statement in _around(ast.parse(source), line):
        match statement:
            case ast.ClassDef():
                owner = statement.name
                names = {owner}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names = {owner if statement.name == "__init__" else statement.name}
            case ast.Assign():
                names = {name for target in statement.targets for name, _ in _names(target)}
            case ast.AnnAssign() | ast.AugAssign():
                names = {name for name, _ in _names(statement.target)}
    return names


def statement_at(source: str, line: int) -> range:
    """The lines of the innermost statement around a line; of a function, whose head it is, too."""
    innermost: ast.stmt | None = None
    for statement in _around(ast.parse(source), line):
        innermost = statement
    if innermost is None or isinstance(innermost, ast.ClassDef):
        return range(line, line + 1)
    return range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1)


def _around(tree: ast.AST, line: int) -> Iterator[ast.stmt]:
    """The statements around a line, the outermost first."""
    for node in ast.walk(tree):
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
