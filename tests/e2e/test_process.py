"""The process itself: signals from its first moments on, and standard streams that are closed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import varserve
from tests.conftest import DEMO_MODEL, Serve
from tests.serving import ServiceProcess
from tests.waiting import until

COMMAND = [sys.executable, "-m", "varserve_service", "serve", "--port", "0"]
MODELS = [f"--model=m{number}={DEMO_MODEL}" for number in range(50)]  # for many seconds
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def child_of(process: subprocess.Popen[str]) -> int:
    """The only child of a process, 0 when there is none yet."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else 0


@contextmanager
def started(prefix: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*prefix, *COMMAND, *MODELS],
        text=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def can_make_namespaces() -> bool:
    command = ["unshare", "--pid", "--fork", "true"]
    return shutil.which("unshare") is not None and (
        subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    )


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_in_the_first_moment(number: signal.Signals) -> None:
    """As the first process of a container, it ends with 0 by a signal that comes before it has
    imported anything that takes long.
    """
    if not can_make_namespaces():
        pytest.skip("no process namespaces can be made here")
    with started(["unshare", "--pid", "--fork", "--kill-child"], stderr=subprocess.PIPE) as outer:
        until(lambda: child_of(outer) and handles(child_of(outer), SIGNALS[-1]))
        pid = child_of(outer)
        assert "cygrpc" not in Path(f"/proc/{pid}/maps").read_text()
        os.kill(pid, number)
        assert outer.wait(60) == 0
        assert outer.stderr is not None
        line = json.loads(outer.stderr.read())
    assert (line["event"], line["signal"]) == ("stopped before it was ready", number.name)


def test_a_signal_while_nobody_reads_the_log() -> None:
    """SIGTERM while models are loaded ends it with 0, also when no line can be logged any more."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, b"\n" * 4096)
    except BlockingIOError:
        fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    with started([], stderr=writer) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        until(lambda: "cygrpc" in maps.read_text())
        process.terminate()
        assert process.wait(60) == 0
    os.close(reader)
    os.close(writer)


def test_a_hangup_stops_it_in_order(serve: Serve) -> None:
    """SIGHUP drains the service, as SIGTERM does."""
    with serve("counter") as service, varserve.connect(service.address) as client:
        count = client.model("counter").variables["count"]
        count.assign_add(1)
        service.process.send_signal(signal.SIGHUP)
        assert service.process.wait(60) == 0
        events = [
            json.loads(line)["event"]
            for line in service.log.read_text().splitlines()
            if line.startswith("{")
        ]
    assert events[-2:] == ["shutting down", "stopped"]


def test_closed_standard_streams(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Without standard input and error, what libraries log goes nowhere, and into no file."""
    state = tmp_path / "state"
    arguments = ("--model", f"counter={model_folder('counter')}", "--state-dir", str(state))
    script = tmp_path / "closed.sh"
    script.write_text('#!/bin/sh\nexec "$PYTHON" -m varserve_service "$@" <&- 2>&-\n')
    script.chmod(0o755)
    for revision in (1, 2):
        process = ServiceProcess(*arguments, log=tmp_path / "log", program=[str(script)])
        try:
            for descriptor in (0, 2):
                assert str(Path(f"/proc/{process.pid}/fd/{descriptor}").readlink()) == os.devnull
            with varserve.connect(process.address) as client:
                count = client.model("counter").variables["count"]
                assert count.assign_add(1).revision == revision
            assert process.terminate() == 0
        finally:
            process.close()
