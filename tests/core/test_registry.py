"""What names and labels resolve to while models come, are replaced and go."""

from __future__ import annotations

import pytest

from tests.core.test_live_model import refusal
from tests.fakes import FakeModel
from varserve_service.core.errors import Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import LABEL_PATTERN, STABLE, Models, bare_name
from varserve_service.core.ports.loaded_model import ModelState

READY, LOADING, FAILED, UNLOADING = (
    ModelState.READY,
    ModelState.LOADING,
    ModelState.FAILED,
    ModelState.UNLOADING,
)


def live(name: str = "m", version: int = 1) -> LiveModel:
    loaded = FakeModel([], name=name)
    loaded.version = version
    return LiveModel(loaded)


def states(models: Models) -> list[tuple[str, int, ModelState, tuple[str, ...]]]:
    return [(s.name, s.version, s.state, s.labels) for s in models.statuses]


def test_a_name_resolves_by_itself_by_label_and_by_version() -> None:
    """To a version that a label points to, and to no other."""
    one, two, other = live(version=1), live(version=2), live("other")
    models = Models([other, one])
    assert models.serve(two, "canary") == []
    for name, found in {
        "m": one,
        "m@stable": one,
        "m@1": one,
        "m@canary": two,
        "m@2": two,
        "other": other,
    }.items():
        assert models.find(name) is models.resolve(name) is found
    assert models.resolve("m@3") is None
    assert models.names("m") == ["m", "m@canary", "m@stable"]
    assert models.names("absent") == []
    assert dict(models.labels("m")) == {STABLE: 1, "canary": 2}
    assert models.sorted == [one, two, other]
    assert [status.version for status in models.versions("m")] == [1, 2]


def test_a_label_that_moves_leaves_nothing_behind_and_no_gap() -> None:
    """The version that no label points to is told: it is UNLOADING until it is forgotten."""
    one, two = live(version=1), live(version=2)
    models = Models([one])
    assert models.serve(two) == [one]
    assert models.find("m") is two
    assert states(models) == [("m", 1, UNLOADING, ()), ("m", 2, READY, (STABLE,))]
    assert models.sorted == [two]
    assert models.resolve("m@1") is None
    assert models.serve(two) == []
    models.forget("m", 1, only=two)
    models.forget("m", 7)
    assert len(models.statuses) == 2
    models.forget("m", 1, only=one)
    assert states(models) == [("m", 2, READY, (STABLE,))]


def test_a_version_stays_while_any_label_points_to_it() -> None:
    """Each label is taken away by itself, or all at once."""
    one = live()
    models = Models([one])
    models.serve(one, "canary")
    assert states(models) == [("m", 1, READY, ("canary", STABLE))]
    assert models.withdraw("m", "canary") == []
    assert models.resolve("m@canary") is None
    assert models.withdraw("m", "absent") == []
    assert models.withdraw("m", STABLE) == [one]
    assert (models.resolve("m"), models.resolve("m@1")) == (None, None)
    models.serve(one)
    models.serve(one, "canary")
    assert models.withdraw("m") == [one]
    assert models.withdraw("m") == []
    assert dict(models.labels("m")) == {}


def test_the_state_of_a_live_model() -> None:
    """As it is known; one that has been forgotten, or replaced by the same version, is going."""
    one, again = live(), live()
    models = Models([one])
    assert (models.status(one).state, models.status(one).live) == (READY, one)
    models.serve(again)
    assert models.status(again).state is READY
    assert (models.status(one).state, models.status(one).live) == (UNLOADING, one)
    assert models.find("m") is again


def test_what_is_said_of_a_name_that_resolves_to_nothing() -> None:
    """Which names there are of the model, or which models; or that it will be there."""
    models = Models([live(version=2), live("b"), live("a")])
    error = refusal(models.find, "m@7")
    assert (error.reason, error.metadata["model"]) == (Reason.MODEL_NOT_FOUND, "m@7")
    assert error.message == "no model 'm@7'; expected one of: m, m@stable, m@2"
    assert refusal(models.find, "x").message == "no model 'x'; expected one of: a, b, m"
    assert len(refusal(models.find, "x" * 500).metadata["model"]) == 200
    nothing = refusal(Models().find, "x").message
    assert nothing == "no model 'x'; expected one of: (none is loaded)"


def test_a_model_that_is_not_there_yet() -> None:
    """One that is loading says more than one that failed; both may be retried."""
    models = Models()
    models.note("m", 1, FAILED, "no file")
    error = refusal(models.find, "m")
    assert error.reason is Reason.MODEL_NOT_READY
    assert f"model 'm' is {FAILED.value}" in error.message
    for version in (2, 3):
        models.note("m", version, LOADING if version == 2 else FAILED)
    assert f"is {LOADING.value}" in refusal(models.find, "m@stable").message
    assert models.versions("m")[0].error == "no file"
    models.serve(live(version=2))
    assert models.find("m").version == 2
    assert refusal(models.find, "m@1").reason is Reason.MODEL_NOT_FOUND


def test_what_came_in_the_place_of_a_version_stays() -> None:
    """It is forgotten only if it is what the caller means: a live model, or a state that it saw."""
    models = Models()
    models.note("m", 1, LOADING)
    (seen,) = models.statuses
    models.note("m", 1, FAILED)
    models.forget("m", 1, only=seen)
    assert states(models) == [("m", 1, FAILED, ())]
    (seen,) = models.statuses
    models.forget("m", 1, only=seen)
    assert states(models) == []
    models.note("m", 1, LOADING)
    models.forget("m", 1)
    assert states(models) == []


@pytest.mark.parametrize(
    ("name", "bare"), [("m", "m"), ("m@2", "m"), ("m@a@b", "m"), ("@x", ""), ("", "")]
)
def test_the_bare_name(name: str, bare: str) -> None:
    """What is before the first @."""
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    ("label", "fits"),
    [("a", True), ("a" * 32, True), ("a" * 33, False), ("1a", False), ("a_-9", True), ("A", False)],
)
def test_what_a_label_may_be(label: str, fits: bool) -> None:
    """No number, which would be a version, and of bounded length."""
    assert bool(LABEL_PATTERN.fullmatch(label)) is fits
