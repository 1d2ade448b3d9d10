"""What the service takes from its start to `ready`, over a state directory that a run left.

The interpreter's own start and TensorFlow's import are part of it, on every side.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.model import BENCH


class Client:
    """Works on the SavedModel in the folder that stands for an address."""

    def __init__(self, address: str) -> None:
        self._model = address

    @contextmanager
    def ready(self, commits: int = 0, nbytes: int = 0) -> Iterator[Callable[[], float]]:
        """After so many small commits, or with a variable of so many bytes; 0: nothing kept."""
        with tempfile.TemporaryDirectory(dir=Path(self._model).parent) as made:
            state = Path(made) / "state"
            if commits or nbytes:
                what = ("commits", str(commits)) if commits else ("bytes", str(nbytes))
                command = [sys.executable, "-m", "benchmarks.keep", self._model, str(state), *what]
                subprocess.run(command, check=True)
            copy = Path(made) / "copy"

            def act() -> float:
                # A start may move what it finds; the next one begins with the same.
                shutil.rmtree(copy, ignore_errors=True)
                if state.is_dir():
                    shutil.copytree(state, copy)
                return self._start(copy)

            yield act

    def _start(self, state: Path) -> float:
        command = [sys.executable, "-m", "varserve_service", "serve", "--port", "0"]
        command += ["--log-level", "warning", "--state-dir", str(state)]
        command += ["--model", f"{BENCH}={self._model}"]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            line = service.stdout.readline()
            took = time.perf_counter() - started
            service.kill()
        if not line.startswith("varserve ready"):
            raise RuntimeError(f"the service said {line!r}, and not that it is ready")
        return took
