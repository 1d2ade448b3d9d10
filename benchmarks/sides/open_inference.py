"""The client of servers that speak the Open Inference Protocol: tritonclient's over gRPC.

Each read and call allocates its answer, as it does for every user of tritonclient.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np

START_SECONDS = 120

READ, ADD = "read", "add"
"""Models: `read` answers `value`, the state, to an input that says nothing; `add` x with `y`."""


def _grpc() -> Any:
    # Not with this module, which a server imports too: MLServer's own messages have the same names,
    # and one process cannot have both.
    import tritonclient.grpc

    return tritonclient.grpc


def _input(name: str, x: np.ndarray[Any, Any]) -> Any:
    made = _grpc().InferInput(name, list(x.shape), "FP32")
    made.set_data_from_numpy(x)
    return made


class Client:
    """Works over one connection, once the server is ready."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = _grpc().InferenceServerClient(address)
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            if time.monotonic() > end:
                raise TimeoutError(f"{address} was not ready within {START_SECONDS} s")
            time.sleep(0.5)

    def _ready(self) -> bool:
        try:
            return all(self._client.is_model_ready(name) for name in (READ, ADD))
        except _grpc().InferenceServerException:
            return False

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        """`nbytes` is what the server holds, and is checked."""
        inputs = [_input("x", np.zeros(1, np.float32))]

        def act() -> Any:
            value = self._client.infer(READ, inputs).as_numpy("value")
            if value.nbytes != nbytes:
                raise ValueError(f"expected {nbytes} bytes, found {value.nbytes}")

        yield act

    @contextmanager
    def call(self) -> Iterator[Callable[[], Any]]:
        x = np.ones(4, np.float32)
        yield lambda: self._client.infer(ADD, [_input("x", x)]).as_numpy("y")

    @asynccontextmanager
    async def call_aio(self) -> AsyncIterator[Callable[[], Any]]:
        import tritonclient.grpc.aio

        x = np.ones(4, np.float32)
        async with tritonclient.grpc.aio.InferenceServerClient(self._address) as client:

            async def act() -> Any:
                return (await client.infer(ADD, [_input("x", x)])).as_numpy("y")

            yield act
