"""Power cuts under a journal: what was acknowledged is there, and each sync is needed for that.

A real file system whose power is cut shows the first; how often a missing sync shows there is a
matter of luck and of the file system. So the order of the calls is judged from a trace as well, for
the worst disk that the standards allow.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import missing_sync
from tests.faults.disks import LoopDisk, which_strace
from tests.faults.missing_sync import NONE, SQLITE
from tests.faults.sync_order import STRACE, Disk, judge
from tests.faults.test_journal_crashes import Told, check
from tests.waiting import killed_after
from varserve_service.core.errors import JournalError
from varserve_service.journal.disk import EXIT_DISK_FAILED

WRITERS = 8
CUTS, ALL_CUTS = 3, 50
LEAST_SYNCS = 60
LEAST_ANSWERS = 15


def writers(site: str, directory: Path) -> subprocess.Popen[str]:
    script = [sys.executable, "-m", missing_sync.__name__, site, "writers"]
    return subprocess.Popen(
        [*script, str(directory), str(WRITERS), str(10**9)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cut(disk: LoopDisk, told: Told, site: str, commits: int) -> None:
    """Cut the power when so many more commits were acknowledged, and hear out the writers."""
    process = writers(site, disk.path / "state")
    assert process.stdout is not None
    assert process.stderr is not None
    before = told.acknowledged.total()
    try:
        with killed_after(process, 120):
            for line in process.stdout:
                told.hear(line)
                if told.acknowledged.total() - before >= commits:
                    break
            disk.cut_power()
            for line in process.stdout:
                if line.endswith("\n"):
                    told.hear(line)
            said = process.stderr.read()
        if site == NONE:
            assert process.wait(60) == EXIT_DISK_FAILED, said
    finally:
        process.kill()
        process.wait(60)


def cut_again_and_again(folder: Path, cuts: int, site: str = NONE) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, told = random.Random(seed), Told()
    disk = LoopDisk(folder / "disk")
    for number in range(cuts):
        with disk:
            # At first none is acknowledged: the power goes while the state is begun.
            cut(disk, told, site, chance.randrange(10, 150) if number else 0)
        with disk:
            check(disk.path / "state", WRITERS, told)
    print({"commits": told.acknowledged.total()})
    assert told.acknowledged.total() >= 5 * cuts


@pytest.mark.slow
def test_a_power_cut_under_eight_writers(tmp_path: Path) -> None:
    """Every acknowledged write is there, no half of a transaction, and the revisions go on.

    The writers' process ends when the disk fails, and acknowledges nothing more.
    """
    cut_again_and_again(tmp_path, CUTS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_power_cut_under_eight_writers_50_times(tmp_path: Path) -> None:
    """The same, 50 times over one state."""
    cut_again_and_again(tmp_path, ALL_CUTS)


@pytest.mark.slow
@pytest.mark.parametrize("site", [SQLITE, "payload"])
def test_a_power_cut_finds_a_missing_sync(tmp_path: Path, site: str) -> None:
    """Without the sync of the log, or of the files of values, acknowledged writes are lost."""
    if site == "payload":
        (site,) = (each for each in missing_sync.sites() if each == payload_sync())
    with pytest.raises((AssertionError, JournalError)):
        cut_again_and_again(tmp_path, 10, site)


def payload_sync() -> str:
    """The site of the sync of a file of values."""
    for number, line in enumerate((missing_sync.FOLDER / "payloads.py").read_text().split("\n"), 1):
        if "os.fsync(" in line:
            return f"payloads.py:{number}"
    raise AssertionError("no sync")


def traced(folder: Path, site: str) -> Disk:
    """Each kind of start, with commits, without one sync."""
    root, trace = folder / "state", folder / "trace"
    script = [sys.executable, "-m", missing_sync.__name__, site, "starts", str(root)]
    done = subprocess.run(
        [which_strace(), *STRACE, "-o", str(trace), *script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with trace.open() as lines:
        return judge(lines, root)


@pytest.mark.slow
def test_every_answer_comes_after_the_syncs_that_it_needs(tmp_path: Path) -> None:
    """Values before the rows that name them, rows before the answer, names with the content.

    A new state, commits of every size with compaction, a restored copy, a state moved aside.
    """
    disk = traced(tmp_path, NONE)
    assert disk.problems == []
    assert disk.answers >= LEAST_ANSWERS
    assert disk.syncs >= LEAST_SYNCS


@pytest.mark.slow
@pytest.mark.parametrize("site", missing_sync.sites())
def test_each_sync_is_needed(tmp_path: Path, site: str) -> None:
    """With any one of the journal's syncs left out, some answer comes too early."""
    assert traced(tmp_path, site).problems
