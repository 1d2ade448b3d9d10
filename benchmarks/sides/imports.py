"""What an import takes in a fresh interpreter, without the interpreter's own start; what short
processes take from their start to their end.

All modules have their bytecode, as pip leaves it; of a tree of sources there is none where Python
may write none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


class Client:
    """Works in processes of their own."""

    def __init__(self, address: str) -> None:
        pass

    @contextmanager
    def load(self, code: str) -> Iterator[Callable[[], float]]:
        command = [sys.executable, "-c", _TIMED.format(code)]
        with _environment() as environment:

            def load() -> float:
                return float(subprocess.check_output(command, text=True, env=environment))

            load()  # writes the bytecode
            yield load

    @contextmanager
    def start(self, code: str) -> Iterator[Callable[[], float]]:
        with _environment() as environment:
            yield _process([sys.executable, "-c", code], environment)

    @contextmanager
    def complete(self) -> Iterator[Callable[[], float]]:
        """As bash asks for names of a model that were asked for some seconds ago."""
        with _environment() as environment:
            environment |= {
                "_VARSERVE_COMPLETE": "bash_complete",
                "COMP_WORDS": "varserve read model layers/7",
                "COMP_CWORD": "3",
                "XDG_CACHE_HOME": environment["PYTHONPYCACHEPREFIX"],
                "VARSERVE_CONFIG": os.devnull,
                "VARSERVE_SERVER": "127.0.0.1:1",
            }
            command = [str(Path(sys.executable).with_name("varserve"))]
            _keep_names(environment)
            act = _process(command, environment)
            if "layers/77/kernel" not in subprocess.check_output(
                command, text=True, env=environment
            ):
                raise RuntimeError("no name was completed")
            yield act


@contextmanager
def _environment() -> Iterator[dict[str, str]]:
    with TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        yield environment


def _process(command: Sequence[str], environment: Mapping[str, str]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    run()  # writes the bytecode
    return run


def _keep_names(environment: Mapping[str, str]) -> None:
    """As a completion leaves them that has asked the service."""
    names = [f"layers/{number}/kernel" for number in range(1000)]
    code = (
        "import json, sys; from varserve.cli import known, session;"
        "from varserve._client.contexts import Settings, environment;"
        "asking = session.Session(environment, Settings);"
        "known.keep(asking, 'server', 'of model', json.load(sys.stdin))"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=dict(environment),
        check=True,
        text=True,
        input=json.dumps({"variables": names, "functions": {}}),
    )
