"""A client that knows no .proto calls every protocol that is served, as reflection tells it."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.rpc.test_open_inference import echo
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel

OWN = {"varserve.v1.ModelService", "grpc.health.v1.Health"}
FOREIGN = {
    "oip": {"inference.GRPCInferenceService"},
    "tfs": {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"},
}
X = np.arange(3, dtype=np.float32)
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "varserve.v1.ModelService": (
        "RunFunction",
        {
            "model": "echo",
            "function": "serving_default",
            "inputs": {"x": {"dtype": 1, "shape": [3], "data": X.tobytes()}},
        },
    ),
    "inference.GRPCInferenceService": (
        "ModelInfer",
        {
            "model_name": "echo",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [3]}],
            "raw_input_contents": [X.tobytes()],
        },
    ),
    "tensorflow.serving.PredictionService": (
        "Predict",
        {
            "model_spec": {"name": "echo"},
            "inputs": {
                "x": {
                    "dtype": 1,
                    "tensor_shape": {"dim": [{"size": 3}]},
                    "tensor_content": X.tobytes(),
                }
            },
        },
    ),
}


@pytest.mark.parametrize("facades", [(), ("oip",), ("tfs",), ("oip", "tfs")], ids=str)
def test_every_protocol_that_is_served_is_described(facades: tuple[str, ...]) -> None:
    """Each service is listed, and its description is enough to call it; no other is listed."""
    with (
        serve_here(LiveModel(echo("float32")), facades=facades, reflection=True) as address,
        grpc.insecure_channel(address) as channel,
    ):
        told = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(told)
        listed = set(told.get_services()) - {"grpc.reflection.v1alpha.ServerReflection"}
        assert listed == OWN.union(*(FOREIGN[name] for name in facades))
        called = 0
        for service in listed & CALLS.keys():
            name, fields = CALLS[service]
            method = pool.FindServiceByName(service).methods_by_name[name]
            call = channel.unary_unary(
                f"/{service}/{name}",
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            answer = call(GetMessageClass(method.input_type)(**fields), timeout=30)
            assert X.tobytes() in answer.SerializeToString()
            called += 1
        assert called == 1 + len(facades)
