"""MLServer with a runtime of our own. Its state is a warm numpy array; one worker, as it starts."""

from __future__ import annotations

import asyncio
import socket
import tempfile

from benchmarks.sides import Ready
from benchmarks.sides.open_inference import ADD, READ, Client

__all__ = ["Client", "serve"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def serve(ready: Ready) -> None:
    from mlserver import MLServer, ModelSettings, Settings

    from benchmarks.sides import mlserver_runtimes

    models = [
        ModelSettings(name=READ, implementation=mlserver_runtimes.Read),
        ModelSettings(name=ADD, implementation=mlserver_runtimes.Add),
    ]

    async def run(settings: Settings) -> None:
        await MLServer(settings).start(models)  # it wants a running loop where it is made

    with tempfile.TemporaryDirectory() as metrics:
        port = _free_port()
        settings = Settings(
            host="127.0.0.1",
            grpc_port=port,
            http_port=_free_port(),
            metrics_port=_free_port(),
            metrics_dir=metrics,
            grpc_max_message_length=-1,
            use_structured_logging=False,
        )
        ready(f"127.0.0.1:{port}")
        asyncio.run(run(settings))
