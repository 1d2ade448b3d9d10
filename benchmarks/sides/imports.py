"""What an import takes in a fresh interpreter, without the interpreter's own start.

All modules have their bytecode, as pip leaves it; of a tree of sources there is none where Python
may write none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

_TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


class Client:
    """Works in processes of their own."""

    def __init__(self, address: str) -> None:
        pass

    @contextmanager
    def load(self, modules: str) -> Iterator[Callable[[], float]]:
        command = [sys.executable, "-c", _TIMED.format(modules)]
        with TemporaryDirectory() as cache:
            environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)

            def load() -> float:
                return float(subprocess.check_output(command, text=True, env=environment))

            load()  # writes it
            yield load
