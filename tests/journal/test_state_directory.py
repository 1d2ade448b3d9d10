"""Whose state it is: one server at a time, and the model that it was written for."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, refused, value_of
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Conditions, Read
from varserve_service.journal import StateDirectory, disk


def model(*variables: FakeVariable, fingerprint: str = "fake") -> Callable[[], FakeModel]:
    def make() -> FakeModel:
        made = FakeModel(
            [
                FakeVariable(v.spec.name, v.array, path=v.spec.path, shape=v.spec.shape)
                for v in variables
            ]
        )
        made.fingerprint = fingerprint
        return made

    return make


def variable(name: str = "v", shape: Any = 3, dtype: str = "float32", **more: Any) -> FakeVariable:
    return FakeVariable(name, np.zeros(shape, dtype), **more)


ORIGINAL = model(variable(), variable("w"))


def versioned(version: int) -> Callable[[], FakeModel]:
    def make() -> FakeModel:
        made = ORIGINAL()
        made.version = version
        return made

    return make


def begin(directory: Path) -> str:
    """A state with one commit; its epoch."""
    with kept(directory, ORIGINAL) as (live, _):
        live.assign([Write("v", Operation.SET, np.ones(1, np.float32), Rows(np.array([1])))])
        return live.header.epoch


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """While one has the directory another is told so, with the process that has it."""
    told = pytest.raises(JournalError, match=r"in use by another server \(process \d+\)")
    with kept(tmp_path, ORIGINAL), told:
        StateDirectory(tmp_path)
    begin(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (model(variable()), "variable 'w' is gone"),
        (model(variable(), variable("w", 4)), "variable 'w': expected shape [3], found [4]"),
        (
            model(variable(), variable("w", dtype="float64")),
            "variable 'w': expected dtype float32, found float64",
        ),
        (model(variable(), variable("w"), variable("x")), "variable 'x' is new"),
        (
            model(variable(), variable("w", shape=4), variable("x", 1)),
            "variable 'w': expected shape [3], found [4]; variable 'x' is new",
        ),
        (
            model(variable(), variable("w"), fingerprint="another"),
            "its variables begin with other values",
        ),
    ],
    ids=["gone", "reshaped", "another dtype", "new", "two differences", "other values"],
)
def test_another_model_is_refused_with_what_differs(
    tmp_path: Path, changed: Callable[[], FakeModel], said: str
) -> None:
    """The message names model, folder, what differs and the way on; the state stays as it was."""
    epoch = begin(tmp_path)
    message = refused(tmp_path, changed)
    assert said in message
    for part in ("model 'fake'", str(tmp_path / "models" / "fake" / "1"), "--state-reset"):
        assert part in message
    with kept(tmp_path, ORIGINAL) as (live, _):
        assert (live.header.epoch, live.header.revision) == (epoch, 1)


def test_a_new_name_of_a_variable_is_not_another_model(tmp_path: Path) -> None:
    """The path is what a variable is known by."""
    begin(tmp_path)
    renamed = model(variable("neu", path="v"), variable("w"))
    with kept(tmp_path, renamed) as (live, _):
        assert value_of(live, "neu").tolist() == [0, 1, 0]


def test_a_reset_moves_the_refused_state_aside_and_begins_anew(tmp_path: Path) -> None:
    """What is moved aside is whole: put back, it is taken up again."""
    epoch = begin(tmp_path)
    other = model(variable(), variable("w"), fingerprint="another")
    with kept(tmp_path, other, reset=True) as (live, _):
        assert live.header.revision == 0
        assert live.header.epoch != epoch
        assert value_of(live, "v").tolist() == [0, 0, 0]
        live.assign([Write("v", Operation.SET, np.full(3, 2, np.float32))])
    with kept(tmp_path, other, reset=True) as (live, _):
        assert value_of(live, "v").tolist() == [2, 2, 2]  # not refused, so not moved
    (aside,) = (tmp_path / "aside").iterdir()
    again = tmp_path / "again" / "models" / "fake" / "1"
    again.parent.mkdir(parents=True)
    aside.rename(again)
    with kept(tmp_path / "again", ORIGINAL) as (live, _):
        assert (live.header.epoch, live.header.revision) == (epoch, 1)
        assert value_of(live, "v").tolist() == [0, 1, 0]


def test_nothing_is_reset_that_nobody_asked_for(tmp_path: Path) -> None:
    """A state that is refused stays where it is, and no state begins a new epoch by itself."""
    epoch = begin(tmp_path)
    with closing(StateDirectory(tmp_path)) as directory:
        with pytest.raises(JournalError, match="is refused"):
            directory.take_up(model(variable("other")), LiveModel)
        assert not (tmp_path / "aside").exists()
        live, journal = directory.take_up(ORIGINAL, LiveModel)
        journal.close()
        assert live.header.epoch == epoch


def test_a_reset_after_damage_begins_with_the_models_own_values(tmp_path: Path) -> None:
    """A state that turns out damaged half way through the replay leaves nothing in the model."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable("v", np.zeros(300, np.float32), in_place=True)])

    with kept(tmp_path, make, inline_bytes=0) as (live, _):
        for number in (1, 2):
            live.assign([Write("v", Operation.SET, np.full(300, number, np.float32))])
    payloads = sorted(
        (tmp_path / "models/fake/1/payloads").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    payloads[1].write_bytes(payloads[1].read_bytes()[:-1])
    assert str(payloads[1]) in refused(tmp_path, make)
    with kept(tmp_path, make, reset=True) as (live, _):
        assert (live.header.revision, value_of(live, "v").tolist()) == (0, [0] * 300)


def test_a_restored_copy_goes_on_in_a_new_epoch(tmp_path: Path) -> None:
    """Values, revisions, history and request ids are the copy's; no revision is given out twice.

    One start with it is enough, however it ends, and each start after it keeps the epoch.
    """
    request = WriteRequest("w", b"1")
    state, copy = tmp_path / "state", tmp_path / "copy"
    begin(state)
    with kept(state, ORIGINAL) as (live, _):
        live.assign([Write("w", Operation.SET, np.ones(3, np.float32))], request=request)
        before = live.header
    shutil.copytree(state, copy)
    with kept(state, ORIGINAL) as (live, _):
        live.assign([Write("v", Operation.SET, np.full(3, 5, np.float32))])
        seen = live.header  # what a client knows when the copy takes the state's place
    with kept(copy, ORIGINAL, restored=True) as (live, _):
        assert live.header.revision == before.revision == seen.revision - 1
        assert live.header.epoch != seen.epoch
        assert value_of(live, "v").tolist() == [0, 1, 0]
        later = Conditions(epoch=seen.epoch)
        with pytest.raises(RequestError) as caught:
            live.assign([Write("v", Operation.SET, np.zeros(3, np.float32))], conditions=later)
        assert caught.value.reason is Reason.EPOCH_MISMATCH
        with pytest.raises(RequestError, match="its state began anew"):
            live.timeline.watch(before.revision, seen.epoch)
        assert live.timeline.read([Read("v")], 0).entries[0].value.numpy().tolist() == [0, 0, 0]
        again = live.assign([Write("w", Operation.SET, np.ones(3, np.float32))], request=request)
        assert again.header == live.header
        live.assign([Write("v", Operation.SET, np.full(3, 6, np.float32))])
        after = live.header
    with kept(copy, ORIGINAL) as (live, _):
        assert live.header == after
        assert value_of(live, "v").tolist() == [6, 6, 6]


def test_every_version_of_a_restored_copy_goes_on_in_a_new_epoch(tmp_path: Path) -> None:
    """Also one that is loaded by a later start, and a start that is refused loses nothing."""
    epochs = {}
    for version in (1, 2):
        with kept(tmp_path, versioned(version)) as (live, _):
            epochs[version] = live.header.epoch
    other = model(variable("other"))
    with (
        pytest.raises(JournalError, match="is refused"),
        kept(tmp_path, other, restored=True),
    ):
        pass
    for version in (1, 2):
        with kept(tmp_path, versioned(version)) as (live, _):
            assert live.header.epoch != epochs[version]


def test_a_restored_copy_of_nothing_is_a_beginning(tmp_path: Path) -> None:
    """There is nothing to go on with, and nothing in the way."""
    with kept(tmp_path / "new", ORIGINAL, restored=True) as (live, _):
        assert live.header.revision == 0


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_a_start_that_fails_at_its_first_file_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A disk that takes nothing refuses the start; the next one, with room, begins anew."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    folder = tmp_path / "models/fake/1"
    folder.mkdir(parents=True)
    with monkeypatch.context() as full:
        full.setattr(disk.Path if call == "rename" else disk.os, call, fail)
        with pytest.raises(OSError, match="no room"):
            disk.Head(folder / "head", new=True)
    begin(tmp_path)


def test_each_version_keeps_its_own_state(tmp_path: Path) -> None:
    """A version that comes begins a state of its own, and one that comes back finds its old one."""
    directory = StateDirectory(tmp_path)

    def taken(version: int) -> LiveModel:
        def load() -> FakeModel:
            model = FakeModel([FakeVariable("v", np.zeros(2, np.float32))])
            model.version = version
            return model

        return directory.take_up(load, LiveModel)[0]

    one = taken(1)
    one.assign([Write("v", Operation.SET, np.ones(2, np.float32))])
    two = taken(2)
    assert two.header.epoch != one.header.epoch
    assert (one.header.revision, two.header.revision) == (1, 0)
    before = one.header
    one.close()
    again = taken(1)
    assert again.header == before
    assert again.read([Read("v")]).entries[0].value.numpy().tolist() == [1, 1]
    for live in (again, two):
        live.close()
    directory.close()
