"""Commands, empty environments, and a service by any command line, for the packaging tests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.serving import START_SECONDS
from tests.waiting import killed_after

ROOT = Path(__file__).resolve().parents[2]


def program(name: str) -> str | None:
    """Where a program is that `make test` sets up, or else the machine has; None for neither."""
    return shutil.which(name, path=f"{ROOT / '.tools' / 'bin'}{os.pathsep}{os.environ['PATH']}")


def clean_environment() -> dict[str, str]:
    """This process's environment without what would let one Python environment see another."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    status: int = 0,
) -> str:
    """Run a command to its end and return all that it printed; any other exit status fails."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() if environment is None else environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    assert result.returncode == status, (
        f"{command[0]} ended with {result.returncode}:\n{result.stdout}"
    )
    return result.stdout


class Environment:
    """An empty virtual environment. uv fills it: pip takes minutes over the same."""

    def __init__(self, folder: Path) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", folder])
        self.folder = folder
        self.bin = folder / "bin"

    def python(self, *arguments: str | Path) -> str:
        """Run its Python; -I, so that only what is installed in it can be imported."""
        return run([self.bin / "python", "-I", *arguments], cwd=self.folder)

    def pip(self, command: str, *arguments: str | Path, status: int = 0) -> str:
        uv = Path(sys.executable).with_name("uv")
        return run([uv, "pip", command, "--python", self.bin / "python", *arguments], status=status)

    def install(self, requirements: Path, *wheels: Path) -> None:
        """Install a locked file, then wheels, and nothing that they would like besides."""
        self.pip("install", "-q", "--no-deps", "--require-hashes", "-r", requirements)
        self.pip("install", "-q", "--no-deps", "--no-index", *wheels)


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a service until the block ends; give its HOST:PORT once it says that it is ready."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=clean_environment() if environment is None else environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        with killed_after(process, START_SECONDS):
            lines = (re.match(r"varserve ready on (\S+)$", line) for line in process.stdout)
            ready = next(filter(None, lines), None)
        assert ready, f"ended with {process.wait(60)} before it was ready"
        yield ready[1]
    finally:
        process.terminate()
        try:
            status = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert status == 0
