"""Calls that are run together: each gets what it would have got alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pydantic import ValidationError

from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.serving import serve_here
from varserve import tensors
from varserve.reasons import DETAILS_KEY, read_details
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc
from varserve_service.bootstrap.loading import check_batching
from varserve_service.bootstrap.options import batch_options
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    OutputSpec,
    Overload,
    TensorSpec,
)
from varserve_service.rpc import BatchOptions, batching_problem
from varserve_service.settings import Settings, load_settings

ROWS = TensorSpec("float32", (None, 2))
CALLS = 24
Array = np.ndarray[Any, Any]


class Double:
    """`y = 2 x`, which remembers how many rows came at once, and fails where a 13 is among them."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, x: Array) -> dict[str, Array]:
        self.rows.append(len(x))
        self.before()
        if np.any(x == 13):
            raise ArithmeticError("13 is not for me")
        return {"y": 2 * x}


@contextmanager
def served(
    call: Callable[..., dict[str, Array]], options: BatchOptions, **server: Any
) -> Iterator[tuple[Any, LiveModel]]:
    function = FakeFunction("double", call, inputs={"x": ROWS}, outputs={"y": ROWS})
    live = LiveModel(FakeModel([FakeVariable("v", np.zeros(2, np.float32))], [function], name="m"))
    batching = {("m", "double"): options}
    with (
        serve_here(live, batching=batching, **server) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield model_service_pb2_grpc.ModelServiceStub(channel), live


def request(x: Array) -> pb.RunFunctionRequest:
    return pb.RunFunctionRequest(model="m", function="double", inputs={"x": tensors.to_tensor(x)})


def call_of(n: int, rows: int = 1) -> Array:
    return np.full((rows, 2), 100 + n, np.float32)


def answer(response: pb.RunFunctionResponse) -> Array:
    (output,) = response.outputs
    assert output.name == "y"
    return tensors.from_tensor(output.tensor)


def reason(error: grpc.RpcError) -> str:
    metadata = dict(error.trailing_metadata())
    failure = read_details(metadata[DETAILS_KEY])
    assert failure is not None
    return failure.reason


def held_back(stub: Any, double: Double) -> tuple[Gate, Any]:
    """A first call that is being run, so that those after it wait together."""
    gate = Gate()
    double.before = gate
    first = stub.RunFunction.future(request(call_of(0)))
    assert gate.reached.wait(60)
    return gate, first


def test_calls_that_wait_are_run_together() -> None:
    """Everybody gets an answer of its own rows, from far fewer runs than calls."""
    double = Double()
    with served(double, BatchOptions(max_rows=32)) as (stub, _):
        gate, first = held_back(stub, double)
        waiting = {n: stub.RunFunction.future(request(call_of(n, n % 3 + 1))) for n in range(CALLS)}
        stub.ReadVariable(pb.ReadVariableRequest(model="m", variable="v"))  # they have arrived
        gate.opened.set()
        np.testing.assert_array_equal(answer(first.result()), 2 * call_of(0))
        for n, call in waiting.items():
            np.testing.assert_array_equal(answer(call.result()), 2 * call_of(n, n % 3 + 1))
            assert call.result().header.model == "m"
    assert sum(double.rows) == 1 + sum(n % 3 + 1 for n in range(CALLS))
    assert len(double.rows) <= 6
    assert max(double.rows) <= 32


def test_a_failure_is_its_callers_own() -> None:
    """Of a batch with a bad row only the one who sent it fails; a bad shape never gets in."""
    double = Double()
    with served(double, BatchOptions(max_rows=8)) as (stub, _):
        gate, first = held_back(stub, double)
        good = [stub.RunFunction.future(request(call_of(n))) for n in range(4)]
        bad = stub.RunFunction.future(request(np.full((1, 2), 13, np.float32)))
        wrong = stub.RunFunction.future(request(np.zeros((1, 3), np.float32)))
        assert reason(wrong.exception(60)) == "SHAPE_MISMATCH"
        gone = stub.RunFunction.future(request(call_of(5)))
        stub.ReadVariable(pb.ReadVariableRequest(model="m", variable="v"))
        gone.cancel()
        gate.opened.set()
        first.result()
        for n, call in enumerate(good):
            np.testing.assert_array_equal(answer(call.result()), 2 * call_of(n))
        assert reason(bad.exception(60)) == "FUNCTION_FAILED"


def test_batches_are_filled_up() -> None:
    """The function sees only the sizes that were allowed, and nobody sees the filling."""
    double = Double()
    with served(double, BatchOptions(max_rows=16, allowed_rows=(4, 16))) as (stub, _):
        gate, first = held_back(stub, double)
        calls = [stub.RunFunction.future(request(call_of(n))) for n in range(6)]
        stub.ReadVariable(pb.ReadVariableRequest(model="m", variable="v"))
        gate.opened.set()
        assert answer(first.result()).shape == (1, 2)
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(answer(call.result()), 2 * call_of(n))
    assert set(double.rows) <= {4, 16}


def test_a_delay_gathers_calls() -> None:
    """With a delay calls that come one after the other share a run."""
    double = Double()
    with served(double, BatchOptions(max_rows=4, max_delay=0.5)) as (stub, _):
        calls = [stub.RunFunction.future(request(call_of(n))) for n in range(4)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(answer(call.result()), 2 * call_of(n))
    assert double.rows == [4]


def test_a_delay_is_for_every_batch() -> None:
    """Also of calls that came while the batch before ran: they wait for others, or to be enough."""
    double = Double()
    with served(double, BatchOptions(max_rows=2, max_delay=30)) as (stub, _):
        gate = double.before = Gate()
        calls = [stub.RunFunction.future(request(call_of(n))) for n in range(2)]
        assert gate.reached.wait(60)
        calls.append(stub.RunFunction.future(request(call_of(2))))
        stub.ReadVariable(pb.ReadVariableRequest(model="m", variable="v"))  # it has arrived
        gate.opened.set()
        for call in calls[:2]:
            call.result()
        calls.append(stub.RunFunction.future(request(call_of(3))))
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(answer(call.result(timeout=10)), 2 * call_of(n))
    assert double.rows == [2, 2]


def test_a_function_that_looks_across_rows_is_right_all_the_same() -> None:
    """Where outputs do not follow the rows, everybody gets a run alone."""

    def total(x: Array) -> dict[str, Array]:
        return {"y": np.concatenate([x, x.sum(axis=0, keepdims=True)])}

    with served(total, BatchOptions(max_rows=8, max_delay=0.2, allowed_rows=(8,))) as (stub, _):
        calls = [stub.RunFunction.future(request(call_of(n))) for n in range(3)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(answer(call.result()), np.repeat(call_of(n), 2, axis=0))


def test_waiting_is_bounded_and_ends() -> None:
    """Beyond the bound calls are refused; one whose deadline passes is dropped before it runs."""
    double = Double()
    with served(double, BatchOptions(max_rows=4, max_waiting_rows=2)) as (stub, _):
        gate, first = held_back(stub, double)
        late = stub.RunFunction.future(request(call_of(1)), timeout=2)
        kept = stub.RunFunction.future(request(call_of(2)))
        stub.ReadVariable(pb.ReadVariableRequest(model="m", variable="v"))
        refused = stub.RunFunction.future(request(call_of(3)))
        assert reason(refused.exception(60)) == "TOO_MANY_REQUESTS"
        assert late.exception(60).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        time.sleep(1)  # The service counts its time from when the call came.
        gate.opened.set()
        first.result()
        np.testing.assert_array_equal(answer(kept.result()), 2 * call_of(2))
    assert sum(double.rows) == 2


def test_what_is_a_batch_already_or_wants_more_runs_alone() -> None:
    """Large inputs, chosen outputs and conditions are served as without batching."""
    double = Double()
    with served(double, BatchOptions(max_rows=2)) as (stub, _):
        np.testing.assert_array_equal(
            answer(stub.RunFunction(request(call_of(1, 5)))), 2 * call_of(1, 5)
        )
        chosen = request(call_of(2))
        chosen.outputs.append("y")
        np.testing.assert_array_equal(answer(stub.RunFunction(chosen)), 2 * call_of(2))
        stale = request(call_of(2))
        stale.if_model_revision_match = 7
        with pytest.raises(grpc.RpcError) as caught:
            stub.RunFunction(stale)
        assert reason(caught.value) == "REVISION_MISMATCH"


FIXED = TensorSpec("float32", (4, 2))


@pytest.mark.parametrize(
    ("overload", "problem"),
    [
        (Overload((InputSpec("x", ROWS),), (OutputSpec("y", ROWS),)), None),
        (Overload((InputSpec("x", ROWS),), (OutputSpec("y", ROWS),), (), ("v",)), "changes state"),
        (Overload((InputSpec("k", Constant(1)),), ()), "'k' is a constant"),
        (Overload((InputSpec("x", FIXED),), (OutputSpec("y", ROWS),)), "dimension 0 of 'x'"),
        (Overload((InputSpec("x", ROWS),), (OutputSpec("y", FIXED),)), "dimension 0 of 'y'"),
    ],
)
def test_what_cannot_be_batched(overload: Overload, problem: str | None) -> None:
    """The operator is told why a function is not fit for it."""
    found = batching_problem(FunctionSpec("f", "f", FunctionKind.FUNCTION, (overload,)))
    assert found == problem if problem is None else problem in (found or "")


def settings_of(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return load_settings({}, file)


def test_batching_is_set_in_the_file(tmp_path: Path) -> None:
    """By model and function; one that is not there or not fit is told by name."""
    function = FakeFunction("double", Double(), inputs={"x": ROWS}, outputs={"y": ROWS})
    fixed = FakeFunction("fixed", Double(), inputs={"x": FIXED}, outputs={"y": ROWS})
    models = Models([LiveModel(FakeModel([], [function, fixed], name="m"))])
    good = settings_of(tmp_path, "batching: {m: {double: {max_rows: 8, allowed_rows: [2, 8]}}}")
    assert batch_options(good) == {("m", "double"): BatchOptions(8, allowed_rows=(2, 8))}
    for functions, problem in (("nothing", "nothing"), ("fixed", "dimension 0 of 'x'")):
        wrong = settings_of(tmp_path, f"batching: {{m: {{{functions}: {{max_rows: 8}}}}}}")
        with pytest.raises(ModelLoadError, match=problem):
            check_batching(models, wrong)
    for options in ("max_rows: 1", "max_rows: 8, allowed_rows: [8, 2]", "max_rows: 8, a: 1"):
        with pytest.raises(ValidationError):
            settings_of(tmp_path, f"batching: {{m: {{double: {{{options}}}}}}}")
    with pytest.raises(ValidationError, match=r"max_rows, 8, found 4"):
        settings_of(tmp_path, "batching: {m: {double: {max_rows: 8, allowed_rows: [4]}}}")
