"""What a person at a terminal sees while a command takes long."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel
from tests.serving import serve_here
from varserve.cli import progress
from varserve.cli.progress import Progress
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

CLEARED = "\x1b[2K"


class Terminal:
    """A pseudo terminal, and all that came to it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.text = ""
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                got = os.read(self.master, 65536)
            except OSError:
                return
            with self._changed:
                self.text += got.decode(errors="replace")
                self._changed.notify_all()

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        with self._changed:
            seen = self._changed.wait_for(lambda: re.search(pattern, self.text), seconds)
        assert seen, f"{pattern!r} is not in {self.text!r}"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    os.close(terminal.slave)


def test_a_slow_command_says_what_it_does(terminal: Terminal) -> None:
    """After a second a line tells the command, its model and the time; it is gone when the command
    prints. In a pipe there is nothing of it."""
    go_on = threading.Event()

    def slow() -> dict[str, np.ndarray]:
        go_on.wait(60)
        return {"y": np.ones(1, np.float32)}

    function = FakeFunction("slow", slow, outputs={"y": TensorSpec("float32", (1,))})
    with serve_here(LiveModel(FakeModel([], [function]))) as address:
        command = [sys.executable, "-m", "varserve", "-s", address, "run", "fake", "slow"]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
        running = subprocess.Popen(
            command, stdout=terminal.slave, stderr=terminal.slave, env=environment
        )
        terminal.wait_for(r"run fake .*0:00:0\d")
        go_on.set()
        assert running.wait(60) == 0
        terminal.wait_for(r"revision 0\r\n")
        before, _, after = terminal.text.partition("revision 0")
        assert CLEARED in before
        assert "run fake" not in after
        piped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert piped.stderr == ""
    assert "\x1b" not in piped.stdout


@contextmanager
def shown(terminal: Terminal, what: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Progress]:
    """A line that does not wait before it is there."""
    line = Progress()
    with os.fdopen(os.dup(terminal.slave), "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        patched.setattr(progress, "PATIENCE_SECONDS", 0.0)
        patched.setenv("TERM", "xterm")
        with line.shown(what):
            yield line


def test_bytes_are_told_when_they_move(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that move are in the line with their number; what is printed in between clears the
    line, which comes again; after the end there is nothing."""
    with shown(terminal, "pull m", monkeypatch) as line:
        terminal.wait_for("pull m")
        line.report(1 << 20, 8 << 20)
        terminal.wait_for(r"1\.0/8\.0 MiB")
        progress.hide()
        before = len(terminal.text)
        line.report(4 << 20, 8 << 20)
        terminal.wait_for(r"4\.0/8\.0 MiB")
        assert "4.0/8.0" in terminal.text[before:]
    ended = terminal.text
    line.report(8 << 20, 8 << 20)
    progress.hide()
    assert terminal.text == ended


def test_names_do_not_drive_the_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like markup in a name is shown as it is."""
    with shown(terminal, "read [bold]x[/bold]", monkeypatch):
        terminal.wait_for(re.escape("read [bold]x[/bold]"))
