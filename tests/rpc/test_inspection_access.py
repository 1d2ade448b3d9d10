"""Who may look inside functions, and which requests for it are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.requests import tensor
from tests.rpc.roles import Caller
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import outcome_of
from tests.serving import serve_here
from varserve.v1 import inspection_pb2, tensor_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import Access

POLICY = read_policy(b"""
rules:
  - {subjects: [all, half, list, narrow], verbs: [inspect], models: ["*"], functions: ["*"]}
  - {subjects: [all, blind], verbs: [read], models: ["*"], variables: ["*"]}
  - {subjects: [half, narrow], verbs: [read], models: ["*"], variables: [left]}
  - {subjects: [all, half, blind], verbs: [run], models: ["*"], functions: ["*"]}
  - {subjects: [all, half, blind], verbs: [assign], models: ["*"], variables: ["*"]}
""")

# A fake cannot be looked into: whoever is told so was let in.
LET_IN = "INSPECTION_UNSUPPORTED"


def model() -> LiveModel:
    variables = [FakeVariable(name, np.zeros(3, np.float32)) for name in ("left", "right")]
    functions = [
        FakeFunction("one", dict, reads=("left",)),
        FakeFunction("two", dict, reads=("left",), writes=("right",)),
        FakeFunction("three", dict, inputs={"x": TensorSpec("float32", (3,))}, reads=("left",)),
    ]
    return LiveModel(FakeModel(variables, functions, name="m"))


@pytest.fixture(scope="module")
def call() -> Iterator[Callable[[str], Caller]]:
    access = Access(authenticator=Claimed(), policy=lambda: POLICY)
    with serve_here(model(), access=access) as address, grpc.insecure_channel(address) as channel:
        yield lambda role: Caller(channel, role)


def inspect(**fields: Any) -> inspection_pb2.InspectFunctionRequest:
    manifest = inspection_pb2.InspectManifest(**{"model": "m", "function": "one"} | fields)
    return inspection_pb2.InspectFunctionRequest(manifest=manifest)


@pytest.mark.parametrize(
    ("role", "function", "expected"),
    [
        ("all", "one", LET_IN),
        ("all", "two", LET_IN),
        ("half", "one", LET_IN),
        ("half", "two", "PERMISSION_DENIED"),
        ("list", "one", "PERMISSION_DENIED"),
        ("blind", "one", "PERMISSION_DENIED"),
        ("stranger", "one", "PERMISSION_DENIED"),
    ],
)
def test_to_inspect_needs_read(
    call: Callable[[str], Caller], role: str, function: str, expected: str
) -> None:
    """`inspect` on the function, and `read` on all that it reads and writes."""
    assert call(role).reason("InspectFunction", inspect(function=function)) == expected


def test_to_list_needs_inspect_alone(call: Callable[[str], Caller]) -> None:
    """Names of inner tensors are listed to whoever may inspect the function."""
    request = inspection_pb2.ListTensorsRequest(model="m", function="two")
    assert call("list").reason("ListTensors", request) == LET_IN
    assert call("blind").reason("ListTensors", request) == "PERMISSION_DENIED"


def test_printed_lines_need_what_an_inspection_does(call: Callable[[str], Caller]) -> None:
    """A plain run needs `run`; with its messages it needs `inspect` and `read` too."""
    plain = pb.RunFunctionRequest(model="m", function="one")
    told = pb.RunFunctionRequest(model="m", function="one", messages=True)
    assert call("blind").reason("RunFunction", plain) == "OK"
    assert call("blind").reason("RunFunction", told) == "PERMISSION_DENIED"
    assert call("half").reason("RunFunction", told) == "OK"


def test_a_check_needs_what_an_inspection_does(call: Callable[[str], Caller]) -> None:
    """What a check gives is told when it does not pass: it needs `inspect` and `read`."""
    write = pb.AssignVariableRequest(model="m", variable="left", value=tensor())
    assert call("blind").reason("AssignVariable", write) == "OK"
    write.check.function = "one"
    assert call("blind").reason("AssignVariable", write) == "PERMISSION_DENIED"
    assert call("half").reason("AssignVariable", write) == LET_IN


HEADER = tensor_pb2.TensorHeader(dtype=1, shape=[3], byte_length=12)


def test_what_is_assumed_tells_nothing_of_what_is_hidden(call: Callable[[str], Caller]) -> None:
    """A variable that the caller may not know of is answered for like one that is not there."""

    def told(role: str, name: str) -> tuple[str, str]:
        assumed = tensor_pb2.NamedTensorHeader(name=name, tensor=HEADER)
        with pytest.raises(grpc.RpcError) as caught:
            call(role).answer("InspectFunction", inspect(assume=[assumed]))
        outcome = outcome_of(caught.value)
        return outcome.reason, outcome.text.replace(name, "NAME")

    assert told("narrow", "right") == told("narrow", "wrong") != told("narrow", "left")
    # Who is let in sends the value next.
    assert told("narrow", "left")[0] == told("all", "right")[0] == "CHUNK_INVALID"
    assert told("all", "wrong")[0] == "VARIABLE_NOT_FOUND"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"function": "none"}, "FUNCTION_NOT_FOUND"),
        ({"inputs": [{"name": "x", "tensor": HEADER}]}, "INPUT_MISMATCH"),
        ({"inputs": [{"name": "x", "tensor": HEADER}] * 2}, "INPUT_MISMATCH"),
        ({"assume": [{"name": "left", "tensor": HEADER}] * 2}, "REQUEST_MALFORMED"),
        ({"probes": ["x" * 513]}, "REQUEST_MALFORMED"),
        ({"probes": ["x"] * 1001}, "REQUEST_MALFORMED"),
        ({"patches": [{"tensor": "x"}]}, "REQUEST_MALFORMED"),
        ({"patches": [{"tensor": "x", "zero": False}]}, "REQUEST_MALFORMED"),
        ({"patches": [{"tensor": "x", "scale": float("nan")}]}, "REQUEST_MALFORMED"),
        ({"patches": [{"tensor": "x", "scale": 1}] * 2}, "REQUEST_MALFORMED"),
        ({"summaries": {"histogram": {"bins": 0}}}, "REQUEST_MALFORMED"),
        ({"patches": [{"tensor": "x", "value": {"dtype": 99}}]}, "DTYPE_UNSUPPORTED"),
        ({"assume": [{"name": "left", "tensor": {"dtype": 1, "shape": [-1]}}]}, "SHAPE_MISMATCH"),
    ],
)
def test_bad_requests(call: Callable[[str], Caller], fields: dict[str, Any], expected: str) -> None:
    """What is wrong in itself is refused before anything arrives or runs."""
    assert call("all").reason("InspectFunction", inspect(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"check_inputs": [{"name": "x", "tensor": HEADER}]}, "REQUEST_MALFORMED"),
        (
            {"check": {"function": "three"}, "check_inputs": [{"name": "x", "tensor": HEADER}] * 2},
            "REQUEST_MALFORMED",
        ),
        (
            {
                "check": {"function": "three", "inputs": {"x": tensor()}},
                "check_inputs": [{"name": "x", "tensor": HEADER}],
            },
            "REQUEST_MALFORMED",
        ),
    ],
)
def test_inputs_of_a_check(
    call: Callable[[str], Caller], fields: dict[str, Any], expected: str
) -> None:
    """Inputs in the body are of a check, and each has one name."""
    entry = pb.AssignEntry(variable="left", tensor={"dtype": 1, "shape": [3], "byte_length": 12})
    manifest = pb.AssignManifest(model="m", entries=[entry], **fields)
    request = pb.AssignVariablesRequest(manifest=manifest)
    assert call("all").reason("AssignVariables", request) == expected
    assert call("blind").reason("AssignVariables", request) in {"PERMISSION_DENIED", expected}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"page_token": "x"}, "REQUEST_MALFORMED"),
        ({"page_token": "-1"}, "REQUEST_MALFORMED"),
        ({"page_size": -1}, "REQUEST_MALFORMED"),
        ({"overload": 7}, "OVERLOAD_MISMATCH"),
        ({"overload": -1}, "OVERLOAD_MISMATCH"),
        ({"patterns": ["x"] * 1001}, "REQUEST_MALFORMED"),
    ],
)
def test_bad_lists(call: Callable[[str], Caller], fields: dict[str, Any], expected: str) -> None:
    """Pages, overloads and patterns that cannot be are refused."""
    request = inspection_pb2.ListTensorsRequest(**{"model": "m", "function": "one"} | fields)
    assert call("all").reason("ListTensors", request) == expected
