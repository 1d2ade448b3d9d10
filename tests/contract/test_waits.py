"""A test that hangs says which wait it hung at: every wait of the tests has a bound."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
RUNNERS = {"run", "call", "check_call", "check_output"}


def unbounded_waits(source: str) -> Iterator[int]:
    """The lines of calls that may wait for ever: of processes, threads, events and pipes.

    Not among them: coroutines, which whoever awaits them bounds, and what `killed_after` bounds.
    """
    tree = ast.parse(source)
    bounded_elsewhere: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Await(value=call):
                bounded_elsewhere.add(id(call))
            case ast.Call(func=ast.Attribute(attr="ensure_future" | "create_task" | "wait_for")):
                bounded_elsewhere.update(map(id, node.args))
            case ast.With(items=items) if any(map(_kills, items)):
                bounded_elsewhere.update(map(id, ast.walk(node)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = node.func.value, node.func.attr
        given = {keyword.arg for keyword in node.keywords}
        if name in RUNNERS and isinstance(owner, ast.Name) and owner.id == "subprocess":
            bounded = bool(given & {"timeout", None})
        elif name == "communicate":
            bounded = "timeout" in given
        elif name in ("wait", "join"):
            bounded = bool(node.args or node.keywords)
        elif name == "readline":
            bounded = not (isinstance(owner, ast.Attribute) and owner.attr in ("stdout", "stderr"))
        else:
            continue
        if not bounded and id(node) not in bounded_elsewhere:
            yield node.lineno


def _kills(item: ast.withitem) -> bool:
    match item.context_expr:
        case ast.Call(func=ast.Name("killed_after")):
            return True
    return False


def test_every_wait_has_a_bound() -> None:
    """No test, and nothing that tests share, waits without a bound for a process or a thread."""
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if path.name != "waiting.py"
        for line in unbounded_waits(path.read_text())
    ]
    assert found == [], "use tests/waiting.py, or give a timeout"


def test_waits_are_recognised() -> None:
    """Of each kind one without a bound is found, and one with a bound is not."""
    assert [*unbounded_waits("subprocess.run(x)\np.communicate('')\np.wait()\nt.join()")] == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert [*unbounded_waits("p.stdout.readline()")] == [1]
    bounded = "subprocess.run(x, timeout=3)\np.communicate(timeout=1)\np.wait(1)\nt.join(timeout=2)"
    assert [*unbounded_waits(f"{bounded}\nasync def f():\n    await event.wait()")] == []
