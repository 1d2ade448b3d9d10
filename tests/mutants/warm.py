"""A process that has imported what others wrote, and forks for each run of pytest.

A request is a line of JSON on its standard input: the arguments of pytest, the folders that come
first on the path, the file for the output, and how many seconds the run may take. The answer is a
line with pytest's exit code, or `null` after the bound. Nothing of the program or of its tests may
be imported here: each run imports a changed program.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mutants.rooms import ROOT

# What takes most of the time to import, and starts no thread of its own that a fork would lose.
# One that is not installed is left to the tests that need it.
LIBRARIES = (
    *("pytest", "_pytest.assertion.rewrite", "_pytest.tmpdir", "pytest_asyncio", "pytest_timeout"),
    *("hypothesis.strategies", "numpy.testing", "ml_dtypes", "safetensors.numpy", "crc32c"),
    *("grpc.aio", "google.protobuf.json_format", "sqlite3", "psycopg", "structlog", "yaml", "jwt"),
    *("cryptography.x509", "cryptography.hazmat.primitives.asymmetric.ec", "anyio", "uvloop"),
    *("grpc_health.v1.health", "grpc_reflection.v1alpha.reflection", "pydantic", "xdist.plugin"),
)


class WarmProcess:
    """The process, and what is asked of it. One run at a time."""

    def __init__(self, bytecode: Path) -> None:
        """`bytecode`: the folder in which one run leaves for the next what it compiled."""
        environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.warm"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, arguments: Sequence[str], paths: Sequence[Path], output: Path, seconds: float
    ) -> int | None:
        """pytest's exit code, or nothing if it had not ended after `seconds`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            "arguments": list(arguments),
            "paths": [str(path) for path in paths],
            "output": str(output),
            "seconds": seconds,
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout
        if not _readable(answer.fileno(), seconds + 60):
            raise TimeoutError(f"no answer {seconds + 60:.0f} seconds after a run of tests began")
        code: int | None = json.loads(answer.readline())
        return code

    def close(self) -> None:
        self._process.communicate(timeout=60)


def _readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within a time. Descriptors may have any number."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def forked(request: dict[str, Any]) -> int | None:
    """What a request is answered with. Whatever the run started is gone with it."""
    pid = os.fork()
    if pid == 0:
        _run(request)
    ended = False
    descriptor = os.pidfd_open(pid)
    try:
        ended = _readable(descriptor, request["seconds"])
    finally:
        os.close(descriptor)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(request: dict[str, Any]) -> None:
    """Become a run of pytest; never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number, descriptor in enumerate((nothing, output, output)):
            os.dup2(descriptor, number)
        os.environ["PYTHONPATH"] = os.pathsep.join(request["paths"])
        sys.path[:0] = request["paths"]
        sys.argv = ["pytest"]
        code = int(sys.modules["pytest"].main(request["arguments"]))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the forks share the memory
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
