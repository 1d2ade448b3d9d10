"""What each request requires, what the audit log has of it, and what to decide it costs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rpc.requests import rows, tensor
from tests.rpc.wire import ROWS
from varserve.v1 import admin_service_pb2 as admin
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.rpc.authorization.requirements import (
    RequireAll,
    RequireAny,
    RequireAnyModel,
    RequireInspect,
    RequireLease,
    Requirements,
    RequireModel,
    RequireRun,
    RequireVariables,
)


def required(method: str, request: Any) -> Requirements:
    return ROWS[method].requirements(request)


def plain(requirements: Requirements) -> list[Any]:
    """Those of functions without their arguments."""
    return [
        (type(each), each.model, each.function)
        if isinstance(each, RequireRun | RequireInspect)
        else each
        for each in requirements.requirements
    ]


READ, ASSIGN = Verb.READ, Verb.ASSIGN


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("ListModels", pb.ListModelsRequest(), [RequireAnyModel(Verb.LIST)]),
        ("GetModel", pb.GetModelRequest(model="m"), [RequireModel(Verb.LIST, "m")]),
        (
            "ReadVariable",
            pb.ReadVariableRequest(model="m", variable="v"),
            [RequireVariables(READ, "m", ["v"])],
        ),
        (
            "ReadVariables",
            pb.ReadVariablesRequest(model="m", reads=[{"variable": n} for n in "vwv"]),
            [RequireVariables(READ, "m", ["v", "w"])],
        ),
        (
            "SummarizeVariables",
            pb.SummarizeVariablesRequest(
                model="m", selections=[{"variable": "v"}, {"variable": "w", "region": rows(0)}]
            ),
            [
                RequireVariables(Verb.SUMMARIZE, "m", ["v", "w"]),
                RequireVariables(READ, "m", ["w"]),
            ],
        ),
        (
            "SummarizeVariables",
            pb.SummarizeVariablesRequest(model="m", selections=[{"variable": "v"}]),
            [RequireVariables(Verb.SUMMARIZE, "m", ["v"])],
        ),
        *(
            (
                "SummarizeVariables",
                pb.SummarizeVariablesRequest(
                    model="m", selections=[{"variable": "v"}], histogram={"bins": 3, edge: 1.0}
                ),
                [RequireVariables(Verb.SUMMARIZE, "m", ["v"]), RequireVariables(READ, "m", ["v"])],
            )
            for edge in ("low", "high")
        ),
        (
            "RunFunction",
            pb.RunFunctionRequest(model="m", function="f"),
            [(RequireRun, "m", "f")],
        ),
        (
            "RunFunction",
            pb.RunFunctionRequest(model="m", function="f", messages=True),
            [(RequireRun, "m", "f"), (RequireInspect, "m", "f")],
        ),
    ],
)
def test_what_looks_is_no_write(method: str, request_: Any, expected: list[Any]) -> None:
    """Each name once, in the order of the request; parts and edges of summaries are reads."""
    found = required(method, request_)
    assert (plain(found), found.writes, found.details) == (expected, False, {})
    assert not found.waits


def test_what_writes_is_recorded_with_its_id() -> None:
    """To read back is to read; a check tells what its function gives."""
    request = pb.AssignVariableRequest(
        model="m", variable="v", value=tensor(), request_id="r", read_back=True
    )
    request.check.function = "judge"
    found = required("AssignVariable", request)
    assert plain(found) == [
        RequireVariables(ASSIGN, "m", ["v"]),
        RequireVariables(READ, "m", ["v"]),
        (RequireInspect, "m", "judge"),
    ]
    assert (found.writes, found.request_id) == (True, "r")
    assert found.names() == ("m", ["v"], "judge")
    plainly = pb.AssignVariableRequest(model="m", variable="v", value=tensor())
    assert plain(required("AssignVariable", plainly)) == [RequireVariables(ASSIGN, "m", ["v"])]
    run = required("RunFunction", pb.RunFunctionRequest(model="m", function="f", request_id="r"))
    assert (run.request_id, run.writes, run.names()) == ("r", False, ("m", [], "f"))


@pytest.mark.parametrize(
    ("names", "expected", "walks"),
    [
        (["v"], [RequireVariables(ASSIGN, "m", ["v"])], False),
        ([], [RequireAll(ASSIGN, "m", "name the variables to revert")], True),
    ],
)
def test_a_revert_of_all_requires_all(names: list[str], expected: list[Any], walks: bool) -> None:
    """To decide that looks at all variables, which is not done on the event loop."""
    request = history_pb2.RevertCommitsRequest(model="m", variables=names, request_id="r")
    found = required("RevertCommits", request)
    assert (list(found.requirements), found.walks_model) == (expected, walks)
    assert (found.writes, found.request_id, found.waits) == (True, "r", False)


@pytest.mark.parametrize(("method", "writes"), [("RenewLease", False), ("RevokeLease", True)])
def test_a_lease_may_have_to_be_waited_for(method: str, writes: bool) -> None:
    """Where it is kept is asked; to renew one writes nothing."""
    request = getattr(history_pb2, f"{method}Request")(model="m", lease=7, epoch="e")
    found = required(method, request)
    assert list(found.requirements) == [RequireLease("m", 7, "e")]
    assert (found.writes, found.waits, found.walks_model) == (writes, True, False)
    watch = required("ListCommits", history_pb2.ListCommitsRequest(model="m"))
    assert list(watch.requirements) == [RequireAny(Verb.WATCH, "m")]
    assert (watch.writes, watch.walks_model) == (False, True)


@pytest.mark.parametrize(
    ("method", "request_", "models", "details"),
    [
        ("LoadModel", admin.LoadModelRequest(model="m"), ["m"], {"label": "stable"}),
        (
            "LoadModel",
            admin.LoadModelRequest(model="m", label="canary", version=0),
            ["m"],
            {"label": "canary", "version": 0},
        ),
        ("UnloadModel", admin.UnloadModelRequest(model="m"), ["m"], {"label": ""}),
        (
            "SaveModel",
            admin.SaveModelRequest(model="m", folder="copy/1"),
            ["copy", "m"],
            {"folder": "copy/1"},
        ),
    ],
)
def test_administration_is_recorded_with_what_it_names(
    method: str, request_: Any, models: list[str], details: dict[str, Any]
) -> None:
    """The label that it means, a version where one is named, and where a model is saved."""
    found = required(method, request_)
    assert [(each.verb, each.model) for each in found.requirements] == [
        (Verb.ADMIN, model) for model in models
    ]
    assert (found.writes, found.details, found.names()) == (True, details, ("m", [], ""))


def test_versions_of_all_models_are_those_that_the_caller_administers() -> None:
    """Of one it is asked; a session itself requires nothing."""
    one = required("ListVersions", admin.ListVersionsRequest(model="m"))
    assert list(one.requirements) == [RequireModel(Verb.ADMIN, "m")]
    every = required("ListVersions", admin.ListVersionsRequest())
    assert list(every.requirements) == [RequireAnyModel(Verb.ADMIN)]
    assert every.names() == ("", [], "")
