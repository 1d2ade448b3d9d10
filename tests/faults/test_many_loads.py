"""Models that come and go by the hundred: what they took is given back, and others go on."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.serving import ServiceProcess
from tests.waiting import join, until

GROWTH_BYTES = 50 * 2**20
NAMES = [f"m{number}" for number in range(8)]


@contextmanager
def administered(
    folder: Path, model_folder: Callable[[str], Path], *arguments: str
) -> Iterator[ServiceProcess]:
    """The real service over a repository with a model `served`, and others that are not loaded."""
    repository = folder / "repository"
    shutil.copytree(model_folder("counter"), repository / "served" / "1")
    flags = ["--model-repository", str(repository), "--admin-port", "0", *arguments]
    process = ServiceProcess(*flags, log=folder / "log")
    try:
        for name in NAMES:
            kind = "nested" if int(name[1:]) % 2 else "embedding"
            shutil.copytree(model_folder(kind), repository / name / "1")
        yield process
    finally:
        process.close()


def churn(process: ServiceProcess, threads_count: int, count: int) -> None:
    """Load, use and unload models so many times, from many threads."""
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        jobs.put(number)
    turns = {name: threading.Lock() for name in NAMES}
    failures: list[BaseException] = []

    def work() -> None:
        options: dict[str, Any] = {"retries": 1000, "timeout": 600}
        with (
            varserve.connect_admin(process.admin_address, **options) as admin,
            varserve.connect(process.address) as client,
        ):
            while True:
                try:
                    name = NAMES[jobs.get_nowait() % len(NAMES)]
                except queue.Empty:
                    return
                try:
                    with turns[name]:
                        admin.load_model(name)
                        model = client.model(name)
                        for variable in list(model.variables.values())[:3]:
                            variable.assign(variable.numpy())
                        admin.unload_model(name)
                except BaseException as error:
                    failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    join(threads, seconds=600)
    assert failures == []


def come_and_gone(
    tmp_path: Path, model_folder: Callable[[str], Path], threads: int, loads: int
) -> None:
    """Load and unload; afterwards memory, threads and open files are as they were before."""
    with administered(tmp_path, model_folder, "--state-dir", str(tmp_path / "state")) as process:
        churn(process, threads, 2 * len(NAMES))  # what TensorFlow needs once
        folder = Path(f"/proc/{process.pid}")
        before, tasks, files = (
            process.rss_bytes(),
            len(list((folder / "task").iterdir())),
            len(list((folder / "fd").iterdir())),
        )
        churn(process, threads, loads)
        grown = process.rss_bytes() - before
        print(f"{loads} loads and unloads by {threads} threads: grown by {grown / 2**20:.1f} MiB")
        assert grown < GROWTH_BYTES
        assert len(list((folder / "task").iterdir())) <= tasks + 4
        assert len(list((folder / "fd").iterdir())) <= files + 8
        with varserve.connect(process.address) as client:
            assert [each.name for each in client.models()] == ["served"]


@pytest.mark.slow
def test_models_that_are_unloaded_leave_nothing_behind(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """After some loads and unloads from many threads the service takes what it took before."""
    come_and_gone(tmp_path, model_folder, threads=8, loads=24)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_models_that_are_unloaded_leave_nothing_behind_at_length(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """The same with 200 loads and 32 threads."""
    come_and_gone(tmp_path, model_folder, threads=32, loads=200)


def p99_of_reads(client: varserve.Client, until: Callable[[int], bool]) -> tuple[float, int]:
    """Seconds that a small read takes at most, in 99 of 100."""
    taken = []
    while not until(len(taken)):
        began = time.perf_counter()
        client.read_variable("served", "count")
        taken.append(time.perf_counter() - began)
    return float(np.quantile(taken, 0.99)), len(taken)


@pytest.mark.slow
def test_loading_holds_up_others_no_longer_than_a_bound(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """Small reads of another model go on while models are loaded, each within a second at worst."""
    with (
        administered(tmp_path, model_folder) as process,
        varserve.connect(process.address) as client,
        varserve.connect_admin(process.admin_address) as admin,
    ):
        admin.load_model("m1")
        admin.unload_model("m1")
        idle, _ = p99_of_reads(client, lambda count: count >= 2000)
        done = threading.Event()

        def load() -> None:
            try:
                for _ in range(5):
                    admin.load_model("m1")
                    admin.unload_model("m1")
            finally:
                done.set()

        loading = threading.Thread(target=load)
        loading.start()
        busy, count = p99_of_reads(client, lambda _: done.is_set())
        join([loading], seconds=300)
        print(
            f"p99 of small reads: {idle * 1e3:.2f} ms idle, {busy * 1e3:.2f} ms while loading "
            f"({busy / idle:.0f}x), {count} reads"
        )
        assert count >= 50
        assert busy < 1.0


@pytest.mark.slow
def test_versions_come_and_keep_their_state(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """A new version is taken by itself, with a state of its own; one that is bad is not.

    The old one comes back with the state that it had, and a save is a version like any other.
    """
    flags = ("--state-dir", "state", "--save-dir", "saves", "--repository-poll", "0.1")
    arguments = [str(tmp_path / flag) if flag in ("state", "saves") else flag for flag in flags]
    with (
        administered(tmp_path, model_folder, *arguments) as process,
        varserve.connect(process.address) as client,
        varserve.connect_admin(process.admin_address) as admin,
    ):
        client.assign_variable("served", "count", np.int64(41))
        one = client.model("served")
        saved = admin.save_model("served", "served/2")
        assert saved.header.revision == 1
        bad = tmp_path / "repository" / "served" / "3"
        shutil.copytree(model_folder("counter"), bad)
        (bad / "saved_model.pb").write_bytes(b"\xff" * 100)
        until(lambda: any(v.state is varserve.ModelState.FAILED for v in admin.list_versions()))
        assert client.model("served").epoch == one.epoch
        shutil.rmtree(bad)
        shutil.copytree(tmp_path / "saves" / "served" / "2", tmp_path / "repository/served/2")
        admin.load_model("served", 2)
        two = client.model("served")
        assert (two.version, two.revision) == (2, 0)
        assert two.epoch != one.epoch
        assert int(client.read_variable("served", "count").value) == 41
        shutil.copytree(model_folder("counter"), tmp_path / "repository" / "served" / "4")
        until(lambda: client.model("served").version == 4, seconds=120, pause=0.05)
        assert int(client.read_variable("served", "count").value) != 41
        back = admin.load_model("served", 1)
        assert (back.epoch, back.revision) == (one.epoch, 1)
        assert int(client.read_variable("served", "count").value) == 41


@pytest.mark.slow
def test_a_model_that_is_being_copied_keeps_no_other_from_being_served(
    tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    """At the start it is passed over, and taken when it is there; without polling it is told."""
    half = tmp_path / "repository" / "half" / "1"
    shutil.copytree(model_folder("counter"), half, ignore=lambda *_: ["saved_model.pb"])
    arguments = ("--repository-poll", "0.1")
    with (
        administered(tmp_path, model_folder, *arguments) as process,
        varserve.connect(process.address) as client,
    ):
        assert client.model("served").version == 1
        assert "half" not in {model.name for model in client.list_models()}
        assert "no complete version yet" in process.log.read_text()
        shutil.copy(model_folder("counter") / "saved_model.pb", half)
        until(lambda: "half" in {model.name for model in client.list_models()})
        assert client.model("half").version == 1

    (half / "saved_model.pb").unlink()
    with pytest.raises(RuntimeError, match="model 'half': expected folders named by version"):
        ServiceProcess(
            *("--model-repository", str(tmp_path / "repository")), log=tmp_path / "log of another"
        )
