"""The mutants of a source text: comparisons, conditions, constants, and statements taken out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
BOOLEAN: dict[type[ast.boolop], str] = {ast.And: "or", ast.Or: "and"}
# Changes of these say nothing: text for people, types, and how a module is put together.
UNMUTATED_CALLS = {"debug", "info", "warning", "error", "exception", "cast", "TypeVar", "print"}
# Of calls: how a driver of a database sends something, which changes nothing but its cost.
UNMUTATED_KEYWORDS = {"prepare", "binary"}
ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
CLOCK = "monotonic()"


@dataclass(frozen=True)
class Mutation:
    """One change: the bytes from `start` to `end` of a source become `replacement`."""

    line: int
    kind: str
    start: int
    end: int
    replacement: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement.encode() + source[self.end :]


def mutations(source: bytes) -> list[Mutation]:
    """Every mutation of a source text, in its order."""
    found = _Finder(source)
    found.visit(ast.parse(source))
    return sorted(found.mutations, key=lambda m: (m.start, m.end, m.replacement))


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self.mutations: list[Mutation] = []

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _add(self, node: ast.expr | ast.stmt, kind: str, replacement: str) -> None:
        self._add_between(node, kind, self._start(node), self._end(node), replacement)

    def _add_between(
        self, node: ast.expr | ast.stmt, kind: str, start: int, end: int, replacement: str
    ) -> None:
        self.mutations.append(Mutation(node.lineno, kind, start, end, replacement))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in ("__repr__", "__str__"):
            return
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:  # and not the decorators: `slots=True` is no behaviour
            self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in self._text(node.annotation):
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text for people."""

    def visit_Compare(self, node: ast.Compare) -> None:
        for (left, right), operator in zip(
            pairwise([node.left, *node.comparators]), node.ops, strict=True
        ):
            between = self._source[self._end(left) : self._start(right)].decode()
            # No two moments of a clock are the same, so that it does not matter what would be then.
            # Parentheses between the two belong to the operands.
            of_clock = CLOCK in self._text(node) and isinstance(operator, ORDERINGS)
            if not of_clock and not set("()\n") & set(between):
                swapped = f" {COMPARISONS[type(operator)]} "
                self._add_between(node, "comparison", self._end(left), self._start(right), swapped)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            between = self._source[self._end(left) : self._start(right)].decode()
            if between.strip() in ("and", "or"):
                swapped = between.replace(between.strip(), BOOLEAN[type(node.op)])
                self._add_between(node, "and/or", self._end(left), self._start(right), swapped)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        between = self._source[self._end(node.left) : self._start(node.right)].decode()
        if type(node.op) in ARITHMETIC and between.strip().strip("+-*/&|") == "":
            swapped = f" {ARITHMETIC[type(node.op)]} "
            self._add_between(
                node, "arithmetic", self._end(node.left), self._start(node.right), swapped
            )
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, "not taken out", f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, "constant", str(not node.value))
        elif isinstance(node.value, int):
            self._add(node, "constant", str(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in UNMUTATED_CALLS:
            return
        # `zip(..., strict=True)` is an assertion.
        keywords = [
            each for each in node.keywords if name != "zip" and each.arg not in UNMUTATED_KEYWORDS
        ]
        for part in (node.func, *node.args, *keywords):
            self.visit(part)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in self._text(node.test):
            return
        self._add(node.test, "condition", f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._add(node.test, "condition", f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        if len(node.items) == 1 and node.items[0].optional_vars is None:
            self._add(
                node.items[0].context_expr,
                "with taken out",
                "__import__('contextlib').nullcontext()",
            )
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if name not in UNMUTATED_CALLS:
                self._add(node, "statement taken out", "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets):
            self._add(node, "statement taken out", "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "statement taken out", "pass")
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """What holds whenever it is reached: the opposite fails, and less shows nothing."""

    def visit_Delete(self, node: ast.Delete) -> None:
        self._add(node, "statement taken out", "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "statement taken out", "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(node, "nothing returned", "return None")
        self.generic_visit(node)


def described(mutation: Mutation, source: bytes) -> Iterator[str]:
    """The changed lines before and after, as a diff has them."""
    first = source.count(b"\n", 0, mutation.start)
    last = source.count(b"\n", 0, mutation.end)
    after = mutation.apply(source).splitlines()
    more = len(after) - len(source.splitlines())
    for line in source.splitlines()[first : last + 1]:
        yield f"- {line.decode().strip()}"
    for line in after[first : last + 1 + more]:
        yield f"+ {line.decode().strip()}"
