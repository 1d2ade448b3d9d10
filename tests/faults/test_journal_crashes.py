"""Crashes and disks that fail under a journal: what was acknowledged is there, and nothing half."""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults import journal_writers as script
from tests.journal.kept import kept, value_of
from varserve_service.journal.disk import EXIT_DISK_FAILED

WRITERS = 8
KILLS = 3
ALL_KILLS = 500
READY_SECONDS = 2.0
COMMITS = 20


def started(
    directory: Path, writers: int, commits: int, wrapper: Sequence[str] = ()
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *wrapper,
            *(sys.executable, "-m", script.__name__),
            *(str(directory), str(writers), str(commits)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Told:
    """What the script said: the last number that each writer tried, and that it was told of."""

    def __init__(self) -> None:
        self.tried: Counter[int] = Counter()
        self.acknowledged: Counter[int] = Counter()
        self.refused = 0
        self.done = False

    def hear(self, line: str) -> str:
        match line.split():
            case ["try", writer, number]:
                self.tried[int(writer)] = int(number)
            case ["ack", writer, number]:
                self.acknowledged[int(writer)] = int(number)
            case ["refused", _, _, "STATE_STORE_FULL"]:
                self.refused += 1
            case ["done"]:
                self.done = True
            case ["ready", _]:
                pass
            case _:
                raise AssertionError(line)
        return line


def check(directory: Path, writers: int, told: Told) -> float:
    """All that was acknowledged is there, at most what was tried, and nothing half.

    Returns the seconds that it took to be ready.
    """
    started_at = time.monotonic()
    with kept(directory, lambda: script.model(writers), **script.OPTIONS) as (live, _):
        seconds = time.monotonic() - started_at
        total = 0
        for writer in range(writers):
            number = int(value_of(live, f"count{writer}"))
            assert told.acknowledged[writer] <= number <= told.tried[writer]
            expected = script.table(writer, number), script.rows(writer, number)
            found = value_of(live, f"table{writer}"), value_of(live, f"rows{writer}")
            assert [x.tobytes() for x in found] == [x.tobytes() for x in expected], number
            total += number
            if number:
                # The last write comes again, as it would from a client that heard no answer.
                answer = script.commit(live, writer, number)
                assert answer.values[f"count{writer}"].numpy() == number
            told.acknowledged[writer] = told.tried[writer] = number
        assert live.header.revision == total
    return seconds


def killed_again_and_again(directory: Path, kills: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, told, seconds = random.Random(seed), Told(), []
    for _ in range(kills):
        process = started(directory, WRITERS, 10**9)
        assert process.stdout is not None
        assert process.stderr is not None
        wanted = chance.randrange(10, 150)
        before = told.acknowledged.total()
        for line in process.stdout:
            told.hear(line)
            if told.acknowledged.total() - before >= wanted:
                break
        process.kill()
        for line in process.stdout:
            if line.endswith("\n"):
                told.hear(line)
        said = process.stderr.read()
        assert process.wait(60) == -9, said
        seconds.append(check(directory, WRITERS, told))
    print({"commits": told.acknowledged.total(), "ready after": statistics.median(seconds)})
    assert told.acknowledged.total() >= 10 * kills
    assert statistics.median(seconds) <= READY_SECONDS


@pytest.mark.slow
def test_sigkill_under_eight_writers(tmp_path: Path) -> None:
    """Every acknowledged write is there with its exact bytes, and no half of a transaction.

    The state is ready again within 2 s of the model, and a write that comes again is not repeated.
    """
    killed_again_and_again(tmp_path, KILLS)


@pytest.mark.full
@pytest.mark.timeout(4 * 3600)
def test_sigkill_under_eight_writers_500_times(tmp_path: Path) -> None:
    """The same, 500 times over one state."""
    killed_again_and_again(tmp_path, ALL_KILLS)


def which_strace() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed: it makes the Nth call of a process fail")
    if subprocess.run([path, "-qq", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    return path


CALLS = {
    "sync": "fsync,fdatasync",
    "write": "write,pwrite64,writev,pwritev",
    "rename": "rename,unlink,mkdir,ftruncate",
}
FAULTS = {"kill": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


def fault(tmp_path: Path, call: str, kind: str, number: int) -> str:
    """Let the Nth call of its kind, in any thread, fail; what came of it."""
    directory = tmp_path / f"{call}-{kind}-{number}"
    (directory / "models/fake/payloads").mkdir(parents=True)
    watched = [directory / "models/fake", directory / "models/fake/payloads"]
    names = ("log.sqlite3", "log.sqlite3-wal", "head")
    watched += [directory / "models/fake" / name for name in names]
    told = Told()
    wrapper = [which_strace(), "-f", "-qq", "-o", str(tmp_path / "trace")]
    if call in ("sync", "write"):
        # Of these also the payloads' own count, whose names nobody knows beforehand; what goes to
        # standard output is left out.
        wrapper += [part for path in watched for part in ("-P", str(path))]
    wrapper += ["-e", f"trace={CALLS[call]}"]
    wrapper += ["-e", f"inject={CALLS[call]}:{FAULTS[kind]}:when={number}"]
    process = started(directory, 1, COMMITS, wrapper)
    out, _ = process.communicate(timeout=300)
    for line in out.splitlines():
        told.hear(line)
    hit = bool(process.returncode) or "INJECTED" in (tmp_path / "trace").read_text()
    if not hit:
        return "none"
    check(directory, 1, told)
    # Nothing is broken for good: it goes on from here.
    with kept(directory, lambda: script.model(1), **script.OPTIONS) as (live, _):
        for each in range(told.acknowledged[0] + 1, COMMITS + 5):
            script.commit(live, 0, each)
            told.acknowledged[0] = told.tried[0] = each
    check(directory, 1, told)
    shutil.rmtree(directory)
    return "hit"


@pytest.mark.slow
def test_the_nth_call_fails_for_some_n(tmp_path: Path) -> None:
    """A sync or write that is killed, or fails: the acknowledged prefix, or that and one more."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for call in ("sync", "write"):
        for kind in FAULTS:
            number = chance.randrange(1, 12)
            assert fault(tmp_path, call, kind, number) == "hit", (call, kind, number)


@pytest.mark.full
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("call", ["sync", "write", "rename"])
def test_the_nth_call_fails_for_every_n(tmp_path: Path, call: str, kind: str) -> None:
    """The same for every N until the script gets to its end without the fault."""
    number = 1
    while fault(tmp_path, call, kind, number) == "hit":
        number += 1
    print({"calls": number - 1})
    assert number > (2 if call == "rename" else 10)


@pytest.mark.parametrize("number", [1, 9, 15])
def test_a_sync_that_fails_once_ends_the_process(tmp_path: Path, number: int) -> None:
    """Nothing is acknowledged after it, and the restart goes by what is on disk."""
    log, told = tmp_path / "trace", Told()
    calls = CALLS["sync"]
    wrapper = [which_strace(), "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"]
    wrapper += ["-e", f"inject={calls}:error=EIO:when={number}"]
    process = started(tmp_path / "state", 1, COMMITS, wrapper)
    out, said = process.communicate(timeout=300)
    for line in out.splitlines():
        told.hear(line)
    assert "INJECTED" in log.read_text()
    if number > 5:
        assert (process.returncode, told.done, told.refused) == (EXIT_DISK_FAILED, False, 0)
        assert "the process ends" in said
        assert 0 < told.acknowledged[0] < COMMITS
    else:
        assert process.returncode != 0  # it could not even begin
    check(tmp_path / "state", 1, told)
