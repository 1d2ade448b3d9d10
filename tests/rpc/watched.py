"""What tests of watches and of the history share."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from tests.rpc.requests import assign, tensor
from tests.rpc.wire import outcome_of
from varserve.v1 import model_service_pb2 as pb


def f32(*values: float) -> Any:
    return tensor(shape=[len(values)], data=np.array(values, "<f4").tobytes())


def set_v(*values: float, **fields: Any) -> pb.AssignVariableRequest:
    return assign(value=f32(*values), **fields)


async def failure(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    outcome = outcome_of(caught.value)
    outcome.check()
    return outcome.failure


async def next_commit(stream: Any) -> Any:
    """The next message that is no bookmark."""
    async with asyncio.timeout(20):
        while True:
            message = await stream.read()
            assert message is not grpc.aio.EOF
            if message.HasField("commit"):
                return message
