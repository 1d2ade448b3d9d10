"""`python -m benchmarks [FAMILY ...]`: measure, print the table, keep everything as JSON."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from . import model, report
from .families import FAMILIES, parts
from .figures import GIB, Figure
from .processes import Failed
from .runner import Budget, Pool, Result, by_pool, measure
from .sides import PROGRAM, Side, sides

FOLDER = Path(".benchmarks")
LIMITS = "limits"
"""The family whose peer is not Python's: left out where that is not built."""


def built_models() -> Path:
    """The folder of the SavedModels, which are built anew when what builds them has changed."""
    source = Path(model.__file__).read_bytes()
    folder = FOLDER / "models" / hashlib.sha256(source).hexdigest()[:12]
    if not (folder / model.OTHER / "saved_model.pb").is_file():
        print("building the models ...", flush=True)
        shutil.rmtree(folder.parent, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.model", str(folder)],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Each figure beside its peer, in one run."
    )
    families = ", ".join(FAMILIES)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=f"of {families}; all unless named"
    )
    parser.add_argument("--quick", action="store_true", help="the figures that matter, briefly")
    parser.add_argument(
        "--targets",
        action="store_true",
        help="the figures that have a target, beside the peers of that alone, briefly",
    )
    parser.add_argument("--only", default="", help="figures whose name has this in it")
    parser.add_argument(
        "--seconds", type=float, help="for each figure, after its first 5 rounds; 3, quick: 1"
    )
    parser.add_argument(
        "--table", type=int, default=4, metavar="GIB", help="size of the large table [%(default)s]"
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "latest.json", help="[%(default)s]")
    given = parser.parse_args()
    for family in given.families:
        if family not in FAMILIES:
            parser.error(f"no family {family!r}; expected some of {families}")
    return given


Chosen = list[tuple[str, Figure]]
Results = list[tuple[str, Result]]


def _chosen(given: argparse.Namespace) -> Chosen:
    wanted = given.families or [name for name in FAMILIES if name != LIMITS or PROGRAM.is_file()]
    if LIMITS in wanted and not PROGRAM.is_file():
        sys.exit(f"{PROGRAM}, the peer in C++, is not built: make bench-peers")
    sized = {parts.table(parts.TABLE).name: parts.table(given.table * GIB)}
    return [
        (family, figure.to_its_targets() if given.targets else figure)
        for family, figures in FAMILIES.items()
        if family in wanted
        for figure in (sized.get(each.name, each) for each in figures)
        if given.only in figure.name
        and (figure.brief if given.targets else figure.quick if given.quick else figure.full)
    ]


def _measured(chosen: Chosen, known: Mapping[str, Side], budget: Budget) -> Results:
    """The results of the figures, in their order; of some of them when somebody interrupts."""
    started = time.monotonic()
    logs = FOLDER / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results: dict[int, tuple[str, Result]] = {}

    def say(what: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {what}", flush=True)

    try:
        for numbers in by_pool([figure for _, figure in chosen]):
            figures = [chosen[number][1] for number in numbers]
            needed = dict.fromkeys(work.side for figure in figures for work in figure.works)
            with Pool(known, logs) as pool:
                say(f"starting {', '.join(needed)} ...")
                try:
                    pool.start(needed)
                except Failed as error:  # what others have measured is kept
                    for number in numbers:
                        group, figure = chosen[number]
                        results[number] = group, Result(figure, problem=str(error))
                    continue
                measured = measure(figures, pool, budget, say)
                for number, result in zip(numbers, measured, strict=True):
                    results[number] = chosen[number][0], result
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:")
    return [results[number] for number in sorted(results)]


def main() -> int:
    """0 when every figure was measured, whether or not it is what it should be."""
    given = _arguments()
    # As Ctrl-C: it ends the processes that it started, and tells what it has measured.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    chosen = _chosen(given)
    if not chosen:
        sys.exit("no figure of these families has that in its name")
    known = sides(built_models())
    seconds = given.seconds or (1.0 if given.quick or given.targets else 3.0)
    results = _measured(chosen, known, Budget(seconds))

    about = {work.side: known[work.side].about for _, figure in chosen for work in figure.works}
    print()
    print(report.table([row for family, each in results for row in report.rows(family, each)]))
    print()
    print("\n".join(about.values()))
    problems = [each for _, each in results if each.problem]
    for each in problems:
        print(f"\n{each.figure.name}: not measured: {each.problem}")
    command = ["python", "-m", "benchmarks", *sys.argv[1:]]
    took = time.monotonic() - started
    report.write(given.output, report.document(results, about, command, took))
    print(f"\n{took:.0f} s; written to {given.output}")
    return 1 if problems or len(results) < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
