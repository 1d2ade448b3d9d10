"""What tells values of variables to a caller that may not read them: summaries and failures."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.requests import rows
from tests.rpc.roles import Caller
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import outcome_of
from tests.serving import serve_here
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import summary_pb2
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access

POLICY = read_policy(b"""
rules:
  - {subjects: [auditor, reader], verbs: [list, summarize, watch], models: ["*"], variables: ["*"]}
  - {subjects: [reader], verbs: [read], models: ["*"], variables: ["*"]}
  - {subjects: [caller, half, reader], verbs: [run], models: ["*"], functions: ["*"]}
  - {subjects: [half], verbs: [read], models: ["*"], variables: [few]}
""")


def model() -> LiveModel:
    def failing() -> dict[str, Any]:
        raise RequestError(Reason.FUNCTION_FAILED, "the value 3.25 of secret is too large")

    variables = [
        FakeVariable("few", np.arange(15, dtype=np.float32)),
        FakeVariable("some", np.arange(16, dtype=np.float32)),
        FakeVariable("many", np.arange(64, dtype=np.float32)),
        FakeVariable("free", np.arange(3, dtype=np.float32), shape=(None,)),
    ]
    functions = [
        FakeFunction("both", failing, reads=("few", "many")),
        FakeFunction("first", failing, reads=("few",)),
        FakeFunction("none", failing),
    ]
    return LiveModel(FakeModel(variables, functions, name="m"))


def summary(variable: str, **fields: Any) -> pb.SummarizeVariablesRequest:
    return pb.SummarizeVariablesRequest(model="m", selections=[{"variable": variable}], **fields)


def histogram(bins: int, **edges: float) -> summary_pb2.HistogramSpec:
    return summary_pb2.HistogramSpec(bins=bins, **edges)


SUMMARIES = [
    # Few elements, also of a variable of any size.
    (summary("few"), False),
    (summary("free"), False),
    (summary("some"), True),
    (summary("many"), True),
    # Bins with few elements.
    (summary("some", histogram=histogram(4)), True),
    (summary("some", histogram=histogram(5)), False),
    (summary("many", histogram=histogram(16)), True),
    (summary("many", histogram=histogram(17)), False),
    # Edges that the caller chooses: one bin after the other would find each element.
    (summary("many", histogram=histogram(1, low=0.0, high=1.5)), False),
    # Hashes of what can be guessed.
    (summary("some", content_hash=True), False),
    (summary("many", content_hash=True), True),
    # Parts, and the same in the past.
    (
        pb.SummarizeVariablesRequest(
            model="m", selections=[{"variable": "many", "region": rows(*range(40))}]
        ),
        False,
    ),
    (summary("few", at_revision=0), False),
    (summary("many", at_revision=0), True),
    # Beside one that is allowed.
    (
        pb.SummarizeVariablesRequest(
            model="m", selections=[{"variable": "many"}, {"variable": "few"}]
        ),
        False,
    ),
]


@pytest.mark.parametrize(("request_", "allowed"), SUMMARIES)
def test_a_summary_that_singles_elements_out_is_a_read(
    request_: pb.SummarizeVariablesRequest, allowed: bool
) -> None:
    """By the number of elements, bins, chosen edges, hashes and parts: it needs both verbs."""
    access = Access(authenticator=Claimed(), policy=lambda: POLICY)
    with (
        serve_here(model(), access=access) as address,
        grpc.insecure_channel(address) as channel,
    ):
        expected = "OK" if allowed else "PERMISSION_DENIED"
        assert Caller(channel, "auditor").reason("SummarizeVariables", request_) == expected
        assert Caller(channel, "reader").reason("SummarizeVariables", request_) == "OK"


@pytest.mark.parametrize(
    ("role", "function", "told"),
    [
        ("reader", "both", True),
        ("reader", "first", True),
        ("half", "both", False),
        ("half", "first", True),
        ("caller", "first", False),
        ("caller", "none", True),
    ],
)
def test_why_a_function_failed_is_told_to_who_may_read(
    role: str, function: str, told: bool
) -> None:
    """Its message may carry values: the caller needs `read` on all that the function reads."""
    access = Access(authenticator=Claimed(), policy=lambda: POLICY)
    with (
        serve_here(model(), access=access) as address,
        grpc.insecure_channel(address) as channel,
    ):
        request = pb.RunFunctionRequest(model="m", function=function)
        with pytest.raises(grpc.RpcError) as caught:
            Caller(channel, role).answer("RunFunction", request)
    outcome = outcome_of(caught.value)
    assert outcome.reason == "FUNCTION_FAILED"
    assert ("3.25" in outcome.text) is told
