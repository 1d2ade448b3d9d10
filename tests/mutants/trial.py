"""Run tests on a mutant: a copy of the sources in which one file is changed, first on the path."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutants.mutations import Mutation
from tests.mutants.rooms import ROOT, SOURCES
from tests.mutants.warm import WarmProcess

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
        self._process = WarmProcess(folder / "bytecode")
        self._sound: dict[str, bool] = {}

    def close(self) -> None:
        self._process.close()

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

        `bounds`: seconds of all tests together, and of one. What is not due to the mutant is left
        out: a test that fails without it too, or not once more with it, and a run that does not
        end without it either.
        """
        while tests:
            outcome, detail = self._run_on(path, mutation, tests, bounds)
            if outcome == HUNG:
                ends = self._run(tests, *bounds)[0] != HUNG
                return (HUNG, detail) if ends else (SURVIVED, "")
            failed = named(detail, tests)
            if outcome != FOUND or failed is None:
                return outcome, detail
            until = tests[: tests.index(failed) + 1]
            if (
                self._is_sound(failed, bounds)
                and self._run_on(path, mutation, until, bounds)[0] != SURVIVED
            ):
                return outcome, detail
            tests = [test for test in tests if test != failed]
        return SURVIVED, ""

    def _run_on(
        self, path: Path, mutation: Mutation, tests: Sequence[str], bounds: tuple[float, float]
    ) -> tuple[str, str]:
        """What the tests make of a mutant, whatever the reason is."""
        original = self.source(path)
        self._write(path, mutation.apply(original))
        try:
            return self._run(tests, *bounds)
        finally:
            self._write(path, original)

    def _is_sound(self, test: str, bounds: tuple[float, float]) -> bool:
        """Whether a test passes on the program as it is."""
        if test not in self._sound:
            self._sound[test] = self._run([test], *bounds)[0] == SURVIVED
        return self._sound[test]

    def _run(self, tests: Sequence[str], seconds: float, each: float) -> tuple[str, str]:
        selected = self._folder / "selected"
        selected.write_text("\n".join(tests))
        written = self._folder / "output"
        code = self._process.run(
            [
                *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
                *(f"--timeout={each:.0f}", f"@{selected}"),
            ],
            [self._folder / source for source in SOURCES],
            written,
            seconds,
        )
        if code is None:
            return HUNG, ""
        if code == pytest.ExitCode.OK:
            return SURVIVED, ""
        output = written.read_text(errors="replace")
        if code == pytest.ExitCode.USAGE_ERROR:
            known = with_whole_tests(tests, {test for test in tests if f"{ROOT / test}" in output})
            if known != list(tests):
                return self._run(known, seconds, each) if known else (SURVIVED, "")
        _, _, summary = output.rpartition("short test summary info")
        failed = [line for line in summary.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return FOUND, failed[0] if failed else output[-200:]


def with_whole_tests(tests: Sequence[str], unknown: set[str]) -> list[str]:
    """The tests, and for an example that is not known, by all examples of its test.

    The name of an example may be made of what a mutant changed.
    """
    known = dict.fromkeys(
        test.partition("[")[0] if test in unknown else test
        for test in tests
        if test not in unknown or "[" in test
    )
    return list(known)


def named(line: str, tests: Sequence[str]) -> str | None:
    """The test that a line of pytest's summary is about, if it is one of these."""
    _, _, rest = line.partition(" ")
    return max((test for test in tests if rest.startswith(test)), key=len, default=None)
