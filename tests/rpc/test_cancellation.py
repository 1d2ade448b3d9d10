"""A run whose caller goes away ends, and says so to those who wait for its thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.serving import serve_here
from tests.waiting import join, until
from varserve_service.core.model import runs
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc.serving.batching import BatchOptions


def endless(**options: Any) -> FakeFunction:
    def call(**inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        assert function.cancelled.wait(30), "it was never cancelled"
        raise ArithmeticError("cancelled")

    function = FakeFunction("endless", call, **options)
    return function


def model(*functions: FakeFunction) -> LiveModel:
    return LiveModel(FakeModel([FakeVariable("a", np.zeros(2, np.float32))], list(functions)))


def test_a_caller_that_goes_frees_its_thread() -> None:
    """The deadline passes while the function runs; the one thread is there for the next call."""
    live = model(endless(), FakeFunction("f", lambda: {"y": np.ones(1, np.float32)}))
    with serve_here(live, threads_per_model=1) as address, varserve.connect(address) as client:
        with pytest.raises(varserve.DeadlineExceeded):
            client.run_function("fake", "endless", {}, timeout=1)
        assert client.run_function("fake", "f", {}, timeout=20)["y"].tolist() == [1]


def test_a_batch_ends_when_all_its_callers_have_gone() -> None:
    """Calls that were put together are one run, which ends with the last of their deadlines."""
    spec = TensorSpec("float32", (None,))
    function = endless(inputs={"x": spec}, outputs={"y": spec})
    live = model(function)
    batching = {("fake", "endless"): BatchOptions(max_rows=4)}
    with (
        serve_here(live, threads_per_model=1, batching=batching) as address,
        varserve.connect(address) as client,
    ):
        x = np.ones(1, np.float32)
        with pytest.raises(varserve.DeadlineExceeded):
            client.run_function("fake", "endless", {"x": x}, timeout=1)
        assert function.cancelled.wait(60)
        until(lambda: not live._parts.runs._runs)


def test_a_refusal_names_the_runs_that_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is refused for want of a thread is told which function keeps it."""
    monkeypatch.setattr(runs, "_OVERDUE_SECONDS", 0.0)
    gate = Gate()

    def call() -> dict[str, Any]:
        gate()
        return {}

    live = model(FakeFunction("stubborn", call))
    options = {"threads_per_model": 1, "max_pending_calls": 1}
    with serve_here(live, **options) as address, varserve.connect(address) as client:

        def act() -> None:
            with pytest.raises(varserve.DeadlineExceeded):
                client.run_function("fake", "stubborn", {}, timeout=1)

        thread = threading.Thread(target=act)
        thread.start()
        assert gate.reached.wait(60)
        join([thread])
        until(lambda: live.overdue_runs)
        with pytest.raises(varserve.TooManyRequests, match="go on: 1 of 'stubborn'"):
            client.read_variable("fake", "a", timeout=5)
        gate.opened.set()
