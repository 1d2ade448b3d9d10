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
from tests.mutants.rooms import ROOMS, ROOT, files_of
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
    tests = covered.tests_of(mutant.path, mutant.mutation.line)
    if not tests:
        return NOT_RUN, ""
    chosen = within_budget(tests, covered.seconds, budget)
    seconds = 60 + 4 * sum(covered.seconds[test] for test in chosen)
    changed = mutant.mutation.apply((ROOT / mutant.path).read_bytes())
    outcome, detail = trial.outcome(mutant.path, changed, chosen, seconds)
    return outcome, detail or f"{len(chosen)} of {len(tests)} tests"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").strip())
    parser.add_argument(
        "rooms", nargs="*", choices=[[], *ROOMS], metavar="ROOM", help=f"of {', '.join(ROOMS)}"
    )
    parser.add_argument("--count", type=int, default=60, help="how many mutants (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the sample; printed otherwise")
    parser.add_argument("--file", default="", help="only of files with this in their path")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at once (1)")
    parser.add_argument("--budget", type=float, default=90, help="seconds of tests for one (90)")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    covered = coverage_map()
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
            place = f"{mutant.path}:{mutant.mutation.line}"
            spent = time.monotonic() - began
            print(
                f"{len(results):4} {outcome:16} {spent:4.0f} s  {place} {mutant.mutation.kind}",
                flush=True,
            )

        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(attempt, sample))
    report(results, seed)
    return 0


def report(results: list[tuple[Mutant, str, str]], seed: int) -> None:
    """Print the share of each room and every survivor as a diff; keep all of it as JSON."""
    survivors = [
        (m, outcome, detail) for m, outcome, detail in results if outcome in (SURVIVED, NOT_RUN)
    ]
    print("\nSurvivors")
    for mutant, outcome, detail in sorted(
        survivors, key=lambda r: (str(r[0].path), r[0].mutation.line)
    ):
        print(f"\n{mutant.path}:{mutant.mutation.line} {mutant.mutation.kind}: {outcome} {detail}")
        for line in described(mutant.mutation, (ROOT / mutant.path).read_bytes()):
            print(f"    {line}")
    print("\nFound, of those tried")
    tried_of = Counter(mutant.room for mutant, _, _ in results)
    lost_of = Counter(mutant.room for mutant, _, _ in survivors)
    for room, count in tried_of.items():
        print(f"  {room:10} {count - lost_of[room]:4} of {count}")
    found = len(results) - len(survivors)
    share = found / max(1, len(results))
    print(f"  {'all':10} {found:4} of {len(results)} ({share:.0%}), seed {seed}")
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
