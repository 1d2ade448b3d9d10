"""Crashes and disks that fail under a journal: what was acknowledged is there, and nothing half."""

from __future__ import annotations

import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from tests.faults import journal_writers as script
from tests.faults.disks import which_strace
from tests.journal.kept import kept, named_by_rows, value_of
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
        self.ready = False
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
                self.ready = True
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
    """The same, 500 times over two states, one beside the other."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(killed_again_and_again, tmp_path / name, ALL_KILLS // 2) for name in "ab"
        ]
    for run in runs:
        run.result()


CALLS = {
    "sync": ("fsync", "fdatasync"),
    "write": ("write", "pwrite64"),
    "rename": ("rename", "renameat", "unlink", "mkdir", "ftruncate"),
    "open": ("open", "openat"),
}
LEAST_CALLS = {"sync": 60, "write": 100, "rename": 20, "open": 30}
FAULTS = {"kill": "signal=SIGKILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}


class FailingDisk:
    """Lets the Nth of some call fail, in a script that makes the same calls in each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._strace = which_strace()
        trace = folder / "trace"
        every = ",".join(name for names in CALLS.values() for name in names)
        process = self._started(folder / "whole", trace, ["-e", f"trace={every}"])
        out, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert out.endswith("done\n")
        self._numbers: dict[str, list[int]] = defaultdict(list)
        counts: Counter[str] = Counter()
        begun = False
        for line in trace.read_text().splitlines():
            # Python opens hundreds of files before the first of the state.
            begun = begun or str(folder / "whole") in line
            name = line.split(maxsplit=1)[1].split("(")[0]
            counts[name] += 1
            if begun:
                self._numbers[name].append(counts[name])

    def calls(self, kind: str) -> list[tuple[str, int]]:
        """Every call of a kind that concerns the state: its name, and which of that name it is."""
        return [(name, number) for name in CALLS[kind] for number in self._numbers[name]]

    def _started(self, state: Path, trace: Path, options: Sequence[str]) -> subprocess.Popen[str]:
        wrapper = [self._strace, "-f", "-qq", "-y", "-o", str(trace), *options]
        return started(state, 1, COMMITS, wrapper)

    def fault(self, call: str, number: int, kind: str) -> None:
        """The script with this fault, what is left by it, and how it goes on from there."""
        directory = self._folder / f"{call}-{kind}-{number}"
        trace = directory.with_suffix(".trace")
        inject = f"inject={call}:{FAULTS[kind]}:when={number}"
        options = ["-e", f"trace={call}", "-e", inject]
        if kind != "kill":
            # Only what is traced stops for it then, which is twice as fast; signals need more.
            options.append("--seccomp-bpf")
        process = self._started(directory, trace, options)
        out, said = process.communicate(timeout=300)
        told = Told()
        for line in out.splitlines():
            told.hear(line)
        where = f"{call} {number} {kind}: {said[-2000:]}"
        calls = trace.read_text()
        if process.returncode != -9 and "INJECTED" not in calls:
            # The sizes of a few rows differ from run to run, and so does the number of calls.
            assert told.done, where
            assert calls.count("\n") < number, where
        else:
            assert process.returncode in expected_ends(call, kind, told, calls), where
            assert "is damaged" not in said, where
        try:
            check(directory, 1, told)
            # Nothing is broken for good: it goes on from here.
            with kept(directory, lambda: script.model(1), **script.OPTIONS) as (live, journal):
                for each in range(told.acknowledged[0] + 1, COMMITS + 5):
                    script.commit(live, 0, each)
                    told.acknowledged[0] = told.tried[0] = each
                journal._compactor.compact()
            check(directory, 1, told)
        except BaseException as error:
            error.add_note(where)
            raise
        assert_nothing_left_over(directory)
        shutil.rmtree(directory)
        trace.unlink()


def expected_ends(call: str, kind: str, told: Told, trace: str) -> set[int]:
    """How a process may end after a fault."""
    if kind == "kill":
        return {-9}
    if call in ("open", "openat"):
        return {0, 1, EXIT_DISK_FAILED}  # a module of Python's, or a look that is made again
    if call == "unlink":
        return {0, 1}  # a file is left over
    if not told.ready:
        return {1, EXIT_DISK_FAILED}  # it could not even begin
    if kind == "EIO":
        (failed,) = (line for line in trace.splitlines() if "INJECTED" in line)
        # SQLite ignores that a folder cannot be synced; the journal syncs it once more.
        ignored = call == "fdatasync" and not re.search(r"log\.sqlite3[^/>]*>", failed)
        return {0} if ignored else {EXIT_DISK_FAILED}
    # SQLite tells a full disk from a failing one at a write, not at a sync; the folder has room.
    return {0, EXIT_DISK_FAILED} if call in ("fsync", "fdatasync", "ftruncate") else {0}


def assert_nothing_left_over(directory: Path) -> None:
    """What is in the folder of payloads is named by some row."""
    with kept(directory, lambda: script.model(1), **script.OPTIONS) as (_, journal):
        named = named_by_rows(journal)
        assert {path.name for path in (directory / "models/fake/1/payloads").iterdir()} == named


@pytest.mark.slow
def test_the_nth_call_fails_for_some_n(tmp_path: Path) -> None:
    """A sync, write, rename or open that is killed, or fails: the acknowledged prefix, or one more.

    The very first ones, which make the state's files, and some of the others.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, disk = random.Random(seed), FailingDisk(tmp_path)
    for kind in CALLS:
        calls = disk.calls(kind)
        for call in (*calls[:3], *chance.sample(calls, 2)):
            disk.fault(*call, chance.choice(list(FAULTS)))


@pytest.mark.full
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("kind", CALLS)
def test_the_nth_call_fails_for_every_n(tmp_path: Path, kind: str) -> None:
    """The same for every call, from the first that concerns the state to the script's last."""
    disk = FailingDisk(tmp_path)
    faults = [(*call, each) for call in disk.calls(kind) for each in FAULTS]
    print({"faults": len(faults)})
    assert len(faults) >= 3 * LEAST_CALLS[kind]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(disk.fault, *each) for each in faults]):
            if error := done.exception():
                pool.shutdown(cancel_futures=True)
                raise error


@pytest.mark.parametrize("number", [1, 4, 5, 25, 60])
def test_a_sync_that_fails_once_ends_the_process(tmp_path: Path, number: int) -> None:
    """Nothing is acknowledged after it, and the restart goes by what is on disk."""
    log, told = tmp_path / "trace", Told()
    calls = "fdatasync"
    wrapper = [which_strace(), "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"]
    wrapper += ["-e", f"inject={calls}:error=EIO:when={number}"]
    process = started(tmp_path / "state", 1, COMMITS, wrapper)
    out, said = process.communicate(timeout=300)
    for line in out.splitlines():
        told.hear(line)
    assert "INJECTED" in log.read_text()
    if number > 10:
        assert (process.returncode, told.done, told.refused) == (EXIT_DISK_FAILED, False, 0)
        assert "the process ends" in said
        assert 0 < told.acknowledged[0] < COMMITS
    else:
        assert process.returncode not in (0, EXIT_DISK_FAILED)  # it could not even begin
        assert told.tried[0] == 0
    check(tmp_path / "state", 1, told)


def test_writes_beyond_a_quota_are_refused(tmp_path: Path) -> None:
    """From some write on all of them give EDQUOT: the process refuses commits, and goes on."""
    log, told = tmp_path / "trace", Told()
    wrapper = [which_strace(), "-f", "-qq", "-o", str(log), "-e", "trace=pwrite64"]
    wrapper += ["-e", "inject=pwrite64:error=EDQUOT:when=100+"]
    process = started(tmp_path / "state", 1, COMMITS, wrapper)
    out, said = process.communicate(timeout=300)
    for line in out.splitlines():
        told.hear(line)
    assert (process.returncode, told.done, told.refused) == (0, True, script.REFUSALS), said
    assert 0 < told.acknowledged[0] < COMMITS
    check(tmp_path / "state", 1, told)


@pytest.mark.parametrize("error", ["EDQUOT", "ENOSPC"])
def test_a_sync_that_finds_no_room_refuses_the_commit(tmp_path: Path, error: str) -> None:
    """Some syncs of the log fail for want of room: what was refused is nowhere, also after a crash.

    The process goes on, and commits when there is room.
    """
    trace = tmp_path / "trace"
    wrapper = [which_strace(), "-f", "-qq", "-y", "-o", str(trace)]
    wrapper += ["-e", "trace=fsync,fdatasync,ftruncate,writev"]
    wrapper += ["-e", f"inject=fdatasync:error={error}:when=40..59"]
    process = started(tmp_path / "state", 1, COMMITS, wrapper)
    out, said = process.communicate(timeout=300)
    told = Told()
    lines = [told.hear(line).split()[0] for line in out.splitlines()]
    assert (process.returncode, told.done) == (0, True), said
    # Each takes two of the syncs: that of the log, and one that asks the folder.
    assert 8 <= told.refused <= 10
    assert told.acknowledged[0] == COMMITS
    assert_cut_off_durably(trace)
    check(tmp_path / "state", 1, told)
    # Once more: killed when it says that the first was refused.
    wrapper += ["-e", f"inject=writev:signal=SIGKILL:when={lines.index('refused') + 1}"]
    process = started(tmp_path / "again", 1, COMMITS, wrapper)
    out, said = process.communicate(timeout=300)
    assert process.returncode == -9, said
    told = Told()
    for line in out.splitlines():
        told.hear(line)
    told.tried[0] = told.acknowledged[0]
    assert 0 < told.acknowledged[0] < COMMITS
    check(tmp_path / "again", 1, told)


def assert_cut_off_durably(trace: Path) -> None:
    """Each sync of the log that failed is followed by a cut, and a sync of that."""
    calls = [line for line in trace.read_text().splitlines() if "log.sqlite3-wal" in line]
    failed = [at for at, line in enumerate(calls) if "INJECTED" in line]
    assert failed
    for at in failed:
        after = [line.split(maxsplit=1)[1].split("(")[0] for line in calls[at + 1 : at + 3]]
        assert after == ["ftruncate", "fsync"]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "fdatasync", "pwrite64", "rename"])
def test_a_failing_disk_ends_the_process_whatever_the_call(tmp_path: Path, call: str) -> None:
    """EIO at a sync, a write or a rename, of the log or of a value: exit code 3."""
    disk = FailingDisk(tmp_path)
    numbers = [number for name, number in disk.calls(CALL_KINDS[call]) if name == call]
    # Past those of the start; the script's last calls close the state.
    for number in (numbers[len(numbers) // 2], numbers[2 * len(numbers) // 3]):
        disk.fault(call, number, "EIO")


CALL_KINDS = {call: kind for kind, calls in CALLS.items() for call in calls}


@pytest.mark.slow
def test_a_read_that_fails_is_not_called_damage(tmp_path: Path) -> None:
    """A start over a state whose disk fails at the Nth read says so, and changes nothing."""
    strace, state, told = which_strace(), tmp_path / "state", Told()
    process = started(state, 1, COMMITS)
    for line in process.communicate(timeout=300)[0].splitlines():
        told.hear(line)
    assert told.done
    refused, number = 0, 0
    for number in range(1, 400, 4):
        trace = tmp_path / "trace"
        wrapper = [strace, "-f", "-qq", "--seccomp-bpf", "-o", str(trace), "-P", str(state)]
        wrapper += [item for path in readable(state) for item in ("-P", str(path))]
        wrapper += ["-e", "trace=pread64,preadv"]
        wrapper += ["-e", f"inject=pread64,preadv:error=EIO:when={number}"]
        process = started(state, 1, COMMITS, wrapper)
        _, said = process.communicate(timeout=300)
        if "INJECTED" not in trace.read_text():
            break
        refused += process.returncode == 1
        assert process.returncode in (1, EXIT_DISK_FAILED), said
        assert "the disk reported an error" in said or "the process ends" in said, said
        assert "is damaged" not in said, said
        check(state, 1, told)
    assert number > 20
    assert refused > 4


def readable(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]
