"""Which tests execute which line, from one run of the tests under coverage.py."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.rooms import ROOT, SOURCES, TESTS

KEPT = ROOT / ".mutants"
SECONDS = 3600
SELECTION = [f"tests/{name}" for name in TESTS]


@dataclass(frozen=True)
class CoverageMap:
    """`lines`: for each file, the tests of each line; `seconds`: how long each test takes."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def tests_of(self, path: Path, line: int) -> list[str]:
        """The tests that execute a line, the quick ones first.

        What runs only when a module is imported is executed for every test of the module.
        """
        file = self.lines.get(str(path), {})
        tests = set(file.get(line, ()))
        if tests == {""}:
            tests = {test for found in file.values() for test in found}
        return sorted(tests & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


def coverage_map() -> CoverageMap:
    """Measured anew when the sources or the tests have changed since, otherwise as it was kept."""
    KEPT.mkdir(exist_ok=True)
    stamp = _stamp()
    if not (KEPT / "stamp").exists() or (KEPT / "stamp").read_text() != stamp:
        _measure()
        (KEPT / "stamp").write_text(stamp)
    return _read()


def _stamp() -> str:
    digest = hashlib.sha256()
    for folder in (*SOURCES, Path("tests")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _measure() -> None:
    print("mutants: running the tests once to see which line is whose", flush=True)
    settings = KEPT / "coverage.ini"
    settings.write_text(
        "[run]\nsource_pkgs = varserve, varserve_service\nconcurrency = thread\n"
        f"data_file = {KEPT / 'coverage'}\nrelative_files = true\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "tests.mutants.recording", "--cov", f"--cov-config={settings}"),
            *("--cov-context=test", "--cov-report="),
            *SELECTION,
        ],
        cwd=ROOT,
        env=os.environ | {"RECORDED_TIMES": str(KEPT / "times.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-4000:]}")
    if done.returncode:
        print("mutants: tests that fail as it is are left out", flush=True)
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("FAILED")))


def _read() -> CoverageMap:
    from coverage import CoverageData  # not a requirement of the tests

    data = CoverageData(basename=str(KEPT / "coverage"))
    data.read()
    lines = {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        lines[os.path.relpath(file, ROOT)] = {
            line: sorted({context.partition("|")[0] for context in found})
            for line, found in contexts.items()
        }
    return CoverageMap(lines, json.loads((KEPT / "times.json").read_text()))
