"""Calls of tritonclient's HTTP client, as one JSON document: `triton_http_client.py HOST:PORT`."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main(address: str) -> dict[str, Any]:
    client = triton.InferenceServerClient(address)
    x = triton.InferInput("x", [3], "FP32")
    found: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [
            client.is_model_ready("scaled"),
            client.is_model_ready("scaled", "1"),
            client.is_model_ready("nobody"),
        ],
        "server": client.get_server_metadata()["name"],
        "metadata": client.get_model_metadata("scaled"),
    }
    for binary in (True, False):
        x.set_data_from_numpy(np.arange(3, dtype=np.float32), binary_data=binary)
        wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
        for name, options in {
            "plain": {},
            "gzip": {"request_compression_algorithm": "gzip"},
            "deflate": {"request_compression_algorithm": "deflate"},
        }.items():
            result = client.infer("scaled", [x], outputs=wanted, request_id="7", **options)
            found[f"{name} {binary}"] = [result.as_numpy("y").tolist(), result.get_response()["id"]]
    words = triton.InferInput("words", [2], "BYTES")
    words.set_data_from_numpy(np.array([b"ab", b""], object))
    joined = client.infer("words", [words]).as_numpy("joined")
    found["strings"] = [each.decode() for each in joined.tolist()]
    try:
        client.infer("nobody", [x])
    except InferenceServerException as error:
        found["refused"] = [error.status(), error.message()]
    return found


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
