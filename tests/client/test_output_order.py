"""The order of a function's outputs, from the function to the caller."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import BatchOptions

# In no order that sorting or hashing would give.
NAMES = [f"{letter}{number}" for number in (10, 9, 2, 1) for letter in "zamq"]
ROWS = TensorSpec("float32", (None,))


@pytest.fixture(params=["alone", "batched"])
def model(request: pytest.FixtureRequest) -> Iterator[varserve.Model]:
    function = FakeFunction(
        "f",
        lambda x: {name: x + index for index, name in enumerate(NAMES)},
        inputs={"x": ROWS},
        outputs=dict.fromkeys(NAMES, ROWS),
    )
    batching = {("m", "f"): BatchOptions(8)} if request.param == "batched" else {}
    live = LiveModel(FakeModel([], [function], name="m"))
    with serve_here(live, batching=batching) as address, varserve.connect(address) as client:
        yield client.model("m")


def test_outputs_come_in_the_declared_order(model: varserve.Model) -> None:
    """In one message, in chunks and in a batch, as the function declares them."""
    f = model.functions["f"]
    assert [spec.name for spec in f.overloads[0].outputs] == NAMES
    for size in (1, 200_000):  # In one message, and in chunks.
        outputs = f(x=np.zeros(size, np.float32))
        assert list(outputs) == NAMES
        assert [array[0] for array in outputs.values()] == list(range(len(NAMES)))


def test_outputs_that_are_asked_for_come_in_the_order_of_the_call(model: varserve.Model) -> None:
    """A call that names outputs gets them in the order in which it names them."""
    for size in (1, 200_000):
        x = np.zeros(size, np.float32)
        outputs = model.functions["f"].call({"x": x}, outputs=["q1", "z10", "m2"])
        assert [(name, array[0]) for name, array in outputs.items()] == [
            ("q1", 15),
            ("z10", 0),
            ("m2", 10),
        ]
