"""Versions that come into the repository, or leave it: what is taken by itself, and what is not."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

import varserve
import varserve.aio
from tests.lifecycle.administered import Administered, administered, saved_model
from varserve_service.core.errors import Reason, RequestError
from varserve_service.lifecycle import (
    AllowedModels,
    Poller,
)
from varserve_service.repository import ModelSource, Repository, RepositoryError


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
