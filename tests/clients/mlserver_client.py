"""MLServer's stubs, converters and codecs, as one JSON document. Has its own environment.

mlserver_client.py HOST:PORT
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, Parameters, RequestOutput


def main(address: str) -> dict[str, Any]:
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(address))

    def infer(request: InferenceRequest, model: str = "scaled", *, raw: bool = False) -> Any:
        sent = converters.ModelInferRequestConverter.from_types(
            request, model_name=model, model_version="", use_raw=raw
        )
        return converters.ModelInferResponseConverter.to_types(stub.ModelInfer(sent, timeout=30))

    def x(**more: Any) -> InferenceRequest:
        # Its codecs make a column of a vector, which these functions do not take. And its converter
        # takes the data out of what it sends as raw bytes.
        given = NumpyCodec.encode_input("x", np.arange(3, dtype=np.float32))
        given.shape = [3]
        return InferenceRequest(inputs=[given], **more)

    def words() -> InferenceRequest:
        given = StringCodec.encode_input("words", ["ab", ""])
        given.shape = [2]
        return InferenceRequest(inputs=[given])

    again = Parameters(signature_name="again")
    found: dict[str, Any] = {
        "live": stub.ServerLive(pb.ServerLiveRequest(), timeout=30).live,
        "ready": stub.ServerReady(pb.ServerReadyRequest(), timeout=30).ready,
        "model ready": [
            stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=30).ready
            for name in ("scaled", "nobody")
        ],
    }
    described = converters.ModelMetadataResponseConverter.to_types(
        stub.ModelMetadata(pb.ModelMetadataRequest(name="scaled"), timeout=30)
    )
    found["metadata"] = json.loads(described.model_dump_json())
    for raw in (False, True):
        answer = infer(x(id="7"), raw=raw)
        found[f"raw {raw}"] = {
            "id": answer.id,
            "version": answer.model_version,
            "outputs": {
                each.name: NumpyCodec.decode_output(each).tolist() for each in answer.outputs
            },
            "strings": StringCodec.decode_output(infer(words(), "words", raw=raw).outputs[0]),
        }
    wanted = [RequestOutput(name="z")]
    found["wanted"] = [each.name for each in infer(x(outputs=wanted)).outputs]
    answer = infer(x(parameters=again))
    found["signature"] = [each.name for each in answer.outputs]
    found["revision"] = answer.parameters.model_dump()["varserve_revision"]
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=30)
    found["index"] = sorted([each.name, each.version, each.state] for each in index.models)
    try:
        infer(x(), "nobody")
    except grpc.RpcError as error:
        failure: Any = error
        found["refused"] = [failure.code().name, failure.details()]
    return found


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
