"""Run tests on a mutant: a copy of the sources in which one file is changed, first on the path."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants.mutations import Mutation
from tests.mutants.rooms import ROOT, SOURCES

FOUND, HUNG, SURVIVED = "found", "hung", "survived"


class Trial:
    """A copy of the sources. One mutant is in it at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for source in SOURCES:
            shutil.copytree(
                ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__")
            )
        self._changes = 0

    def source(self, path: Path) -> bytes:
        """The source as it was copied, which the program's own may not be any more."""
        return (self._folder / path).read_bytes()

    def _write(self, path: Path, content: bytes) -> None:
        target = self._folder / path
        target.write_bytes(content)
        # Bytecode is told from its source by whole seconds and the size, which a mutant may share.
        self._changes += 1
        stamp = time.time() + 10 * self._changes
        os.utime(target, (stamp, stamp))

    def outcome(
        self, path: Path, mutation: Mutation, tests: Sequence[str], bounds: tuple[float, float]
    ) -> tuple[str, str]:
        """What the tests make of a mutant, and which of them failed first.

        `bounds`: seconds of all tests together, and of one.
        """
        original = self.source(path)
        self._write(path, mutation.apply(original))
        try:
            return self._run(tests, *bounds)
        finally:
            self._write(path, original)

    def _run(self, tests: Sequence[str], seconds: float, each: float) -> tuple[str, str]:
        selected = self._folder / "selected"
        selected.write_text("\n".join(tests))
        paths = os.pathsep.join(str(self._folder / source) for source in SOURCES)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
                *("-p", "no:randomly", f"--timeout={each:.0f}", f"@{selected}"),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
            return HUNG, ""
        if process.returncode == 0:
            return SURVIVED, ""
        if process.returncode == pytest.ExitCode.USAGE_ERROR:
            # The names of some tests are made up anew in each run.
            unknown = {test for test in tests if f"{ROOT / test}" in output}
            rest = [test for test in tests if test not in unknown]
            if unknown:
                return self._run(rest, seconds, each) if rest else (SURVIVED, "")
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return FOUND, failed[0] if failed else output[-200:]
