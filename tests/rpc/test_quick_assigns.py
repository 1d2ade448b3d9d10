"""Small assigns that need no waiting are made on the event loop, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeVariable, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.wire import Outcome, Wire, connected
from tests.serving import serve_here
from tests.waiting import join
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec, Value
from varserve_service.core.ports.messages import Read

LARGE = 20_000


class Watched(FakeVariable):
    """Knows on which threads it was written."""

    def __init__(self, name: str, array: np.ndarray[Any, Any], **options: Any) -> None:
        super().__init__(name, array, **options)
        self.threads: list[str] = []

    def write(self, value: Value, region: Any = None) -> None:
        self.threads.append(threading.current_thread().name)
        super().write(value, region)


class Served:
    """A model of a few watched variables, and a function that waits at a gate."""

    def __init__(self) -> None:
        self.small = Watched("small", np.zeros(3, np.float32))
        self.large = Watched("large", np.zeros(LARGE, np.float32))
        self.sparse = Watched("sparse", np.zeros(3, np.float32), in_place=True)
        self.gate = Gate()

        def wait(x: Any) -> dict[str, Any]:
            self.gate()
            return {"y": x}

        vector = TensorSpec("float32", (None,))
        waits = FakeFunction("wait", wait, inputs={"x": vector}, outputs={"y": vector})
        self.live: LiveModel = counter(self.small, self.large, self.sparse, functions=(waits,))

    def value(self, name: str = "small") -> list[float]:
        entry = self.live.read([Read(name)]).entries[0]
        assert entry.value is not None
        found: list[float] = entry.value.numpy().tolist()
        return found


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with serve_here(served.live) as address, connected(address) as found:
        yield found


def assign(wire: Wire, variable: str = "small", **fields: Any) -> Outcome:
    return wire.ask("AssignVariable", requests.assign(variable=variable, **fields))


def is_worker(name: str) -> bool:
    return name.startswith("varserve-")


def in_background(act: Any, *arguments: Any) -> tuple[threading.Thread, list[Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(act(*arguments)), daemon=True)
    thread.start()
    return thread, outcomes


def test_a_lone_small_assign_takes_no_thread(served: Served, wire: Wire) -> None:
    """It is a commit as any other, and the same request again gets the same answer."""
    first = assign(wire, request_id="one")
    again = assign(wire, request_id="one")
    assert first == again
    assert pb.AssignVariableResponse.FromString(first.responses[0]).header.revision == 1
    assert served.value() == [1, 1, 1]
    assert [is_worker(name) for name in served.small.threads] == [False]


@pytest.mark.parametrize(
    ("variable", "fields"),
    [
        ("large", {"value": tensor_pb2.Tensor(dtype=1, shape=[LARGE], data=bytes(4 * LARGE))}),
        ("sparse", {}),
        ("small", {"operation": pb.ASSIGN_OPERATION_ADD}),
        ("small", {"region": {"slices": {"dimensions": [{}]}}}),
        ("small", {"lease_seconds": 100}),
        ("small", {"read_back": True}),
    ],
    ids=["large", "sparse", "added", "region", "lease", "read-back"],
)
def test_what_may_take_longer_takes_a_thread(
    served: Served, wire: Wire, variable: str, fields: dict[str, Any]
) -> None:
    """The event loop must not be held up by one call."""
    assert assign(wire, variable, **fields).reason == "OK"
    written = getattr(served, variable).threads
    assert written
    assert all(map(is_worker, written))


@pytest.mark.parametrize("looks_free", [False, True], ids=["seen", "too-late"])
def test_whoever_holds_the_lock_holds_up_no_other_call(
    served: Served, wire: Wire, looks_free: bool
) -> None:
    """The assign waits on a thread, also where the lock was taken after it was looked at."""
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with served.live._parts.lock.shared():
            taken.set()
            assert let_go.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert taken.wait(30)
    lock = served.live._parts.lock
    glance = mock.PropertyMock(side_effect=[True, *[False] * 10] if looks_free else None)
    glance.return_value = False
    with mock.patch.object(type(lock), "is_free", glance):
        thread, outcomes = in_background(assign, wire)
        assert wire.ask("ListModels", pb.ListModelsRequest()).reason == "OK"
        assert not outcomes
        let_go.set()
        join([holder, thread])
    assert outcomes[0].reason == "OK"
    assert all(map(is_worker, served.small.threads))
    assert served.value() == [1, 1, 1]


def test_while_the_threads_are_busy_an_assign_waits_for_its_turn(
    served: Served, wire: Wire
) -> None:
    """Beside a run that goes on, other calls are answered, and the assign comes after the run."""
    run = requests.run(function="wait", inputs={"x": requests.tensor()})
    running, _ = in_background(wire.ask, "RunFunction", run)
    assert served.gate.reached.wait(30)
    thread, outcomes = in_background(assign, wire)
    assert wire.ask("ListModels", pb.ListModelsRequest()).reason == "OK"
    assert not outcomes
    served.gate.opened.set()
    join([running, thread])
    assert outcomes[0].reason == "OK"
    assert all(map(is_worker, served.small.threads))


def test_what_is_refused_is_refused_as_on_a_thread(served: Served, wire: Wire) -> None:
    """An unknown variable, another shape, a revision that has moved: nothing is changed."""
    assert assign(wire, "smal").reason == "VARIABLE_NOT_FOUND"
    wrong = tensor_pb2.Tensor(dtype=1, shape=[2], data=bytes(8))
    assert assign(wire, value=wrong).reason == "SHAPE_MISMATCH"
    assert assign(wire, if_revision_match=7).reason == "REVISION_MISMATCH"
    assert served.value() == [0, 0, 0]
    assert served.live.header.revision == 0
