"""Every call of tritonclient that makes sense, as one JSON document. Has its own environment.

triton_client.py HOST:PORT
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def attempt(call: Callable[[], Any]) -> Any:
    """What a call gives, or how it fails."""
    try:
        return call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}


def tensor(name: str, array: Any, datatype: str) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def main(address: str) -> dict[str, Any]:
    client = triton.InferenceServerClient(address)
    x = tensor("x", np.arange(3, dtype=np.float32), "FP32")
    found: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [
            client.is_model_ready("scaled"),
            client.is_model_ready("scaled", "1"),
            client.is_model_ready("scaled", "stable"),
            client.is_model_ready("scaled", "9"),
            client.is_model_ready("nobody"),
        ],
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata("scaled", as_json=True),
        "config": client.get_model_config("scaled", as_json=True),
        "unsayable": attempt(lambda: client.get_model_metadata("complex")),
    }
    result = client.infer("scaled", [x], request_id="7", parameters={"signature_name": "again"})
    response = result.get_response()
    found["infer"] = {
        "id": response.id,
        "version": response.model_version,
        "revision": response.parameters["varserve_revision"].int64_param,
        "y": result.as_numpy("y").tolist(),
    }
    wanted = [triton.InferRequestedOutput("z")]
    found["wanted"] = [
        each.name for each in client.infer("scaled", [x], outputs=wanted).get_response().outputs
    ]
    zipped = client.infer("scaled", [x], compression_algorithm="gzip", client_timeout=30)
    found["gzip"] = zipped.as_numpy("y").tolist()
    words = tensor("words", np.array([b"ab", b"", b"c" * 300], object), "BYTES")
    found["strings"] = [
        element.decode() for element in client.infer("words", [words]).as_numpy("joined").tolist()
    ]
    large = tensor("x", np.ones(4 << 20, np.float32), "FP32")
    found["large"] = float(client.infer("scaled", [large]).as_numpy("y").sum())
    found["refused"] = {
        "name": attempt(lambda: client.infer("scaled", [tensor("y", np.ones(1, "f4"), "FP32")])),
        "dtype": attempt(lambda: client.infer("scaled", [tensor("x", np.ones(1, "f8"), "FP64")])),
        "model": attempt(lambda: client.infer("nobody", [x])),
        "version": attempt(lambda: client.infer("scaled", [x], model_version="9")),
        "config": attempt(lambda: client.load_model("scaled", config="{}")),
        "shared memory": attempt(client.get_system_shared_memory_status),
    }
    answers: queue.Queue[Any] = queue.Queue()
    client.async_infer("scaled", [x], callback=lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=30)
    found["async"] = [result.as_numpy("y").tolist(), error]
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(3):
        client.async_stream_infer("scaled", [x], request_id=str(number))
    client.async_stream_infer("scaled", [tensor("x", np.ones((1, 1), "f4"), "FP32")])
    client.async_stream_infer("scaled", [x], request_id="5", enable_empty_final_response=True)
    stream = [answers.get(timeout=30) for _ in range(5)]
    client.stop_stream()
    found["stream"] = [
        error.message() if error else result.get_response().id for result, error in stream
    ]
    found["final"] = stream[-1][0].get_response().parameters["triton_final_response"].bool_param
    stats = client.get_inference_statistics("scaled", as_json=True)["model_stats"]
    found["statistics"] = [
        stats[0]["inference_stats"][kind]["count"] for kind in ("success", "fail")
    ]
    found["index"] = attempt(lambda: client.get_model_repository_index(as_json=True))
    client.unload_model("words")
    found["unloaded"] = [client.is_model_ready("words")]
    client.load_model("words")
    found["unloaded"].append(client.is_model_ready("words"))
    return found


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
