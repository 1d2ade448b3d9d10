"""Loading, replacing and unloading models while others use them: through both ports, on fakes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.fakes import FakeVariable
from tests.lifecycle.administered import administered, saved_model
from tests.waiting import until
from varserve.v1 import admin_service_pb2 as pb
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.repository import ModelSource


def test_every_admin_rpc_has_a_method() -> None:
    """Each RPC of AdminService has a documented method of its name in the client."""
    for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods:
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in method.name).lstrip("_")
        assert getattr(varserve.AdminClient, name).__doc__


def test_a_model_is_loaded_replaced_labelled_and_unloaded(tmp_path: Path) -> None:
    """The newest version is taken when none is named, labels move, and what none means goes."""
    with administered(tmp_path) as found:
        for version in (1, 2, 3):
            saved_model(found.repository / "m" / str(version))
        assert found.admin.load_model("m", 1).version == 1
        assert found.version("m") == 1
        assert found.admin.load_model("m").version == 3
        assert found.states() == {("m", 3): "ready"}
        found.admin.load_model("m", 2, label="canary")
        assert (found.version("m"), found.version("m@canary"), found.version("m@2")) == (3, 2, 2)
        found.client.assign_variable("m@canary", "v", np.ones(3, np.float32))
        promoted = found.admin.load_model("m", 2)
        assert promoted.revision == 1
        assert found.loads.done == [("m", 1), ("m", 3), ("m", 2)]
        listed = {each.header.version: each for each in found.admin.list_versions("m")}
        assert listed[2].labels == ("canary", "stable")
        assert [listed[version].state for version in (1, 3)] == [None, None]
        assert all(each.loadable for each in listed.values())
        assert found.admin.unload_model("m", label="stable") == []
        assert [each.version for each in found.admin.unload_model("m")] == [2]
        assert found.states() == {}
        with pytest.raises(varserve.ModelNotFound):
            found.client.model("m")
        with pytest.raises(varserve.ModelNotFound):
            found.admin.unload_model("m")


def test_a_handle_is_of_the_version_that_it_was_asked_for_by(tmp_path: Path) -> None:
    """What is done by a handle of `m@canary`, however, is done to that version and no other."""
    large = 2_000_000  # elements: neither a message nor an event holds them
    with administered(tmp_path) as found:
        found.loads.more = lambda: (FakeVariable("big", np.zeros(large, np.float32)),)
        for version in (1, 2):
            saved_model(found.repository / "m" / str(version))
        found.admin.load_model("m", 1)
        found.admin.load_model("m", 2, label="canary")
        stable, canary = found.client.model("m"), found.client.model("m@canary")
        assert (canary.name, canary.version) == ("m", 2)
        v = canary.variables["v"]
        v.assign([7, 8, 9])
        assert v.numpy().tolist() == canary.read(["v"])["v"].tolist() == [7, 8, 9]
        assert v.summary().max == 9
        assert canary.functions["add"](n=np.int64(5)).revision == 2
        ones = np.ones(large, np.float32)
        with canary.watch("big", after_revision=2, previous=True) as watch:
            canary.variables["big"].assign(ones)
            (change,) = next(watch).changes
        assert change.value is not None
        assert change.previous is not None
        assert (change.value.sum(), change.previous.sum()) == (large, 0)
        with canary.transaction() as both:
            both.assign("v", [1, 1, 1])
            both.assign("count", 0)
        canary.update(["v"], lambda seen: {"v": seen["v"] + 1})
        with v.lease([0, 0, 0], seconds=600):
            assert v.numpy().tolist() == [0, 0, 0]
        assert v.numpy().tolist() == [2, 2, 2]
        canary.revert(1, ["v"])
        canary.refresh()
        assert (canary.version, v.numpy().tolist()) == (2, [7, 8, 9])
        assert canary.commits()[0].revision == canary.revision == 8
        stable.refresh()
        assert (stable.version, stable.revision) == (1, 0)


def test_a_load_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """The version before goes on serving, with its state; the new one is FAILED and says why."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"bad")
        found.admin.load_model("m", 1)
        found.client.assign_variable("m", "v", np.ones(3, np.float32))
        before = found.client.model("m").epoch
        with pytest.raises(varserve.ModelLoadFailed, match="is bad"):
            found.admin.load_model("m")
        assert (found.client.model("m").epoch, found.client.model("m").revision) == (before, 1)
        assert found.states() == {("m", 1): "ready", ("m", 2): "failed"}
        failed = found.admin.list_versions("m")[1]
        assert (failed.state, "is bad" in failed.error) == (varserve.ModelState.FAILED, True)
        shown = [(each.version, each.state) for each in found.client.models()]
        assert shown == [(1, varserve.ModelState.READY), (2, varserve.ModelState.FAILED)]


def test_a_version_that_cannot_be_served_lets_go_of_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal, say: else it could never be loaded again."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        made: list[LiveModel] = []

        def serve(live: LiveModel, label: str) -> list[LiveModel]:
            made.append(live)
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as exhausted:
            exhausted.setattr(found.lifecycle._front, "serve", serve)
            with pytest.raises(varserve.ModelLoadFailed):
                found.admin.load_model("m")
        with pytest.raises(RequestError, match="has been unloaded"):
            made[0].describe()
        assert found.admin.load_model("m").version == 1


def test_a_load_of_one_model_does_not_keep_others_waiting(tmp_path: Path) -> None:
    """While a model is LOADING others are read, and health and lists are answered."""
    reached, go_on = threading.Event(), threading.Event()
    with administered(tmp_path) as found:
        saved_model(found.repository / "a" / "1")
        saved_model(found.repository / "b" / "1")
        found.admin.load_model("a")

        def wait(source: ModelSource) -> None:
            reached.set()
            assert go_on.wait(30)

        found.loads.before = wait
        loading = threading.Thread(target=found.admin.load_model, args=("b",))
        loading.start()
        assert reached.wait(30)
        assert found.version("a") == 1
        assert found.states() == {("a", 1): "ready", ("b", 1): "loading"}
        with pytest.raises(varserve.ModelNotReady):
            found.client.model("b")
        found.client.wait_ready("a")
        with pytest.raises(varserve.DeadlineExceeded):
            found.admin.load_model("b", timeout=0.2)
        assert len(found.admin.list_versions()) == 2
        go_on.set()
        loading.join(30)
        assert found.version("b") == 1


def test_loads_that_wait_for_each_other_do_not_keep_the_list_waiting(tmp_path: Path) -> None:
    """However many models are to be loaded, an operator can see how far they have come."""
    names, go_on = "abcdef", threading.Event()
    with administered(tmp_path) as found:
        for name in names:
            saved_model(found.repository / name / "1")
        found.loads.before = lambda source: None if go_on.wait(30) else pytest.fail("too late")
        loading = [threading.Thread(target=found.admin.load_model, args=(name,)) for name in names]
        for thread in loading:
            thread.start()
        until(lambda: len(found.states()) == 1)
        listed = found.admin.list_versions(timeout=20)
        assert [each.header.model for each in listed] == list(names)
        assert not go_on.is_set()
        go_on.set()
        for thread in loading:
            thread.join(30)
        assert set(found.states().values()) == {"ready"}


async def test_the_admin_client_works_with_await(tmp_path: Path) -> None:
    """The same calls, awaited."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        async with varserve.aio.connect_admin(found.admin_address) as admin:
            assert (await admin.load_model("m")).version == 1
            assert len(await admin.list_versions()) == 1
            assert len(await admin.unload_model("m")) == 1


def test_many_loads_and_unloads_at_once(tmp_path: Path) -> None:
    """Threads that load and unload the same few models leave what the last one wanted."""
    with administered(tmp_path) as found:
        for name in ("a", "b", "c"):
            for version in (1, 2):
                saved_model(found.repository / name / str(version))
        failures: list[BaseException] = []
        done = 0

        def work(number: int) -> None:
            nonlocal done
            with varserve.connect_admin(found.admin_address, retries=20) as admin:
                for turn in range(6):
                    name = "abc"[(number + turn) % 3]
                    try:
                        admin.load_model(name, 1 + (number + turn) % 2)
                        admin.unload_model(name)
                    except varserve.ModelNotFound:
                        pass  # Somebody else unloaded it.
                    except BaseException as error:
                        failures.append(error)
                    done += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failures == []
        assert done == 48
        for name in {status.name for status in found.models.statuses}:
            found.admin.unload_model(name)
        assert isinstance(found.models, Models)
        assert found.states() == {}
        assert len(found.loads.done) > 10
