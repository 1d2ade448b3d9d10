"""Saving models, and which folders and models an operator may name."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.fakes import FakeVariable
from tests.lifecycle.administered import administered, saved_model
from tests.rpc.models import counter
from tests.rpc.test_identity import Claimed
from tests.rpc.traversing import names
from tests.waiting import read_line
from varserve_service.access.audit import AuditLog
from varserve_service.access.policy_file import read_policy
from varserve_service.core.memory import SMALL_BYTES, Room
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.journal import save_safetensors
from varserve_service.lifecycle import (
    SaveRoom,
)
from varserve_service.repository import Repository, RepositoryError
from varserve_service.rpc import Access, Auditing

ROOT = Path(__file__).resolve().parents[2]
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
RULES = b"""
rules:
  - {subjects: [ann], verbs: [admin], models: [a, "a-*"]}
  - {subjects: [bob], verbs: [admin], models: ["*"]}
"""


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
