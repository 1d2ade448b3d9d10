"""Roles by a policy, the same by hand, and the models and requests to try them on."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.requests import chunk, entry, manifest, run_manifest, tensor
from tests.rpc.wire import METHODS, outcome_of
from varserve.v1 import history_pb2, model_service_pb2_grpc
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Omission, OmissionKind, TensorSpec

POLICY = b"""
rules:
  - subjects: [boss]
    verbs: [list, read, summarize, assign, run, watch, admin]
    models: ["*"]
    variables: ["*"]
    functions: ["*"]
  - {subjects: [reader], verbs: [list, read], models: [alpha], variables: ["head/*"], functions: []}
  - {subjects: [writer], verbs: [assign], models: [alpha], variables: ["head/*"]}
  - {subjects: [writer], verbs: [run], models: [alpha], functions: ["b*"]}
  - {subjects: [runner], verbs: [run], models: ["a*"], functions: ["*"]}
  - {subjects: [watcher], verbs: [list, watch], models: ["*"], variables: ["*"]}
  - {subjects: [peeker], verbs: [read, watch], models: [alpha], variables: [secret]}
  - {subjects: [counter], verbs: [summarize], models: [alpha], variables: ["head/*", left/twin]}
  - {subjects: [counter], verbs: [read], models: [alpha], variables: [left/twin]}
  - {subjects: [admin], verbs: [admin], models: ["*"]}
  - {subjects: ["team-?"], verbs: [list, read], models: [beta], variables: ["*"]}
"""

# What there is, by the name that it is listed under, with all that it can be called.
VARIABLES = {
    "alpha": {
        "head/bias": ["head/bias", "layers/0/bias"],
        "secret": ["secret", "head/9"],  # its path looks like what others may read
        "left/twin": ["left/twin"],
        "right/twin": ["right/twin"],
    },
    "beta": {"head/bias": ["head/bias", "layers/0/bias"]},
    "gamma": {},
}
FUNCTIONS: dict[str, dict[str, list[str]]] = {
    "alpha": {"peek": [], "bump": ["head/bias"], "both": ["head/bias", "secret"]},
    "beta": {"peek": []},
    "gamma": {},
}
SAID = [
    "head/bias",
    "layers/0/bias",
    "secret",
    "head/9",
    "left/twin",
    "right/twin",
    "head/none",
    "x",
]
SAID_FUNCTIONS = ["peek", "bump", "both", "b-none", "none"]

# The policy once more, by hand and name by name, whether there is such a thing or not.
HEADS = {"head/bias", "head/9", "head/none"}
ALL = {*SAID, "twin"}
ROLES = [
    "boss",
    "reader",
    "writer",
    "runner",
    "watcher",
    "peeker",
    "counter",
    "admin",
    "team-a",
    "team-ab",
    "nobody",
]
VARIABLE_VERBS = ["list", "read", "summarize", "assign", "watch"]


def names(role: str, verb: str, model: str) -> set[str]:
    """The names of variables that a role may do this with, if they are listed under them."""
    match role, verb, model:
        case "boss", _, _:
            return ALL
        case "reader", "list" | "read", "alpha":
            return HEADS
        case "writer", "assign", "alpha":
            return HEADS
        case "watcher", "list" | "watch", _:
            return ALL
        case "counter", "summarize", "alpha":
            return HEADS | {"left/twin"}
        case "counter", "read", "alpha":
            return {"left/twin"}
        case "peeker", "read" | "watch", "alpha":
            return {"secret"}
        case "team-a", "list" | "read", "beta":
            return ALL
    return set()


def functions(role: str, model: str) -> set[str]:
    """The names of functions that a role may run or know of."""
    match role, model:
        case "boss", _:
            return {*SAID_FUNCTIONS}
        case "writer", "alpha":
            return {"bump", "both", "b-none"}
        case "runner", "alpha":
            return {*SAID_FUNCTIONS}
    return set()


def knows(role: str, model: str) -> bool:
    """Whether a role may do anything with a model of this name."""
    match role:
        case "boss" | "watcher" | "admin":
            return True
        case "reader" | "writer" | "peeker" | "runner" | "counter":
            return model == "alpha"
        case "team-a":
            return model == "beta"
    return False


def on_model(role: str, model: str) -> str:
    if not knows(role, model):
        return "PERMISSION_DENIED"
    return "OK" if VARIABLES[model] else "MODEL_NOT_FOUND"


def on_variable(role: str, verb: str, model: str, said: str) -> str:
    if (found := on_model(role, model)) != "OK":
        return found
    label = next((name for name, called in VARIABLES[model].items() if said in called), None)
    if label in names(role, verb, model):
        return "OK"
    if any(label in names(role, each, model) for each in VARIABLE_VERBS):
        return "PERMISSION_DENIED"
    if any(said in names(role, each, model) for each in VARIABLE_VERBS):
        return "VARIABLE_NOT_FOUND"
    return "PERMISSION_DENIED"


def on_variables(role: str, verb: str, model: str, *said: str) -> str:
    found = [on_variable(role, verb, model, each) for each in said]
    return next((each for each in found if each != "OK"), "OK")


def on_function(role: str, model: str, said: str) -> str:
    if (found := on_model(role, model)) != "OK":
        return found
    if said not in functions(role, model):
        return "PERMISSION_DENIED"
    if said not in FUNCTIONS[model]:
        return "FUNCTION_NOT_FOUND"
    written = set(FUNCTIONS[model][said])
    return "OK" if written <= names(role, "assign", model) else "PERMISSION_DENIED"


def on_some(role: str, verb: str, model: str) -> str:
    if (found := on_model(role, model)) != "OK":
        return found
    return "OK" if names(role, verb, model) & set(VARIABLES[model]) else "PERMISSION_DENIED"


def on_all(role: str, verb: str, model: str) -> str:
    if (found := on_model(role, model)) != "OK":
        return found
    return "OK" if set(VARIABLES[model]) <= names(role, verb, model) else "PERMISSION_DENIED"


def alpha() -> LiveModel:
    bias = FakeVariable("head/bias", np.zeros(3, np.float32), path="layers/0/bias")
    secret = FakeVariable("secret", np.zeros(3, np.float32), path="head/9")
    twins = [
        FakeVariable("twin", np.zeros(3, np.float32), path=f"{s}/twin") for s in ("left", "right")
    ]

    def bump(n: Any) -> dict[str, Any]:
        bias.array = bias.array + np.float32(n)  # type: ignore[operator]
        return {"n": n}

    n = {"n": TensorSpec("int64", ())}
    return LiveModel(
        FakeModel(
            [bias, secret, *twins],
            [
                FakeFunction("peek", lambda n: {"n": n}, inputs=n, outputs=n),
                FakeFunction("bump", bump, inputs=n, outputs=n, writes=("layers/0/bias",)),
                FakeFunction("both", bump, inputs=n, outputs=n, writes=("layers/0/bias", "head/9")),
            ],
            name="alpha",
            omissions=[Omission(OmissionKind.VARIABLE, "left/out", "it is not of this world")],
        )
    )


def beta() -> LiveModel:
    n = {"n": TensorSpec("int64", ())}
    bias = FakeVariable("head/bias", np.zeros(3, np.float32), path="layers/0/bias")
    peek = FakeFunction("peek", lambda n: {"n": n}, inputs=n, outputs=n)
    return LiveModel(FakeModel([bias], [peek], name="beta"))


class Caller:
    """Makes calls as one role, and tells what they came to."""

    def __init__(self, channel: grpc.Channel, role: str) -> None:
        self.stub = model_service_pb2_grpc.ModelServiceStub(channel)
        self.metadata = (("name", role),)

    def answer(self, method: str, *requests: Any) -> Any:
        """The (first) answer. Raises grpc.RpcError."""
        call = getattr(self.stub, method)
        streams = METHODS[method].client_streaming
        found = call(iter(requests) if streams else requests[0], metadata=self.metadata, timeout=30)
        if not METHODS[method].server_streaming:
            return found
        try:
            return next(found)
        finally:
            found.cancel()

    def reason(self, method: str, *requests: Any) -> str:
        """The reason of its failure, or OK."""
        try:
            self.answer(method, *requests)
        except grpc.RpcError as error:
            outcome = outcome_of(error)
            outcome.check()
            return outcome.reason
        return "OK"


def assigned(model: str, *said: str) -> list[Any]:
    first = manifest(*[entry(variable=each) for each in said], model=model)
    return [first, chunk(0, tensor().data * len(said))]


def run_stream(model: str, function: str) -> list[Any]:
    named = [{"name": "n", "tensor": {"dtype": 9, "shape": [], "byte_length": 8}}]
    first = run_manifest(model=model, function=function, inputs=named)
    return [first, chunk(0, bytes(8), kind=pb.StreamRunFunctionRequest)]


def one(method: str, model: str, said: str) -> list[Any]:
    """A good request of a method about one variable."""
    match method:
        case "ReadVariable":
            return [pb.ReadVariableRequest(model=model, variable=said)]
        case "ReadVariables":
            return [pb.ReadVariablesRequest(model=model, reads=[{"variable": said}])]
        case "SummarizeVariables":
            return [pb.SummarizeVariablesRequest(model=model, selections=[{"variable": said}])]
        case "AssignVariable":
            return [pb.AssignVariableRequest(model=model, variable=said, value=tensor())]
        case "AssignVariables":
            return assigned(model, said)
        case "RevertCommits":
            return [history_pb2.RevertCommitsRequest(model=model, variables=[said])]
    raise AssertionError(method)
