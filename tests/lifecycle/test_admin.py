"""What operators do to models while others use them: through both ports, on fakes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.fakes import FakeVariable
from tests.lifecycle.administered import Administered, administered, saved_model
from tests.rpc.models import counter
from tests.rpc.test_identity import Claimed
from tests.rpc.traversing import names
from tests.waiting import read_line, until
from varserve.v1 import admin_service_pb2 as pb
from varserve_service.access.audit import AuditLog
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.journal import save_safetensors
from varserve_service.lifecycle import (
    AllowedModels,
    LifecycleOptions,
    Poller,
    SaveRoom,
    SwitchOrder,
    loading,
)
from varserve_service.repository import ModelSource, Repository, RepositoryError
from varserve_service.rpc import Access, Auditing

ROOT = Path(__file__).resolve().parents[2]


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


def test_memory_for_one_version_alone_swaps_them(tmp_path: Path) -> None:
    """The old one goes first where both do not fit, and comes back when the new one fails.

    A load that would fit in no way is refused with the numbers.
    """
    room = Room(10 * 2**20, 100 * 2**20)
    budget = MemoryBudget("host", lambda: room)
    with administered(tmp_path, budgets=(budget,)) as found:
        for version, content in ((1, b""), (2, b""), (3, b"bad")):
            saved_model(found.repository / "m" / str(version), content)
        events: list[tuple[int, Any]] = []
        found.loads.before = lambda source: events.append((source.version, dict(found.states())))
        found.admin.load_model("m", 1)
        found.admin.load_model("m", 2)
        assert events[-1] == (2, {("m", 2): "loading"})
        with pytest.raises(varserve.ModelLoadFailed):
            found.admin.load_model("m", 3)
        assert [version for version, _ in events] == [1, 2, 3, 2]
        assert found.version("m") == 2
        data = found.repository / "m" / "1" / "variables" / "variables.data-00000-of-00001"
        data.write_bytes(bytes(100 * 2**20))
        with pytest.raises(varserve.OutOfMemory, match=r"about \d+ bytes of host memory"):
            found.admin.load_model("m", 1)
        assert found.version("m") == 2


def test_a_version_that_is_stuck_on_its_way_out_is_not_loaded_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With old_first, where the new one fails and a kernel holds the old one, the caller is told.

    When the old one has ended at last it can be loaded, and its end takes nothing from the list.
    """
    monkeypatch.setattr(loading, "_ENDING_SECONDS", 0.05)
    options = LifecycleOptions(0.05, SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"bad")
        found.admin.load_model("m", 1)
        old = found.models.find("m")
        old._parts.lock.acquire_shared(None)
        with pytest.raises(varserve.ModelLoadFailed, match="is bad"):
            found.admin.load_model("m", 2)
        assert found.states() == {("m", 1): "unloading", ("m", 2): "failed"}
        assert found.loads.done == [("m", 1)]
        old._parts.lock.release_shared()
        until(lambda: ("m", 1) not in found.states())
        found.admin.load_model("m", 1)
        assert found.states() == {("m", 1): "ready", ("m", 2): "failed"}
        # Whoever of that name and number ends now, it is not this one.
        found.models.forget("m", 1, old)
        assert found.states()["m", 1] == "ready"


def test_a_version_that_does_not_come_back_is_told_of(tmp_path: Path) -> None:
    """The caller is told why the new one failed, and the list says what became of the old one."""
    options = LifecycleOptions(order=SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        one = saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"new is bad")
        found.admin.load_model("m", 1)

        def spoil(source: ModelSource) -> None:
            (source.path / "saved_model.pb").write_bytes(b"bad")

        found.loads.before = spoil
        with pytest.raises(varserve.ModelLoadFailed, match="m/2 is bad"):
            found.admin.load_model("m", 2)
        assert found.states() == {("m", 1): "failed", ("m", 2): "failed"}
        assert f"{one} is bad" in found.admin.list_versions("m")[0].error


def test_the_order_can_be_set(tmp_path: Path) -> None:
    """With old_first the old version is gone when the new one is loaded."""
    options = LifecycleOptions(order=SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        for version in (1, 2):
            saved_model(found.repository / "m" / str(version))
        found.admin.load_model("m", 1)
        seen = []
        found.loads.before = lambda source: seen.append(dict(found.states()))
        found.admin.load_model("m")
        assert seen == [{("m", 2): "loading"}]


def polled(found: Administered, *pinned: str) -> Poller:
    return Poller(found.lifecycle, found.models, Repository({}, found.repository), 1, pinned)


def test_new_versions_are_taken_when_they_have_settled(tmp_path: Path) -> None:
    """Two looks that see the same complete files take a version; a failed one is tried once."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        found.admin.load_model("m")
        poller = polled(found)
        assert poller.poll() == []
        two = saved_model(found.repository / "m" / "2")
        index = two / "variables" / "variables.index"
        index.unlink()
        assert [poller.poll(), poller.poll()] == [[], []]
        index.write_bytes(b"half")
        assert poller.poll() == []
        index.write_bytes(b"whole")
        assert poller.poll() == []
        assert [source.version for source in poller.poll()] == [2]
        assert found.version("m") == 2
        saved_model(found.repository / "m" / "3", b"bad")
        assert poller.poll() == []
        assert len(poller.poll()) == 1
        assert [poller.poll(), poller.poll()] == [[], []]
        assert found.version("m") == 2
        wrong = found.repository / "m" / "3" / "saved_model.pb"
        before = wrong.stat()
        wrong.write_bytes(b"fit")  # as large as before, and as old: `cp -p` does so
        os.utime(wrong, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert poller.poll() == []
        assert len(poller.poll()) == 1
        assert found.version("m") == 3
        # What an operator went back to stays.
        found.admin.load_model("m", 1)
        assert [poller.poll(), poller.poll(), found.version("m")] == [[], [], 1]
        saved_model(found.repository / "new" / "1")
        assert [len(poller.poll()), len(poller.poll())] == [0, 1]
        assert found.version("new") == 1


def sums(folder: Path, root: Path) -> str:
    """What `sha256sum` writes of all files below a folder, by their paths from the root."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def test_a_version_that_was_not_allowed_is_tried_again_when_the_list_has_changed(
    tmp_path: Path,
) -> None:
    """Once for each change, also where nobody could read the list; what failed otherwise is not."""
    listed = tmp_path / "allowed.sha256"
    allowed = AllowedModels(listed)
    with administered(tmp_path, check=allowed.check) as found:
        root = found.repository
        one = saved_model(root / "m" / "1")
        saved_model(root / "m" / "2")
        bad = saved_model(root / "bad" / "1", b"bad")
        poller = Poller(found.lifecycle, found.models, Repository({}, root), 1, (), allowed)

        def polled() -> list[tuple[str, int]]:
            return [(source.name, source.version) for source in poller.poll()]

        assert (polled(), polled()) == ([], [("bad", 1), ("m", 2)])
        with pytest.raises(varserve.ModelNotAllowed, match="cannot be read"):
            found.admin.load_model("m", 1)
        assert polled() == []
        listed.write_text(sums(one, root) + sums(bad, root))
        assert (polled(), polled()) == ([("bad", 1), ("m", 2)], [])
        found.admin.load_model("m", 1)
        listed.write_text("no digest\n")
        assert (polled(), polled()) == ([("m", 2)], [])
        assert found.version("m") == 1
        everything = sums(root, root)
        listed.write_text(everything)
        assert (polled(), polled()) == ([("m", 2)], [])
        assert found.version("m") == 2
        # What an operator went back to stays.
        found.admin.load_model("m", 1)
        listed.write_text(f"# mended\n{everything}")
        assert (polled(), polled(), found.version("m")) == ([], [], 1)


def test_a_version_that_was_unloaded_is_not_tried_again_when_the_list_has_changed(
    tmp_path: Path,
) -> None:
    """An operator who has unloaded the model does not want it."""
    listed = tmp_path / "allowed.sha256"
    listed.write_text("")
    allowed = AllowedModels(listed)
    with administered(tmp_path, check=allowed.check) as found:
        saved_model(found.repository / "m" / "1")
        repository = Repository({}, found.repository)
        poller = Poller(found.lifecycle, found.models, repository, 1, (), allowed)
        assert [len(poller.poll()), len(poller.poll())] == [0, 1]
        assert [each.version for each in found.admin.unload_model("m")] == [1]
        listed.write_text(sums(found.repository, found.repository))
        assert [poller.poll(), poller.poll()] == [[], []]
        assert found.states() == {}


@pytest.mark.parametrize("look", ["poll", "list"])
def test_a_failed_version_that_is_taken_out_of_the_repository_is_forgotten(
    tmp_path: Path, look: str
) -> None:
    """It is what an operator is told to do, and the alert on failed versions ends with it."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        bad = saved_model(found.repository / "m" / "2", b"bad")
        found.admin.load_model("m", 1)
        with pytest.raises(varserve.ModelLoadFailed):
            found.admin.load_model("m", 2)
        poller = polled(found)
        both = {("m", 1): "ready", ("m", 2): "failed"}
        for _ in range(2):
            poller.poll() if look == "poll" else found.admin.list_versions("m")
            assert found.states() == both
        shutil.rmtree(bad)
        found.repository.rename(tmp_path / "away")  # what cannot be looked at is not gone
        with suppress(RepositoryError):
            poller.poll() if look == "poll" else found.admin.list_versions("m")
        assert found.states() == both
        (tmp_path / "away").rename(found.repository)
        poller.poll() if look == "poll" else found.admin.list_versions("m")
        assert found.states() == {("m", 1): "ready"}
        assert [each.header.version for each in found.admin.list_versions("m")] == [1]
        assert found.version("m") == 1


def test_who_unloads_a_failed_version_by_its_label_is_told_how_it_goes(tmp_path: Path) -> None:
    """It has none; what is served stays, and unloading all of the model takes both."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"bad")
        found.admin.load_model("m", 1)
        with pytest.raises(varserve.ModelNotFound, match=r"one of: 'stable' of version 1$"):
            found.admin.unload_model("m", label="canary")
        with pytest.raises(varserve.ModelLoadFailed):
            found.admin.load_model("m", 2, label="canary")
        with pytest.raises(varserve.ModelNotFound) as caught:
            found.admin.unload_model("m", label="canary")
        assert str(caught.value) == (
            "model 'm' has no label 'canary'; expected one of: 'stable' of version 1. No label "
            "means a version that is failed (2): it leaves the list with its files, when it is "
            "loaded after all, or with all of the model, when that is unloaded without a label"
        )
        assert found.states() == {("m", 1): "ready", ("m", 2): "failed"}
        assert found.version("m") == 1
        assert [each.version for each in found.admin.unload_model("m")] == [1, 2]
        assert found.states() == {}


def test_a_pinned_model_is_not_replaced(tmp_path: Path) -> None:
    """A model whose stable version is fixed stays with it, whatever comes."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        found.admin.load_model("m")
        poller = polled(found, "m")
        saved_model(found.repository / "m" / "2")
        assert [poller.poll(), poller.poll(), poller.poll()] == [[], [], []]
        assert found.version("m") == 1


def room_of(tmp_path: Path) -> SaveRoom:
    return SaveRoom(tmp_path / "saves", {SaveFormat.SAFETENSORS: save_safetensors})


def test_no_name_leads_out_of_the_repository_or_the_saves(tmp_path: Path) -> None:
    """Names that look like paths, as model, version, label or folder, load and write nothing."""
    outside = saved_model(tmp_path / "outside" / "m" / "1")
    with administered(tmp_path, room_of(tmp_path)) as found:
        saved_model(found.repository / "m" / "1")
        (found.repository / "link").symlink_to(tmp_path / "outside" / "m")
        (found.repository / "m" / "9").symlink_to(outside)
        found.admin.load_model("m", 1)
        (tmp_path / "saves").mkdir()
        (tmp_path / "saves" / "link").symlink_to(tmp_path / "outside")
        before = sorted(tmp_path.rglob("*"))
        tried = 0
        for name in [*names(tmp_path / "outside"), "link", "../outside/m", ""]:
            with pytest.raises((varserve.NotFound, varserve.InvalidRequest)):
                found.admin.load_model(name)
            with pytest.raises((varserve.NotFound, varserve.InvalidRequest)):
                found.admin.unload_model(name)
            tried += 1
            if name == "NUL":  # A good name, here.
                continue
            with pytest.raises(varserve.InvalidRequest if name != "link" else varserve.SaveExists):
                found.admin.save_model("m", name, format="safetensors")
            with pytest.raises((varserve.InvalidRequest, varserve.SaveExists)):
                found.admin.save_model("m", f"{name}/7", format="safetensors")
            with pytest.raises((varserve.NotFound, varserve.InvalidRequest)):
                found.admin.load_model("m", 1, label=name.upper() or "../x")
        with pytest.raises(varserve.ModelNotFound):
            found.admin.load_model("m", 9)
        with pytest.raises(varserve.InvalidRequest):
            found.admin.load_model("m", -1)
        assert tried > 25
        assert found.loads.done == [("m", 1)]
        assert sorted(tmp_path.rglob("*")) == before


def test_a_save_is_whole_and_never_overwrites(tmp_path: Path) -> None:
    """What is there stays as it is, and a save that fails leaves nothing."""
    from safetensors import safe_open

    with administered(tmp_path, room_of(tmp_path)) as found:
        saved_model(found.repository / "m" / "1")
        found.admin.load_model("m", 1)
        found.client.assign_variable("m", "v", np.full(3, 7, np.float32))
        saved = found.admin.save_model("m", "m/2", format="safetensors")
        assert (saved.header.revision, saved.variable_count) == (1, 2)
        file = tmp_path / "saves" / "m" / "2" / "model.safetensors"
        with safe_open(file, "np") as opened:
            assert opened.get_tensor("v").tolist() == [7, 7, 7]
            assert opened.metadata()["revision"] == "1"
        whole = file.read_bytes()
        with pytest.raises(varserve.SaveExists):
            found.admin.save_model("m", "m/2", format="safetensors")
        assert file.read_bytes() == whole

        def fail(folder: Path, *_: Any) -> None:
            (folder / "half").write_bytes(b"half")
            raise OSError(28, "No space left on device")

        found.lifecycle._room = SaveRoom(tmp_path / "saves", {SaveFormat.SAFETENSORS: fail})
        with pytest.raises(varserve.SaveFailed, match="No space left"):
            found.admin.save_model("m", "m/3", format="safetensors")
        found.lifecycle._room = None
        with pytest.raises(varserve.NotConfigured):
            found.admin.save_model("m", "m/4", format="safetensors")
        assert sorted(path.name for path in (tmp_path / "saves" / "m").iterdir()) == ["2"]
        assert sorted(path.name for path in (tmp_path / "saves").iterdir()) == ["m"]


KILLED = """
import sys
from pathlib import Path
from tests.rpc.models import counter
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.lifecycle import SaveRoom

def stuck(folder, *_):
    (folder / "half").write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()

room = SaveRoom(Path(sys.argv[1]), {SaveFormat.SAFETENSORS: stuck})
room.save(counter(), None, "m/2", SaveFormat.SAFETENSORS)
"""


def test_what_a_killed_process_left_of_a_save_is_removed(tmp_path: Path) -> None:
    """When its process has ended, and not before; nothing else that is there goes."""
    saves = tmp_path / "saves"
    room = room_of(tmp_path)
    room.sweep()
    command = (sys.executable, "-c", KILLED, str(saves))
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        assert read_line(process) == "writing"
        (half,) = saves.iterdir()
        room.sweep()
        assert (half / "half").read_bytes() == b"half"
        process.kill()
    kept = {".saving-", ".saving-0123456789abcde", ".saving-0123456789ABCDEF", "m"}
    for name in kept:
        (saves / name).mkdir()
    (saves / ".saving-0123456789abcdef").symlink_to(tmp_path)
    (saves / ".saving-0123456789abcdee").write_bytes(b"a file")
    (saves / ".saving-0123456789abcded").mkdir()
    room.sweep()
    left = {path.name for path in saves.iterdir()}
    assert left == kept | {".saving-0123456789abcdef", ".saving-0123456789abcdee"}
    assert tmp_path.is_dir()


def test_a_save_whose_folder_is_swept_as_it_begins_goes_on_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two services that share a folder: one starts between the other's first steps."""
    swept: list[Path] = []
    lock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        if not swept:
            swept.extend((tmp_path / "saves").iterdir())
            room_of(tmp_path).sweep()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    room_of(tmp_path).save(counter(), None, "m", SaveFormat.SAFETENSORS)
    assert len(swept) == 1
    assert [path.name for path in (tmp_path / "saves").iterdir()] == ["m"]


def test_a_save_that_has_to_copy_needs_memory(tmp_path: Path) -> None:
    """Of what is written in place (an embedding) a copy is saved; the others are references."""
    with administered(tmp_path, room_of(tmp_path)) as found:
        size = 2 * SMALL_BYTES // 4
        for name, in_place in (("plain", False), ("table", True)):
            big = FakeVariable("big", np.zeros(size, np.float32), in_place=in_place)
            found.loads.more = lambda big=big: (big,)  # type: ignore[misc]
            saved_model(found.repository / name / "1")
            found.admin.load_model(name)
            found.models.find(name).memory.host._look = lambda: Room(SMALL_BYTES, 2**30)
        found.admin.save_model("plain", "plain", format="safetensors")
        with pytest.raises(varserve.OutOfMemory, match="the save needs"):
            found.admin.save_model("table", "table", format="safetensors")
        assert found.models.find("table").memory.host.reserved == 0


def test_what_is_saved_into_the_repository_does_not_keep_the_service_from_starting(
    tmp_path: Path,
) -> None:
    """Saves that are no version to serve are no models without a version, either."""
    with administered(tmp_path) as found:
        saved_model(found.repository / "m" / "1")
        found.admin.load_model("m", 1)
        savers = {SaveFormat.SAFETENSORS: save_safetensors}
        found.lifecycle._room = SaveRoom(found.repository, savers)
        for folder in ("kept", "m/5", "new/1", "m2"):
            found.admin.save_model("m", folder, format="safetensors")
        saved_model(found.repository / "m2" / "3")
        started = Repository({}, found.repository).all()
        assert [(each.name, each.version) for each in started] == [("m", 1), ("m2", 3)]
        (found.repository / "empty").mkdir()
        with pytest.raises(RepositoryError, match="model 'empty': expected folders named by"):
            Repository({}, found.repository).all()


RULES = b"""
rules:
  - {subjects: [ann], verbs: [admin], models: [a, "a-*"]}
  - {subjects: [bob], verbs: [admin], models: ["*"]}
"""


def test_a_folder_is_judged_like_a_model_of_its_name(tmp_path: Path) -> None:
    """In a repository it would be served under that name, whether such a model exists or not."""
    rules = read_policy(RULES)
    access = Access(authenticator=Claimed(), policy=lambda: rules)
    with administered(tmp_path, room_of(tmp_path), access=access) as found:
        saved_model(found.repository / "a" / "1")
        ann, bob = (
            varserve.connect_admin(found.admin_address, metadata=[("name", name)], retries=0)
            for name in ("ann", "bob")
        )
        with ann, bob:
            ann.load_model("a")
            for folder in ("b/2", "b2/1", "b", "b2"):
                name = folder.partition("/")[0]
                with pytest.raises(varserve.AccessDenied, match=f"named like model '{name}'"):
                    ann.save_model("a", folder, format="safetensors")
            ann.save_model("a", "a/2", format="safetensors")
            ann.save_model("a", "a-kept", format="safetensors")
            bob.save_model("a", "b/2", format="safetensors")


def test_the_audit_log_says_which_version_label_and_folder(tmp_path: Path) -> None:
    """Of what an operator did and tried."""
    audited = tmp_path / "audit"
    access = Access(auditing=Auditing(AuditLog(audited)))
    with administered(tmp_path, room_of(tmp_path), access=access) as found:
        for version, content in ((3, b""), (4, b"bad")):
            saved_model(found.repository / "m" / str(version), content)
        epoch = found.admin.load_model("m", 3).epoch
        found.admin.load_model("m", 3, label="canary")
        found.admin.save_model("m@canary", "m/5", format="safetensors")
        found.admin.unload_model("m", label="canary")
        with pytest.raises(varserve.ModelLoadFailed):
            found.admin.load_model("m")
    told = [json.loads(line) for line in audited.read_text().splitlines()]
    fields = ("method", "outcome", "model", "label", "folder", "version", "epoch")
    assert [tuple(each.get(field) for field in fields) for each in told] == [
        ("LoadModel", "OK", "m", "stable", None, 3, epoch),
        ("LoadModel", "OK", "m", "canary", None, 3, epoch),
        ("SaveModel", "OK", "m@canary", None, "m/5", 3, epoch),
        ("UnloadModel", "OK", "m", "canary", None, None, None),
        ("LoadModel", "MODEL_LOAD_FAILED", "m", "stable", None, None, None),
    ]


def test_only_models_that_are_listed_are_allowed(tmp_path: Path) -> None:
    """A file that is changed, missing or more than the list has refuses the model."""
    folder = saved_model(tmp_path / "m" / "1", b"model")
    listed = tmp_path / "allowed.sha256"
    source = ModelSource("m", 1, folder)

    def write() -> None:
        listed.write_text(sums(folder, tmp_path))

    def reason() -> str:
        with pytest.raises(RequestError) as caught:
            AllowedModels(listed).check(source)
        assert caught.value.reason is Reason.MODEL_NOT_ALLOWED
        return caught.value.message

    write()
    AllowedModels(listed).check(source)
    (folder / "saved_model.pb").write_bytes(b"other")
    assert "saved_model.pb" in reason()
    write()
    (folder / "more").write_bytes(b"")
    assert "more" in reason()
    write()
    (folder / "more").unlink()
    assert "more" in reason()
    listed.write_text("")
    reason()
    listed.write_text("no digest\n")
    assert "line 1" in reason()
    listed.unlink()
    assert "cannot be read" in reason()


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
