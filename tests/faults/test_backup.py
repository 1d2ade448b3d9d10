"""Backup and restore of the state, as docs/operations.md says it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.conftest import Serve
from tests.serving import ServiceProcess


def kept_in(folder: Path) -> tuple[str, str]:
    return ("--state-dir", str(folder))


def found(service: ServiceProcess) -> tuple[str, int, int, list[float], list[str]]:
    """Epoch, revision, both values, and what the history says."""
    with varserve.connect(service.address) as client:
        model = client.model("counter")
        snapshot = model.read(["count", "v"])
        told = [commit.info.message for commit in client.list_commits("counter", limit=1000)]
        header = snapshot.header
        return header.epoch, header.revision, int(snapshot["count"]), list(snapshot["v"]), told


def write(service: ServiceProcess, times: int) -> None:
    with varserve.connect(service.address) as client:
        for n in range(times):
            client.assign_variable(
                "counter", "v", np.full(3, n + 1, np.float32), message=f"write {n}"
            )
            client.run_function("counter", "add", {"n": np.int64(1)}, message=f"run {n}")


def test_a_stopped_service_is_copied_whole(serve: Serve, tmp_path: Path) -> None:
    """A copy of the folder, made after the service ended, is the state, history and all.

    Restored, it goes on from there in a new epoch: what was written after the copy is not in it,
    and who has seen that is told so. A start without the flag keeps the epoch.
    """
    state, copy = tmp_path / "state", tmp_path / "copy"
    with serve("counter", arguments=kept_in(state)) as service:
        write(service, 5)
        before = found(service)
        assert service.terminate() == 0
    shutil.copytree(state, copy)
    with serve("counter", arguments=kept_in(state)) as service:
        write(service, 2)
        later = found(service)
        assert later[:2] == (before[0], before[1] + 4)
    with serve("counter", arguments=(*kept_in(copy), "--state-restored")) as service:
        epoch, *rest = found(service)
        assert epoch != before[0]
        assert rest == list(before[1:])
        with varserve.connect(service.address) as client:
            # Also of a revision that the copy has: those after it would be other commits.
            for revision in (before[1], later[1]):
                with pytest.raises(varserve.EpochMismatch):
                    client.watch_variables("counter", after_revision=revision, epoch=before[0])
        write(service, 1)
        assert service.terminate() == 0
    with serve("counter", arguments=kept_in(copy)) as service:
        same, revision, count, _, _ = found(service)
        assert (same, revision, count) == (epoch, before[1] + 2, before[2] + 1)
        assert service.terminate() == 0


def test_a_snapshot_of_the_volume_has_all_that_was_acknowledged(
    serve: Serve, tmp_path: Path
) -> None:
    """A copy of one moment, made under traffic, is as good as what a crash leaves.

    The service is held while it is copied, as a snapshot of a volume is of one moment.
    """
    state, copy = tmp_path / "state", tmp_path / "copy"
    acknowledged: list[int] = []
    wrote, stop = threading.Event(), threading.Event()
    with serve("counter", arguments=kept_in(state)) as service:

        def keep_writing() -> None:
            with varserve.connect(service.address, timeout=120) as client:
                count = client.model("counter").variables["count"]
                while not stop.is_set():
                    acknowledged.append(count.assign_add(1).revision)
                    if len(acknowledged) == 50:
                        wrote.set()

        writer = threading.Thread(target=keep_writing)
        writer.start()
        try:
            assert wrote.wait(120)
            os.kill(service.pid, signal.SIGSTOP)
            # What is told from now on was answered before.
            shutil.copytree(state, copy)
            before = len(acknowledged)
        finally:
            os.kill(service.pid, signal.SIGCONT)
            stop.set()
            writer.join(120)
        epoch = found(service)[0]
        assert service.terminate() == 0
    with serve("counter", arguments=kept_in(copy)) as service:
        same, revision, count, _, _ = found(service)
        assert (same, count) == (epoch, revision)
        assert before <= revision
        assert service.terminate() == 0
