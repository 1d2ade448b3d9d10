"""Which tests execute which line: measured by coverage.py, and kept for each file of tests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tests.mutants.mentions import Mentions
from tests.mutants.rooms import ROOT, SOURCES, test_files

KEPT = ROOT / ".mutants"
IMPORT = ""
"""What coverage.py calls what runs when a module is imported, and not in a test."""
SECONDS = 3600


@dataclass(frozen=True)
class CoverageMap:
    """`lines`: for each file, the tests of each line; `seconds`: how long each test takes."""

    lines: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]
    mentions: Mentions

    def tests_of(self, path: Path, line: int) -> list[str]:
        """The tests of a line, those first that would find most in this file in a second.

        Those are the tests that execute it, or another line of its statement, and of them before
        the others those of a file that is named after this one: what a thread does in the
        background is executed by many, and looked at by few. Of what runs only
        when its module is imported they are, in this order, those that mention what the line
        defines, those of its statement, and those that execute what mentions it.
        """
        file = self.lines.get(str(path), {})
        around = self.mentions.statement_at(path, line)
        of_all = set[str]().union(*(file.get(each, ()) for each in around))
        executing = file.get(line, of_all)
        tests = self.seconds.keys() & (executing - {IMPORT} or of_all)
        of_statement = sorted(
            tests,
            key=lambda test: (not _is_about(test, path), self._price(str(path), test), test),
        )
        if executing != {IMPORT}:
            return of_statement
        named, places = self.mentions.of(path, line)
        by_name = {
            test
            for test in self.seconds
            if test.partition("[")[0] in named or f"{_file(test)}::" in named
        }
        rest = self.seconds.keys() & set[str]().union(
            *(self.lines.get(source, {}).get(each, ()) for source, each in places)
        )
        ordered = [*sorted(by_name, key=self._quick), *of_statement, *sorted(rest, key=self._quick)]
        return list(dict.fromkeys(ordered))

    def _quick(self, test: str) -> tuple[float, str]:
        return self.seconds[test], test

    def _price(self, source: str, test: str) -> float:
        """Seconds, by the share of what a test executes that is in a file."""
        return (self.seconds[test] + 0.01) * self._counts[test] / self._counts[source, test]

    @cached_property
    def _counts(self) -> Counter[str | tuple[str, str]]:
        """How many lines a test executes, at all and in a file."""
        counts: Counter[str | tuple[str, str]] = Counter()
        for source, lines in self.lines.items():
            for tests in lines.values():
                counts.update(tests)
                counts.update((source, test) for test in tests)
        return counts


def coverage_map(*, keep: bool = False) -> CoverageMap:
    """The map of the selected tests. What changed since it was measured is measured anew.

    That is a file of tests that changed, and all of them if a source did. With `keep`, a source
    that changed does not count: its lines are then looked up where they were.
    """
    KEPT.mkdir(exist_ok=True)
    sources = {str(path): (ROOT / path).read_text() for path in _modules(SOURCES)}
    helpers = [
        path
        for path in _modules([Path("tests")])
        if not (path.name.startswith("test_") or path.is_relative_to("tests/mutants"))
    ]
    around = _digest([*map(Path, sources), *helpers])
    stale = [path for path in test_files() if not _is_current(path, None if keep else around)]
    if stale:
        (KEPT / f"{around}.sources").write_text(json.dumps(sources))
        _measure(stale)
        _keep(stale, around)
    return _merged(sources)


def _modules(folders: Iterable[Path]) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in found]


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path).encode() + b"\0" + (ROOT / path).read_bytes())
    return digest.hexdigest()[:16]


def _record(tests: Path) -> Path:
    return KEPT / (str(tests.with_suffix("")).replace("/", ".") + ".json")


def _is_current(tests: Path, around: str | None) -> bool:
    if not _record(tests).exists():
        return False
    record = json.loads(_record(tests).read_text())
    return record["tests"] == _digest([tests]) and around in (None, record["around"])


def _measure(tests: list[Path]) -> None:
    print(f"mutants: running {len(tests)} files of tests to see which line is whose", flush=True)
    settings = KEPT / "coverage.ini"
    settings.write_text(
        "[run]\nsource_pkgs = varserve, varserve_service\nconcurrency = thread\n"
        f"data_file = {KEPT / 'coverage'}\nrelative_files = true\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-m", "not slow and not full and not versions and not clients"),
            *("-p", "tests.mutants.recording", "--cov", f"--cov-config={settings}"),
            *("--cov-context=test", "--cov-report="),
            *map(str, tests),
        ],
        cwd=ROOT,
        env=os.environ | {"RECORDED_TIMES": str(KEPT / "times.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if done.returncode not in (0, 1, 5):  # passed, failed, or all of them are slow
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-4000:]}")
    if done.returncode == 1:
        print("mutants: tests that fail as it is are left out", flush=True)
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("FAILED")))


def _keep(tests: list[Path], around: str) -> None:
    """Write a record for each file of tests: what it was, how long it took, and its lines."""
    from coverage import CoverageData  # not a requirement of the tests

    data = CoverageData(basename=str(KEPT / "coverage"))
    data.read()
    seconds: dict[str, float] = json.loads((KEPT / "times.json").read_text())
    records: dict[str, dict[str, Any]] = {
        str(path): {
            "tests": _digest([path]),
            "around": around,
            "seconds": {test: spent for test, spent in seconds.items() if _file(test) == str(path)},
            "lines": {},
        }
        for path in tests
    }
    for file in data.measured_files():
        source = os.path.relpath(ROOT / file, ROOT)
        for line, contexts in data.contexts_by_lineno(file).items():
            for test in {context.partition("|")[0] for context in contexts}:
                # What runs at an import belongs to no test.
                owners = [records[_file(test)]] if test else records.values()
                for record in owners:
                    record["lines"].setdefault(source, {}).setdefault(test, []).append(line)
    for path, record in records.items():
        _record(Path(path)).write_text(json.dumps(record))


def _file(test: str) -> str:
    return test.partition("::")[0]


def _is_about(test: str, source: Path) -> bool:
    """Whether the file of a test is named after a file."""
    return Path(_file(test)).name == f"test_{source.name}"


def _merged(sources: dict[str, str]) -> CoverageMap:
    texts = {str(path): (ROOT / path).read_text() for path in test_files()}
    merged = CoverageMap({}, {}, Mentions(sources, texts))
    for path in map(Path, texts):
        record = json.loads(_record(path).read_text())
        merged.seconds.update(record["seconds"])
        for source, tests in record["lines"].items():
            if source not in sources:
                continue
            lines = merged.lines.setdefault(source, {})
            became = _moved(record["around"], source, sources[source])
            for test, executed in tests.items():
                for line in executed:
                    for new in became.get(line, ()):
                        lines.setdefault(new, set()).add(test)
    return merged


@cache
def _sources(around: str) -> dict[str, str]:
    kept: dict[str, str] = json.loads((KEPT / f"{around}.sources").read_text())
    return kept


@cache
def _moved(around: str, source: str, text: str) -> dict[int, list[int]]:
    """Which lines of a source now each of its lines then became."""
    return dict(moved_lines(_sources(around).get(source, ""), text))


def moved_lines(before: str, after: str) -> Iterator[tuple[int, list[int]]]:
    """Each line of a text and those that it became.

    A new line belongs to the one before it and to the one after it: one of them may be a comment.
    """
    old, new = before.splitlines(), after.splitlines()
    became: dict[int, list[int]] = {number: [] for number in range(1, len(old) + 1)}
    for kind, start, end, first, beyond in SequenceMatcher(None, old, new, False).get_opcodes():
        for position in range(first, beyond):
            if kind == "equal":
                owners = {start + position - first + 1}
            else:
                owners = {start, *range(start + 1, end + 1), end + 1}
            for owner in owners & became.keys():
                became[owner].append(position + 1)
    yield from became.items()
