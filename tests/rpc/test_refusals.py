"""Each reason over the wire, with what it tells; and writes that come twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeVariable
from tests.rpc.bodies import value_of
from tests.rpc.models import INT64, counter, strings
from tests.rpc.requests import (
    MODEL,
    assign,
    chunk,
    entry,
    header,
    manifest,
    number,
    read,
    rows,
    run,
    run_manifest,
    tensor,
)
from tests.rpc.wire import Wire, connected
from tests.serving import serve_here
from varserve.v1 import model_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.errors import FunctionFailed
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Constant


def fail(n: Any) -> dict[str, Any]:
    raise FunctionFailed("it does not like " + "\U0001f600" * 5000)


def model() -> LiveModel:
    """Has something to refuse for each reason; the next write of `full` finds no memory."""
    full = FakeVariable("full", np.zeros(3, np.float32))
    full.fail_after = 0
    return counter(
        full,
        FakeVariable("flag", np.array([True, False])),
        FakeVariable("words", strings(b"a", b"b")),
        FakeVariable("later", None, shape=(3,)),
        FakeVariable("twin", np.zeros(3, np.float32), path="left/twin"),
        FakeVariable("twin", np.zeros(3, np.float32), path="right/twin"),
        functions=(
            FakeFunction("fail", fail, inputs={"n": INT64}, writes=("count",)),
            FakeFunction(
                "fast",
                lambda n: {"y": n},
                inputs={"n": INT64, "mode": Constant("fast")},  # type: ignore[dict-item]
                outputs={"y": INT64},
            ),
            FakeFunction("needs", dict, reads=("later",)),
        ),
    )


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve_here(model()) as address, connected(address) as wire:
        yield wire


@pytest.fixture(scope="module")
def unchanged() -> Iterator[Wire]:
    """The same for all tests that change nothing."""
    with serve_here(model()) as address, connected(address) as wire:
        yield wire


N = {"n": number(1)}
FLAG = {"variable": "flag", "value": tensor(dtype=10, shape=[2], data=b"\0\1")}
WORDS = {"variable": "words", "value": tensor(dtype=7, shape=[2], data=b"", strings=[b"", b""])}


def mode(**value: Any) -> dict[str, Any]:
    return {"inputs": N, "constants": {"mode": model_pb2.Constant(**value)}}


REFUSALS: dict[str, tuple[str, str, Any, str, dict[str, str]]] = {
    "no model": (
        "MODEL_NOT_FOUND",
        "ReadVariable",
        read(model="m"),
        "'m'; expected one of: counter",
        {"model": "m"},
    ),
    "no variable": (
        "VARIABLE_NOT_FOUND",
        "ReadVariable",
        read(variable="wrds"),
        "no variable 'wrds'; close names: words",
        {"model": MODEL, "variable": "wrds"},
    ),
    "no function": (
        "FUNCTION_NOT_FOUND",
        "RunFunction",
        run(function="ad"),
        "no function 'ad'; close names: add",
        {"model": MODEL, "function": "ad"},
    ),
    "two of a name": (
        "NAME_AMBIGUOUS",
        "ReadVariable",
        read(variable="twin"),
        "left/twin, right/twin",
        {"variable": "twin"},
    ),
    "no value to read": (
        "VARIABLE_UNINITIALIZED",
        "ReadVariable",
        read(variable="later"),
        "'later' has no value yet",
        {"variable": "later"},
    ),
    "no value to add to": (
        "VARIABLE_UNINITIALIZED",
        "AssignVariable",
        assign(variable="later", operation=2),
        "'later' has no value yet",
        {"variable": "later"},
    ),
    "no value to run with": (
        "VARIABLE_UNINITIALIZED",
        "RunFunction",
        run(function="needs", inputs={}),
        "'later' has no value yet",
        {"variable": "later"},
    ),
    "flags added": (
        "OPERATION_UNSUPPORTED",
        "AssignVariable",
        assign(**FLAG, operation=2),
        "can only be SET, found ADD",
        {"variable": "flag"},
    ),
    "words subtracted": (
        "OPERATION_UNSUPPORTED",
        "AssignVariable",
        assign(**WORDS, operation=3),
        "can only be SET, found SUB",
        {"variable": "words"},
    ),
    "a flag of 2": (
        "REQUEST_MALFORMED",
        "AssignVariable",
        assign(variable="flag", value=tensor(dtype=10, shape=[2], data=b"\0\2")),
        "neither 0 nor 1",
        {},
    ),
    "another dtype": (
        "DTYPE_MISMATCH",
        "AssignVariable",
        assign(value=tensor(dtype=2, data=bytes(24))),
        "'v': expected dtype float32, found float64",
        {"variable": "v"},
    ),
    "a number sent as a float": (
        "CAST_UNSUPPORTED",
        "ReadVariable",
        read(variable="count", dtype=1),
        "'count': expected its own, int64, as the dtype to be sent, found float32",
        {"variable": "count"},
    ),
    "a float sent as a number": (
        "CAST_UNSUPPORTED",
        "ReadVariable",
        read(dtype=3),
        "'v': expected float16, bfloat16, float32, float64 as the dtype to be sent, found int32",
        {"variable": "v"},
    ),
    "another shape": (
        "SHAPE_MISMATCH",
        "AssignVariable",
        assign(value=tensor(shape=[3, 1])),
        "'v': expected shape [3], found [3, 1]",
        {"variable": "v"},
    ),
    "a row too far": (
        "REGION_INVALID",
        "ReadVariable",
        read(region=rows(3)),
        "from 0 to 2, found 3",
        {"variable": "v"},
    ),
    "an old revision": (
        "REVISION_MISMATCH",
        "AssignVariable",
        assign(if_revision_match=7),
        "'v': expected revision 7, found 0",
        {"variable": "v", "current_revision": "0"},
    ),
    "an old revision of the model": (
        "REVISION_MISMATCH",
        "RunFunction",
        run(if_model_revision_match=7),
        "expected revision 7, found 0",
        {"model": MODEL, "current_revision": "0"},
    ),
    "a constant of another value": (
        "INPUT_MISMATCH",
        "RunFunction",
        run(function="fast", **mode(string_value="slow")),
        "expected the constant 'fast', found 'slow'",
        {"function": "fast"},
    ),
    "a constant of another type": (
        "INPUT_MISMATCH",
        "RunFunction",
        run(function="fast", **mode(bool_value=True)),
        "expected the constant 'fast', found True",
        {"function": "fast"},
    ),
    "a constant that is only text": (
        "INPUT_MISMATCH",
        "RunFunction",
        run(function="fast", **mode(repr_value="'fast'")),
        "expected the constant 'fast'",
        {"function": "fast"},
    ),
    "a constant for a tensor": (
        "INPUT_MISMATCH",
        "RunFunction",
        run(inputs={}, constants={"x": model_pb2.Constant(float_value=1)}),
        "found the constant 1.0",
        {"function": "total"},
    ),
    "a failing function": (
        "FUNCTION_FAILED",
        "RunFunction",
        run(function="fail", inputs=N),
        "it does not like \U0001f600",
        {},
    ),
    "no memory": ("OUT_OF_MEMORY", "AssignVariable", assign(variable="full"), "no memory", {}),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_thing_and_says_what_was_expected(unchanged: Wire, case: str) -> None:
    """Every reason comes with its code, a message for people and metadata for programs."""
    reason, method, request, text, metadata = REFUSALS[case]
    outcome = unchanged.ask(method, request)
    outcome.check()
    assert outcome.failure is not None
    assert outcome.reason == reason
    assert metadata.items() <= outcome.failure.metadata.items()
    assert text in outcome.text
    assert len(outcome.text.encode()) <= 1100
    header_ = pb.GetModelResponse.FromString(
        unchanged.ask("GetModel", pb.GetModelRequest(model=MODEL)).responses[0]
    ).header
    assert header_.revision == 0


def test_one_bad_write_takes_the_good_ones_with_it(wire: Wire) -> None:
    """A commit that fails while it is applied is taken back as a whole."""
    body = chunk(0, bytes(24))
    outcome = wire.ask("AssignVariables", manifest(entry(), entry(variable="full")), body)
    assert outcome.reason == "OUT_OF_MEMORY"
    value = pb.ReadVariableResponse.FromString(wire.ask("ReadVariable", read()).responses[0])
    assert (value_of(value.value), value.header.revision) == ([1, 1, 1], 0)


# Writes that come twice.


def count_of(wire: Wire) -> int:
    response = wire.ask("ReadVariable", read(variable="count")).responses[0]
    found: int = value_of(pb.ReadVariableResponse.FromString(response).value)
    return found


def one_more(method: str, request_id: str, n: int) -> list[Any]:
    """A request that adds to `count`, by each of the calls that write."""
    scalar = header(dtype=9, shape=[], byte_length=8)
    if method == "AssignVariable":
        fields = {"variable": "count", "operation": 2, "value": number(n), "read_back": True}
        return [assign(request_id=request_id, **fields)]
    if method == "RunFunction":
        return [run(function="add", inputs={"n": number(n)}, request_id=request_id)]
    if method == "AssignVariables":
        added = entry(variable="count", operation=2, tensor=scalar)
        return [manifest(added, request_id=request_id), chunk(0, number(n).data)]
    named = [{"name": "n", "tensor": scalar}]
    first = run_manifest(function="add", inputs=named, request_id=request_id)
    return [first, chunk(0, number(n).data, kind=pb.StreamRunFunctionRequest)]


WRITES = ["AssignVariable", "AssignVariables", "RunFunction", "StreamRunFunction"]
EACH_WRITE = pytest.mark.parametrize("method", WRITES)


@EACH_WRITE
def test_a_write_that_comes_again_is_not_done_again(wire: Wire, method: str) -> None:
    """The same request_id gets the very same answer, whatever was written meanwhile."""
    first = wire.ask(method, *one_more(method, "id", 5))
    assert (first.reason, count_of(wire)) == ("OK", 5)
    wire.ask("AssignVariable", *one_more("AssignVariable", "", 100))
    again = wire.ask(method, *one_more(method, "id", 5))
    assert (again.responses, count_of(wire)) == (first.responses, 105)


@EACH_WRITE
def test_an_id_belongs_to_one_request(wire: Wire, method: str) -> None:
    """The id of one write is refused for another payload, and for another call."""
    wire.ask(method, *one_more(method, "id", 5))
    outcomes = [wire.ask(method, *one_more(method, "id", 6))]
    outcomes += [wire.ask(other, *one_more(other, "id", 5)) for other in WRITES if other != method]
    assert {outcome.reason for outcome in outcomes} == {"REQUEST_ID_REUSED"}
    assert count_of(wire) == 5


@EACH_WRITE
def test_writes_without_an_id_are_all_done(wire: Wire, method: str) -> None:
    """An empty request_id protects from nothing."""
    for _ in range(2):
        assert wire.ask(method, *one_more(method, "", 5)).reason == "OK"
    assert count_of(wire) == 10


def test_a_refused_write_may_come_again_under_its_id(wire: Wire) -> None:
    """What was refused was not done: the id is free for the same request and for another."""
    refused = assign(request_id="id", if_model_revision_match=1)
    assert wire.ask("AssignVariable", refused).reason == "REVISION_MISMATCH"
    wire.ask("AssignVariable", assign())
    assert wire.ask("AssignVariable", refused).reason == "OK"
    assert wire.ask("AssignVariable", refused).reason == "OK"
    assert wire.ask("AssignVariable", assign(if_model_revision_match=2)).reason == "OK"


def test_an_answer_too_large_to_keep_is_told() -> None:
    """A write that was done and cannot be answered again is not done again."""
    live = counter(idempotency=IdempotencyCache(max_bytes=7))
    with serve_here(live) as address, connected(address) as wire:
        request = one_more("AssignVariable", "id", 5)
        assert wire.ask("AssignVariable", *request).reason == "OK"
        again = wire.ask("AssignVariable", *request)
        again.check()
        assert (again.reason, count_of(wire)) == ("ANSWER_NOT_KEPT", 5)
