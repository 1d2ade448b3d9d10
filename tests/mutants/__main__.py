"""`make mutants`: a seeded sample of mutants, the share that the tests find, and the survivors."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

from tests.mutants.coverage_map import KEPT, CoverageMap, coverage_map
from tests.mutants.mutations import Mutation, described, mutations
from tests.mutants.rooms import BESIDE, OWN, ROOMS, ROOT, files_of
from tests.mutants.trial import SURVIVED, Trial

NOT_RUN = "no test runs it"
FIRST = 12


@dataclass(frozen=True)
class Mutant:
    room: str
    path: Path
    mutation: Mutation


@dataclass(frozen=True)
class Result:
    """What became of a mutant; `change` is its diff."""

    mutant: Mutant
    outcome: str
    detail: str
    change: list[str]
    seconds: float

    @property
    def lost(self) -> bool:
        return self.outcome in (SURVIVED, NOT_RUN)


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
    """The first test, and of the others those that still fit into `budget` seconds."""
    chosen, spent = tests[:1], seconds[tests[0]]
    for test in tests[1:]:
        if spent + seconds[test] <= budget:
            spent += seconds[test]
            chosen.append(test)
    return chosen


def batches(
    tests: list[str], own: tuple[str, ...], seconds: dict[str, float], budget: float
) -> Iterator[list[str]]:
    """The tests in the order in which they are tried: some of the room's own, its others, the rest.

    To import the modules of many tests takes seconds, and the first few find most of the mutants.
    """
    of_room = [test for test in tests if test.startswith(own)]
    for some in filter(None, (of_room, [test for test in tests if not test.startswith(own)])):
        chosen = within_budget(some, seconds, budget)
        first = within_budget(chosen[:FIRST], seconds, 1)
        yield from filter(None, (first, [test for test in chosen if test not in first]))


def tried(mutant: Mutant, covered: CoverageMap, trial: Trial, budget: float) -> tuple[str, str]:
    """The outcome for a mutant, and the test that found it, or how many tests did not."""
    tests = covered.tests_of(mutant.path, mutant.mutation.line)
    count = 0
    for some in batches(tests, OWN[mutant.room], covered.seconds, budget):
        spent = [covered.seconds[test] for test in some]
        bounds = 60 + 4 * sum(spent), 20 + 10 * max(spent)
        found = trial.outcome(mutant.path, mutant.mutation, some, bounds)
        if found[0] != SURVIVED:
            return found
        count += len(some)
    for test in BESIDE.get(mutant.room, ()):
        found = trial.outcome(mutant.path, mutant.mutation, [test], (300, 300))
        if found[0] != SURVIVED:
            return found
    return (SURVIVED, f"{count} of {len(tests)} tests") if tests else (NOT_RUN, "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").strip())
    parser.add_argument(
        "rooms", nargs="*", choices=[[], *ROOMS], metavar="ROOM", help=f"of {', '.join(ROOMS)}"
    )
    parser.add_argument("--count", type=int, default=60, help="how many mutants (60)")
    parser.add_argument("--seed", type=int, default=None, help="of the sample; printed otherwise")
    parser.add_argument("--file", default="", help="only of files with this in their path")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are tried at once (2)")
    parser.add_argument(
        "--keep", action="store_true", help="do not run all tests again because a source changed"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=45,
        help="seconds of its room's tests for one, and of others' (45)",
    )
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    covered = coverage_map(keep=arguments.keep)
    mutants = all_mutants(arguments.rooms or list(ROOMS), arguments.file)
    sample = random.Random(seed).sample(mutants, min(arguments.count, len(mutants)))
    print(f"mutants: {len(sample)} of {len(mutants)}, seed {seed}", flush=True)
    results: list[Result] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="varserve-mutants-"))
        trials: Queue[Trial] = Queue()
        for number in range(arguments.jobs):
            trials.put(stack.enter_context(closing(Trial(Path(folder) / str(number)))))

        def attempt(mutant: Mutant) -> Result:
            trial = trials.get()
            began = time.monotonic()
            try:
                outcome, detail = tried(mutant, covered, trial, arguments.budget)
                change = list(described(mutant.mutation, trial.source(mutant.path)))
            finally:
                trials.put(trial)
            return Result(mutant, outcome, detail, change, time.monotonic() - began)

        pool = stack.enter_context(ThreadPoolExecutor(arguments.jobs))
        for done in as_completed([pool.submit(attempt, mutant) for mutant in sample]):
            results.append(done.result())
            show(len(results), results[-1])
            keep(results, seed)
    report(results, seed)
    return 0


def show(number: int, result: Result) -> None:
    """Print what became of a mutant, and what it is where no test found it."""
    place = f"{result.mutant.path}:{result.mutant.mutation.line} {result.mutant.mutation.kind}"
    lines = [
        f"{number:4} {result.outcome:16} {result.seconds:4.0f} s  {place} {result.detail[:100]}",
        *(result.change if result.lost else ()),
    ]
    print("\n        ".join(lines), flush=True)


def keep(results: list[Result], seed: int) -> None:
    """Write the outcomes so far as JSON."""
    kept = [
        {
            "room": result.mutant.room,
            "path": str(result.mutant.path),
            **asdict(result.mutant.mutation),
            "outcome": result.outcome,
            "detail": result.detail,
            "change": result.change,
            "seconds": round(result.seconds, 1),
        }
        for result in results
    ]
    (KEPT / f"seed-{seed}.json").write_text(json.dumps(kept, indent=1))


def report(results: list[Result], seed: int) -> None:
    """Print the share of each room."""
    print("\nFound, of those tried; in lines that no test runs")
    made = Counter(result.mutant.room for result in results)
    lost = Counter(result.mutant.room for result in results if result.lost)
    unrun = Counter(result.mutant.room for result in results if result.outcome == NOT_RUN)
    for room, count in made.items():
        print(f"  {room:10} {count - lost[room]:4} of {count:4} {unrun[room]:4}")
    found = len(results) - lost.total()
    share = found / max(1, len(results))
    print(
        f"  {'all':10} {found:4} of {len(results):4} {unrun.total():4} ({share:.0%}), seed {seed}"
    )


if __name__ == "__main__":
    sys.exit(main())
