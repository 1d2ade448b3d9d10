"""Every method of every foreign protocol is denied to who may not call it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from tests.rpc.test_identity import Claimed
from tests.rpc.test_open_inference import POLICY, echo
from tests.serving import serve_here
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access
from varserve_service.rpc.facades.contracts import message
from varserve_service.rpc.methods import FACADES

ROWS = [row for rows in FACADES.values() for row in rows]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1]}
SPEC = {"model_spec": {"name": "echo"}}
EXAMPLES = {"input": {"example_list": {"examples": [b""]}}}

REQUESTS: dict[str, dict[str, Any]] = {
    "ServerLive": {},
    "ServerReady": {},
    "ServerMetadata": {},
    "ModelReady": {"name": "echo"},
    "ModelMetadata": {"name": "echo"},
    "ModelConfig": {"name": "echo"},
    "ModelStatistics": {"name": "echo"},
    "ModelInfer": {"model_name": "echo", "inputs": [TENSOR], "raw_input_contents": [bytes(4)]},
    "ModelStreamInfer": {"model_name": "echo", "inputs": [TENSOR]},
    "RepositoryIndex": {},
    "RepositoryModelLoad": {"model_name": "echo"},
    "RepositoryModelUnload": {"model_name": "echo"},
    "Predict": SPEC,
    "Classify": SPEC | EXAMPLES,
    "Regress": SPEC | EXAMPLES,
    "MultiInference": {"tasks": [SPEC | {"method_name": "tensorflow/serving/classify"}]} | EXAMPLES,
    "GetModelMetadata": SPEC | {"metadata_field": ["signature_def"]},
    "GetModelStatus": SPEC,
    "HandleReloadConfigRequest": {"config": {"model_config_list": {"config": [{"name": "echo"}]}}},
}
"""A request about the model for each method."""

TELLS_NOTHING = {
    "ServerLive": "live: true",
    "ServerReady": "ready: true",
    "ServerMetadata": 'name: "varserve"',
    "ModelReady": "",  # ready is false, as of a model that is not there
    "GetModelStatus": "NOT_FOUND",
    "ModelStreamInfer": "error_message",  # the stream goes on
}
"""How the others answer a caller that may do nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    with serve_here(LiveModel(echo("float32")), facades=tuple(FACADES), access=access) as address:
        yield address


def answer_of(address: str, row: Any, name: str) -> str:
    """The code that a call ends with, or the text of its answer."""
    method = row.descriptor
    sent = message(method.input_type.full_name)(**REQUESTS[method.name])
    shape = "stream_stream" if method.name == "ModelStreamInfer" else "unary_unary"
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(address))
        call = getattr(channel, shape)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(method.output_type.full_name).FromString,
        )
        given = iter([sent]) if shape == "stream_stream" else sent
        metadata = (("name", name),) if name else ()
        try:
            answer = call(given, metadata=metadata, timeout=30)
            return str(next(answer) if shape == "stream_stream" else answer)
        except grpc.RpcError as error:
            failure: Any = error
            return str(failure.code().name)


def test_every_method_is_tried() -> None:
    """A method that is served and has no request here would go unseen."""
    assert {row.descriptor.name for row in ROWS} == REQUESTS.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.descriptor.name))
def test_who_may_do_nothing_is_denied(address: str, row: Any) -> None:
    """A caller without a verb is denied or told nothing, and one without a name is not let in."""
    assert answer_of(address, row, "") == "UNAUTHENTICATED"
    told = answer_of(address, row, "stranger")
    expected = TELLS_NOTHING.get(row.descriptor.name, "PERMISSION_DENIED")
    assert expected in told if expected else told == ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.descriptor.name))
def test_a_verb_is_not_another(address: str, row: Any) -> None:
    """Who may only list runs and administers nothing; who may only run neither lists a model."""
    if row.method.verb.value in ("run", "admin"):
        told = answer_of(address, row, "looker")
        assert "PERMISSION_DENIED" in told or "may not run" in told
    elif row.descriptor.name not in TELLS_NOTHING:
        assert answer_of(address, row, "runner") == "PERMISSION_DENIED"
