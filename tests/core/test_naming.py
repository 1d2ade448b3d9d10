"""Which thing a name means."""

from __future__ import annotations

import numpy as np

from tests.core.test_live_model import refusal
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.errors import Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, ModelState


def live_of(*named: tuple[str, str]) -> LiveModel:
    """Variables by name and path."""
    return LiveModel(
        FakeModel([FakeVariable(name, np.zeros(1, np.float32), path=path) for name, path in named])
    )


def test_a_name_and_a_path() -> None:
    """Either finds the variable; a name that is another's path means the one that is so named."""
    live = live_of(("dense/kernel", "layers/0"), ("layers/0", "layers/1"))
    assert live.variable("dense/kernel").path == "layers/0"
    assert live.variable("layers/1").name == "layers/0"
    assert live.variable("layers/0").path == "layers/1"


def test_a_name_that_two_have() -> None:
    """It is refused with both paths; each is found by its path."""
    live = live_of(("Variable", "a"), ("Variable", "b"))
    error = refusal(live.variable, "Variable")
    assert error.reason is Reason.NAME_AMBIGUOUS
    assert error.message.endswith("expected one of the paths a, b")
    assert live.variable("b").path == "b"


def test_a_name_that_none_has() -> None:
    """Close names are told, unless they are not to be."""
    live = live_of(("kernel", "k"))
    assert refusal(live.variable, "kernal").message.endswith("close names: kernel")
    assert "close" not in refusal(live.variable, "kernal", suggest=False).message
    assert refusal(live.variable, "zzz").reason is Reason.VARIABLE_NOT_FOUND


def test_the_status_of_a_model_that_was_replaced() -> None:
    """It is being unloaded, also when another of its version has come, or none."""
    first, second = live_of(("v", "v")), live_of(("v", "v"))
    models = Models([first])
    assert models.status(first).state is ModelState.READY
    models.serve(second)
    assert models.status(second).state is ModelState.READY
    gone = models.status(first)
    assert (gone.state, gone.live, gone.version) == (ModelState.UNLOADING, first, first.version)
    models.forget(second.name, second.version)
    assert models.status(second).state is ModelState.UNLOADING
