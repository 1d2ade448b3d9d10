"""`make mutants`: a seeded sample of mutants, the share that the tests find, and the survivors."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tests.mutants.coverage_map import KEPT, CoverageMap, coverage_map
from tests.mutants.mutations import Mutation, described, mutations
from tests.mutants.rooms import BESIDE, OWN, ROOMS, ROOT, files_of
from tests.mutants.trial import SURVIVED, Trial

NOT_RUN = "no test runs it"


@dataclass(frozen=True)
class Mutant:
    room: str
    path: Path
    mutation: Mutation


def all_mutants(rooms: list[str], pattern: str) -> list[Mutant]:
    """Every mutant of the rooms whose file's path has the pattern in it."""
    return [
        Mutant(room, path, mutation)
        for room in rooms
        for path in files_of(room)
        if pattern in str(path)
        for mutation in mutations((ROOT / path).read_bytes())
    ]


def within_budget(tests: list[str], seconds: dict[str, float], budget: float) -> list[str]:
    """The first of the tests that take no more than `budget` together; at least one."""
    chosen, spent = tests[:1], seconds[tests[0]]
    for test in tests[1:]:
        spent += seconds[test]
        if spent > budget:
            break
        chosen.append(test)
    return chosen


def tried(mutant: Mutant, covered: CoverageMap, trial: Trial, budget: float) -> tuple[str, str]:
    """The outcome for a mutant, and the test that found it, or how many tests did not."""
    outcome, detail = NOT_RUN, ""
    tests = covered.tests_of(mutant.path, mutant.mutation.line)
    if tests:
        chosen = within_budget(tests, covered.seconds, budget)
        outcome, detail = SURVIVED, f"{len(chosen)} of {len(tests)} tests"
        # The room's own first: to import the others, TensorFlow's say, takes seconds.
        own = [test for test in chosen if test.startswith(OWN[mutant.room])]
        for some in filter(None, (own, [test for test in chosen if test not in own])):
            spent = [covered.seconds[test] for test in some]
            bounds = 60 + 4 * sum(spent), 20 + 10 * max(spent)
            found = trial.outcome(mutant.path, mutant.mutation, some, bounds)
            if found[0] != SURVIVED:
                return found
    if mutant.room in BESIDE:
        found = trial.outcome(mutant.path, mutant.mutation, BESIDE[mutant.room], (300, 300))
        if found[0] != SURVIVED:
            return found
    return outcome, detail


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").strip())
    parser.add_argument(
        "rooms", nargs="*", choices=[[], *ROOMS], metavar="ROOM", help=f"of {', '.join(ROOMS)}"
    )
    parser.add_argument("--count", type=int, default=60, help="how many mutants (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the sample; printed otherwise")
    parser.add_argument("--file", default="", help="only of files with this in their path")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at once (1)")
    parser.add_argument(
        "--keep", action="store_true", help="do not run all tests again because a source changed"
    )
    parser.add_argument("--budget", type=float, default=90, help="seconds of tests for one (90)")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    covered = coverage_map(keep=arguments.keep)
    mutants = all_mutants(arguments.rooms or list(ROOMS), arguments.file)
    sample = random.Random(seed).sample(mutants, min(arguments.count, len(mutants)))
    print(f"mutants: {len(sample)} of {len(mutants)}, seed {seed}", flush=True)
    results: list[tuple[Mutant, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="varserve-mutants-") as folder:
        trials: Queue[Trial] = Queue()
        for number in range(arguments.jobs):
            trials.put(Trial(Path(folder) / str(number)))

        def attempt(mutant: Mutant) -> None:
            trial = trials.get()
            began = time.monotonic()
            try:
                outcome, detail = tried(mutant, covered, trial, arguments.budget)
            finally:
                trials.put(trial)
            results.append((mutant, outcome, detail))
            spent = time.monotonic() - began
            lines = [
                f"{len(results):4} {outcome:16} {spent:4.0f} s  {place(mutant)} {detail[:100]}"
            ]
            if outcome in (SURVIVED, NOT_RUN):
                lines += described(mutant.mutation, trial.source(mutant.path))
            print("\n        ".join(lines), flush=True)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(attempt, sample))
    report(results, seed)
    return 0


def place(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.mutation.line} {mutant.mutation.kind}"


def report(results: list[tuple[Mutant, str, str]], seed: int) -> None:
    """Print the share of each room; keep the outcomes as JSON."""
    print("\nFound, of those tried; in lines that no test runs")
    made = Counter(mutant.room for mutant, _, _ in results)
    lost = Counter(m.room for m, outcome, _ in results if outcome in (SURVIVED, NOT_RUN))
    unrun = Counter(m.room for m, outcome, _ in results if outcome == NOT_RUN)
    for room, count in made.items():
        print(f"  {room:10} {count - lost[room]:4} of {count:4} {unrun[room]:4}")
    found = len(results) - lost.total()
    share = found / max(1, len(results))
    print(
        f"  {'all':10} {found:4} of {len(results):4} {unrun.total():4} ({share:.0%}), seed {seed}"
    )
    kept = [
        {
            "room": mutant.room,
            "path": str(mutant.path),
            "line": mutant.mutation.line,
            "kind": mutant.mutation.kind,
            "outcome": outcome,
            "detail": detail,
        }
        for mutant, outcome, detail in results
    ]
    (KEPT / "latest.json").write_text(json.dumps({"seed": seed, "mutants": kept}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
