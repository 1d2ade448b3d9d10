"""PyTriton: Triton in front of Python functions. Its state is a warm numpy array."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np

from benchmarks.model import PEER_STATE
from benchmarks.sides import Ready
from benchmarks.sides.open_inference import ADD, READ, Client

__all__ = ["Client", "serve"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def serve(ready: Ready) -> None:
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    state = np.ones(PEER_STATE // 4, np.float32)

    def read(requests: Any) -> Any:
        return [{"value": state} for _ in requests]

    def add(requests: Any) -> Any:
        return [{"y": request["x"] + np.float32(1)} for request in requests]

    port = _free_port()
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=port,
        http_address="127.0.0.1",
        http_port=_free_port(),
        allow_metrics=False,
    )
    vector = {"dtype": np.float32, "shape": (-1,)}
    one = ModelConfig(batching=False)
    with Triton(config=config) as triton:
        for name, function, output in ((READ, read, "value"), (ADD, add, "y")):
            triton.bind(
                name,
                function,
                inputs=[Tensor(name="x", **vector)],
                outputs=[Tensor(name=output, **vector)],
                config=one,
            )
        triton.run()
        ready(f"127.0.0.1:{port}")
        triton.serve()
