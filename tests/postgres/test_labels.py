"""Labels of replicas: each means the same version at all of them, and moves when all have it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import varserve
from tests.lifecycle.administered import Administered, administered, saved_model
from tests.serving import service_process
from tests.waiting import join, until
from varserve_service.bootstrap.shared_sources import shared_sources
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.ports.shared_labels import SharedLabel
from varserve_service.journal.postgres import PostgresState
from varserve_service.journal.postgres.labels import LabelRows
from varserve_service.repository import ModelSource, Repository

Join = Callable[[str], tuple[Administered, LabelRows]]


@pytest.fixture
def joins(tmp_path: Path, database: str) -> Iterator[Join]:
    """Starts services that follow the labels of one database, by a name for their folders."""
    with ExitStack() as started:

        def start(name: str) -> tuple[Administered, LabelRows]:
            (tmp_path / name).mkdir(exist_ok=True)
            found = started.enter_context(administered(tmp_path / name))
            labels = PostgresState(database).labels
            labels.begin({})
            found.lifecycle.share(labels)
            started.callback(found.lifecycle.stop)
            return found, labels

        yield start


def put(found: Administered, version: int, content: bytes = b"", name: str = "m") -> None:
    saved_model(found.repository / name / str(version), content)


def follows(found: Administered, **labels: int) -> bool:
    return dict(found.models.labels("m")) == labels


@contextmanager
def waiting_to_load(found: Administered) -> Iterator[threading.Event]:
    """Loads there wait in the block; the event is set while one does."""
    waits, go_on = threading.Event(), threading.Event()

    def before(source: ModelSource) -> None:
        waits.set()
        assert go_on.wait(60)

    found.loads.before = before
    try:
        yield waits
    finally:
        found.loads.before = lambda source: None
        go_on.set()


def test_a_label_moves_when_all_replicas_have_the_version(joins: Join) -> None:
    """Not before: callers of either get the old version until both have the new one."""
    (one, _), (two, _) = joins("one"), joins("two")
    for found in (one, two):
        put(found, 1)
        put(found, 2)
    assert one.admin.load_model("m", 1).version == 1
    until(lambda: follows(two, stable=1))
    with waiting_to_load(two) as waits:
        loading = threading.Thread(target=one.admin.load_model, args=("m", 2))
        loading.start()
        assert waits.wait(30)
        until(lambda: ("m", 2) in one.loads.done)
        assert loading.is_alive()
        assert [found.version("m") for found in (one, two)] == [1, 1]
    join([loading])
    assert one.version("m") == 2
    until(lambda: two.version("m") == 2)
    for found in (one, two):
        until(lambda found=found: found.states() == {("m", 2): "ready"})
        assert found.loads.done == [("m", 1), ("m", 2)]


def test_labels_come_and_go_at_all_replicas(joins: Join) -> None:
    """Set at one and taken away at the other; the bare name stays what it is."""
    (one, _), (two, _) = joins("one"), joins("two")
    for found in (one, two):
        put(found, 1)
        put(found, 2)
    one.admin.load_model("m", 1)
    one.admin.load_model("m", 2, label="canary")
    until(lambda: follows(two, stable=1, canary=2))
    assert two.client.model("m@canary").version == 2
    two.admin.unload_model("m", label="canary")
    until(lambda: follows(one, stable=1))
    until(lambda: one.states() == two.states() == {("m", 1): "ready"})
    one.admin.unload_model("m")
    until(lambda: one.states() == two.states() == {})


def test_a_version_that_one_cannot_load_moves_nowhere(joins: Join) -> None:
    """The caller is told that replica's reason; when it is mended the same load goes through."""
    (one, _), (two, labels) = joins("one"), joins("two")
    for found in (one, two):
        put(found, 1)
    put(one, 2)
    put(two, 2, b"bad")
    one.admin.load_model("m", 1)
    until(lambda: follows(two, stable=1))
    with pytest.raises(varserve.ModelLoadFailed) as caught:
        one.admin.load_model("m", 2)
    assert "another replica could not load it" in str(caught.value)
    assert "is bad" in str(caught.value)
    assert labels.all() == [SharedLabel("m", "stable", 1, 1, 2)]
    until(lambda: one.states() == {("m", 1): "ready"})
    assert [follows(found, stable=1) for found in (one, two)] == [True, True]
    (two.repository / "m" / "2" / "saved_model.pb").write_bytes(b"")
    one.admin.load_model("m", 2)
    until(lambda: follows(two, stable=2))


def test_files_may_come_later_at_one_replica(joins: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a repository of its own: the label moves when the last has the version there."""
    monkeypatch.setattr("varserve_service.lifecycle.agreement._AGAIN_SECONDS", 0.1)
    (one, _), (two, _) = joins("one"), joins("two")
    for found in (one, two):
        put(found, 1)
    put(one, 2)
    one.admin.load_model("m", 1)
    until(lambda: follows(two, stable=1))
    with pytest.raises(varserve.DeadlineExceeded):
        one.admin.load_model("m", 2, timeout=1)
    assert [follows(found, stable=1) for found in (one, two)] == [True, True]
    put(two, 2)
    until(lambda: follows(one, stable=2) and follows(two, stable=2))


@pytest.mark.slow
def test_a_replica_that_is_gone_is_not_waited_for(joins: Join) -> None:
    """One that went without a word, after some seconds."""
    (one, _), (two, labels) = joins("one"), joins("two")
    put(one, 1)
    put(one, 2)
    put(two, 1)
    one.admin.load_model("m", 1)
    until(lambda: follows(two, stable=1))
    two.lifecycle._agreement._stopped.set()  # type: ignore[union-attr]
    labels._left.set()
    assert one.admin.load_model("m", 2, timeout=60).version == 2
    assert follows(two, stable=1)


def test_another_service_of_the_database_is_left_alone(joins: Join) -> None:
    """One that does not have the model is neither waited for nor made to serve it."""
    (one, _), (other, _) = joins("one"), joins("other")
    put(one, 1)
    put(one, 2)
    put(other, 1, name="elsewhere")
    other.admin.load_model("elsewhere", 1)
    for version in (1, 2):
        assert one.admin.load_model("m", version, timeout=30).version == version
    assert set(other.states()) == {("elsewhere", 1)}
    assert set(one.states()) <= {("m", 1), ("m", 2)}


def test_a_load_needs_the_database(joins: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nothing moves here either, and the caller is told; calls go on."""
    one, labels = joins("one")
    put(one, 1)
    put(one, 2)
    one.admin.load_model("m", 1)

    def away() -> Any:
        raise psycopg.OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr(labels._connector, "connect", away)
        labels._drop()
        for refused in (
            lambda: one.admin.load_model("m", 2),
            lambda: one.admin.unload_model("m"),
        ):
            with pytest.raises(varserve.StateStoreUnavailable):
                refused()
        assert one.version("m") == 1
    assert one.admin.load_model("m", 2).version == 2


def source(root: Path, version: int) -> ModelSource:
    return Repository({}, root).find("m", version)


def test_what_a_replica_serves_from_the_start(tmp_path: Path, database: str) -> None:
    """What labels mean already, whatever its settings say; the first one's settings decide."""
    for version in (1, 2, 3):
        saved_model(tmp_path / "m" / str(version))
    repository = Repository({}, tmp_path)
    first, late, last = (PostgresState(database).labels for _ in range(3))
    own = [(source(tmp_path, 1), ("stable",)), (source(tmp_path, 2), ("canary",))]
    assert set(shared_sources(own, first, repository)) == set(own)
    newest = [(source(tmp_path, 3), ("stable",))]
    assert set(shared_sources(newest, late, repository)) == set(own)
    shutil.rmtree(tmp_path / "m" / "2")
    with pytest.raises(ModelLoadError) as caught:
        shared_sources(newest, last, repository)
    assert "label 'canary' means version 2 in all replicas" in str(caught.value)
    for labels in (first, late, last):
        labels.leave()
    again = PostgresState(database).labels
    assert shared_sources(newest, again, repository) == newest
    assert again.all() == [SharedLabel("m", "stable", 3, 3, 0)]
    again.leave()


@pytest.mark.slow
def test_services_follow_one_label(
    tmp_path: Path, database: str, model_folder: Callable[[str], Path]
) -> None:
    """Real ones: moved at one, followed at another, and by one that starts; the state with it."""
    repository = tmp_path / "repository"
    for version in (1, 2):
        shutil.copytree(model_folder("counter"), repository / "counter" / str(version))
    shutil.move(repository / "counter" / "2", tmp_path / "2")
    flags = (f"--model-repository={repository}", "--admin-port=0", "--state", database)
    with ExitStack() as running:

        def start(number: int) -> tuple[varserve.Client, varserve.AdminClient]:
            process = running.enter_context(service_process({}, tmp_path / f"log{number}", flags))
            client = running.enter_context(varserve.connect(process.address))
            admin = running.enter_context(varserve.connect_admin(process.admin_address))
            return client, admin

        (one, admin), (two, _) = start(1), start(2)
        one.model("counter").variables["count"].assign(5)
        shutil.move(tmp_path / "2", repository / "counter" / "2")
        assert admin.load_model("counter", 2, label="canary").version == 2
        until(lambda: two.model("counter@canary").version == 2)
        two.model("counter@canary").variables["count"].assign(7)
        assert admin.load_model("counter", 2).version == 2
        until(lambda: two.model("counter").version == 2)
        (late, _) = start(3)
        for client in (one, two, late):
            model = client.model("counter")
            assert (model.version, int(model.variables["count"].numpy(linearizable=True))) == (2, 7)
