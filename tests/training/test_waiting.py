"""The training waits for a push as long as it was told to, and no longer; on fakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from varserve._training.callback import WeightsPush
from varserve._training.pushing import Pusher
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

LONG = 60.0  # seconds; the gate gives up after twice as long


class Gate:
    """Stops whoever passes until it is opened, and tells when somebody has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(2 * LONG), "the gate was never opened"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def address(gate: Gate) -> Iterator[str]:
    """A service whose function `hold` holds its model until the gate opens."""

    def hold() -> dict[str, Any]:
        gate()
        return {"n": np.int64(0)}

    function = FakeFunction("hold", hold, outputs={"n": TensorSpec("int64", ())}, writes=("other",))
    variables = [FakeVariable(name, np.zeros(2, np.float32)) for name in ("w", "other")]
    with serve_here(LiveModel(FakeModel(variables, [function]))) as address:
        yield address


@pytest.fixture
def served(address: str) -> Iterator[varserve.Model]:
    with varserve.connect(address) as client:
        yield client.model("fake")


@pytest.fixture
def hold(address: str, gate: Gate) -> Iterator[Callable[[], None]]:
    """From the call on no write is done, until the gate opens or the test ends."""
    with varserve.connect(address) as client:
        function = client.model("fake").functions["hold"]
        thread = threading.Thread(target=lambda: function.call({}, timeout=3 * LONG))

        def begin() -> None:
            thread.start()
            assert gate.reached.wait(LONG)

        yield begin
        gate.opened.set()
        thread.join(LONG)


class Training(WeightsPush):
    """What Keras calls, with weights that a test sets."""

    weight: Any

    def begin(self) -> None:
        self.weight = SimpleNamespace(value=np.zeros(2, np.float32))
        self.model = SimpleNamespace(optimizer=None, metrics=(), variables=[_Weight(self)])
        self.on_train_begin()


class _Weight:
    path = "w"

    def __init__(self, training: Training) -> None:
        self._training = training

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._training.weight.value


def seconds(call: Any, *given: Any) -> float:
    begun = time.monotonic()
    call(*given)
    return time.monotonic() - begun


def test_the_training_never_waits_unless_it_is_told_to(
    served: varserve.Model, gate: Gate, hold: Callable[[], None]
) -> None:
    """Epochs end at once while the service takes no write; the newest values are pushed later."""
    training = Training(served, wait_at_end=LONG)
    training.begin()
    hold()
    for epoch in range(50):
        training.weight.value = np.full(2, epoch, np.float32)
        training.on_epoch_end(epoch)
    # No push was done in between, so nothing can have waited for one.
    assert training.pusher is not None
    assert training.pusher.pushed == 0
    assert not gate.opened.is_set()
    gate.opened.set()
    training.on_train_end()
    assert training.pusher.error is None
    assert training.pusher.pushed + training.pusher.skipped == 50
    assert served.variables["w"].numpy().tolist() == [49, 49]


def test_waits_have_the_bounds_that_were_asked_for(
    served: varserve.Model, hold: Callable[[], None]
) -> None:
    """`wait` for each push and `wait_at_end` for the last; what is then not pushed is given up."""
    training = Training(served, wait=0.3, wait_at_end=0.5)
    training.begin()
    hold()
    assert 0.3 <= seconds(training.on_epoch_end, 0) < LONG
    assert 0.5 <= seconds(training.on_train_end) < LONG
    assert training.pusher is not None
    assert training.pusher.pushed == 0


def test_values_are_taken_as_they_are_at_the_push(
    served: varserve.Model, gate: Gate, hold: Callable[[], None]
) -> None:
    """What the training writes into its arrays after a push is not pushed."""
    pusher = Pusher(served)
    hold()
    value = np.ones(2, np.float32)
    pusher.push({"w": value})
    value[:] = 7
    gate.opened.set()
    pusher.close(LONG)
    assert served.variables["w"].numpy().tolist() == [1, 1]
