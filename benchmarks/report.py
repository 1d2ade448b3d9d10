"""What came of the figures: rows, the table, and the JSON that keeps all of it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from .figures import Figure, Peer, Work
from .runner import Result
from .samples import MEASURES, Measure, Rounds, ratio

PACKAGES = ("tensorflow-cpu", "tensorflow", "grpcio", "protobuf", "numpy", "pyarrow")


@dataclass(frozen=True)
class Row:
    """A line of the table: one measure beside one peer's. `met` is None without a target."""

    family: str
    figure: str
    measure: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    target: str = ""
    met: bool | None = None


def rows(family: str, result: Result) -> list[Row]:
    """The lines of one figure; none where nothing was measured."""
    if result.problem:
        return []
    figure = result.figure
    shown = [(peer, measure) for measure in figure.measures for peer in figure.peers]
    shown += [(figure.peers[0], measure) for measure in figure.costs]
    return [_row(family, result, peer, measure) for peer, measure in shown]


def _row(family: str, result: Result, peer: Peer, measure: Measure) -> Row:
    ours = result.of(result.figure.ours)
    peers = [result.of(work) for work in peer.works]
    mine = measure.compute(ours)
    theirs = peer.combine(*(measure.compute(each) for each in peers))
    found = ratio(measure, ours, peers, peer.combine)
    target = peer.targets.get(measure)
    return Row(
        family,
        result.figure.name,
        measure.name,
        measure.unit,
        mine,
        peer.name,
        theirs,
        found,
        "" if target is None else str(target),
        None if target is None else target.holds(mine, theirs, found),
    )


# ---- the table ----

_HEADINGS = ("figure", "", "ours", "peer", "", "ratio", "target", "")
_MET = {True: "met", False: "NOT met", None: ""}
_SHOWN = {measure.name: measure for measure in MEASURES}


def _cells(row: Row, said: str) -> tuple[str, ...]:
    show = _SHOWN[row.measure].text
    return (
        "" if row.figure == said else row.figure,
        row.measure,
        show(row.ours),
        row.peer,
        show(row.theirs),
        f"{row.ratio:.2f}" if math.isfinite(row.ratio) else "-",
        row.target,
        _MET[row.met],
    )


def table(found: Sequence[Row]) -> str:
    """The rows as text, in columns; numbers to the right."""
    lines = [_HEADINGS]
    said = ""
    for row in found:
        lines.append(_cells(row, said))
        said = row.figure
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = {2, 4, 5}
    shown = (
        "  ".join(
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    heading, *rest = shown
    return "\n".join((heading, "-" * (sum(widths) + 2 * len(widths) - 2), *rest))


# ---- the file ----


def _number(value: float) -> float | None:
    """JSON has no word for what is not a number."""
    return value if math.isfinite(value) else None


def _side(work: Work, rounds: Rounds) -> dict[str, Any]:
    return {
        "side": work.side,
        "work": work.name,
        "arguments": dict(work.arguments),
        "rounds": len(rounds),
        "calls": sum(len(each.times) for each in rounds),
        "measures": {each.name: _number(each.compute(rounds)) for each in MEASURES},
        "round_seconds": [round(each.wall, 6) for each in rounds],
    }


def _figure(family: str, result: Result) -> dict[str, Any]:
    figure: Figure = result.figure
    return {
        "family": family,
        "name": figure.name,
        "nbytes": figure.nbytes,
        "in_flight": figure.in_flight,
        "problem": result.problem,
        "sides": [
            _side(work, rounds)
            for work, rounds in zip(figure.works, result.rounds, strict=not result.problem)
        ],
        "rows": [
            {key: _number(v) if type(v) is float else v for key, v in asdict(row).items()}
            for row in rows(family, result)
        ],
    }


def machine() -> dict[str, Any]:
    """What was measured on."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _commit() -> str:
    """The commit that is checked out, with a plus where files differ from it; empty outside git."""
    try:
        said = subprocess.check_output(
            ["git", "describe", "--always", "--dirty=+"], text=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.strip()


def document(
    results: Iterable[tuple[str, Result]],
    sides: Mapping[str, str],
    command: Sequence[str],
    seconds: float,
) -> Mapping[str, Any]:
    """Everything that was measured, for JSON. `sides`: what each is, by name."""
    return {
        "command": shlex.join(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "seconds": round(seconds),
        "machine": machine(),
        "versions": dict(_versions()),
        "sides": dict(sides),
        "figures": [_figure(family, result) for family, result in results],
    }


def write(path: Path, what: Mapping[str, Any]) -> None:
    """The document as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what, indent=1, allow_nan=False) + "\n")
