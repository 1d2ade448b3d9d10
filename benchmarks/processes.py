"""Processes of a benchmark: started, waited for, looked at and ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from .samples import Usage

END_SECONDS = 20
# Seconds in which a process at rest gives memory back, and bytes that are not worth the wait.
_REST_SECONDS = 10.0
_LITTLE = 16 * 2**20
T = TypeVar("T")

LOG_SHOWN = 1000
"""Characters of a log that an error quotes."""


class Failed(Exception):
    """A process ended before it said what it had to say, or said that it could not."""


class Process:
    """A child that says one line when it is ready. Its log keeps what it says to standard error."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as errors:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=None if environment is None else dict(environment),
            )
        self.pid = self._popen.pid
        self._family = psutil.Process(self.pid)

    def line(self) -> str:
        """The next line on its standard output. Raises Failed when there will be none."""
        assert self._popen.stdout is not None
        if line := self._popen.stdout.readline():
            return line.strip()
        raise self._ended()

    def _ended(self) -> Failed:
        self._popen.wait(END_SECONDS)
        said = self.log.read_text(errors="replace").strip()[-LOG_SHOWN:]
        return Failed(f"{self.log.stem} ended with {self._popen.returncode}: {said}")

    def say(self, line: str) -> None:
        """One line to its standard input. Raises Failed when it has ended."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def end(self) -> None:
        """Ask it to end, then make it. Its children with it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self._family.children(recursive=True)
            self._popen.terminate()
            try:
                self._popen.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    @contextlib.contextmanager
    def watched(self, *, at_rest: bool = False) -> Iterator[list[Usage]]:
        """The block's list has one Usage, of the process and its children, after the block.

        `at_rest`: wait until the process gives memory back, for `kept`. The next round then begins
        with what has to be allocated again.
        """
        found: list[Usage] = []
        members = [self._family, *self._family.children(recursive=True)]
        _of_each(members, lambda member: _reset_peak(member.pid))
        cpu, memory = _cpu(members), _status(members, "VmRSS")
        yield found
        peak = _status(members, "VmHWM")
        cpu = _cpu(members) - cpu
        kept = _at_rest(members, memory) - memory if at_rest else 0
        found.append(Usage(cpu, peak, peak - memory, kept))


def _at_rest(members: Sequence[psutil.Process], before: int) -> int:
    """Memory when it is given back: at once where little more is taken than before."""
    deadline = time.monotonic() + _REST_SECONDS
    while (now := _status(members, "VmRSS")) > before + _LITTLE and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


def _cpu(members: Sequence[psutil.Process]) -> float:
    times = _of_each(members, lambda member: member.cpu_times())
    return sum(each.user + each.system for each in times)


def _reset_peak(pid: int) -> None:
    # 5: VmHWM falls back to what is resident now. See proc(5).
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(members: Sequence[psutil.Process], field: str) -> int:
    texts = _of_each(members, lambda member: Path(f"/proc/{member.pid}/status").read_text())
    lines = [line for text in texts for line in text.splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _of_each(members: Sequence[psutil.Process], read: Callable[[psutil.Process], T]) -> list[T]:
    """What is read of each process that has not ended: a database's come and go."""
    found = []
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            found.append(read(member))
    return found


class Agent(Process):
    """A client in a process of its own (`benchmarks.agent`), told what to do line by line."""

    def tell(self, do: str, **arguments: Any) -> None:
        """A command, without waiting for what comes of it."""
        self.say(json.dumps({"do": do, **arguments}))

    def told(self) -> Any:
        """What came of the oldest command. Raises Failed when it failed."""
        answer = json.loads(self.line())
        if "error" in answer:
            raise Failed(f"{self.log.stem}: {answer['error']}")
        return answer["result"]

    def ask(self, do: str, **arguments: Any) -> Any:
        """A command, and what came of it."""
        self.tell(do, **arguments)
        return self.told()
