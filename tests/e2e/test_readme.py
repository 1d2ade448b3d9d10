"""The README, taken at its word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import varserve
from tests.serving import ServiceProcess

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_stands(
    number: int, demo_service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every Python snippet runs, unchanged, against the service that it names."""
    for module in (varserve, varserve.aio):
        connect = module.connect

        def to_the_demo(target: str, connect: object = connect, **options: object) -> object:
            assert target == "localhost:8500"
            return connect(demo_service.address, **options)  # type: ignore[operator]

        monkeypatch.setattr(module, "connect", to_the_demo)
    exec(compile(SNIPPETS[number], f"README.md, snippet {number + 1}", "exec"), {})


@pytest.mark.parametrize("page", ["README.md", "docs/guarantees.md", "docs/watching.md"])
def test_every_test_that_is_named_is_there(page: str) -> None:
    """A promise names tests that exist."""
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / page).read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
