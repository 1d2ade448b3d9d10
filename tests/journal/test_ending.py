"""How the process ends when its disk has failed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from varserve_service.journal import disk


def test_the_process_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], str]
) -> None:
    """With what it ends for in the log, all that was said written, and a code of its own."""
    events: list[object] = []

    def stream(name: str) -> SimpleNamespace:
        return SimpleNamespace(flush=lambda: events.append(name))

    monkeypatch.setattr(disk, "sys", SimpleNamespace(stdout=stream("out"), stderr=stream("err")))
    monkeypatch.setattr(disk, "os", SimpleNamespace(_exit=events.append))
    disk.end_process("the log", "an error of the disk")
    assert events == ["out", "err", 3]
    said = log_lines()
    assert "the state directory failed; the process ends" in said
    assert '"what": "the log"' in said
    assert "an error of the disk" in said
