"""A client that goes away is CANCELLED: no failure of the service, whatever gRPC raises."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc.models import counter
from tests.rpc.requests import chunk, entry, manifest
from tests.serving import serve_here
from varserve.v1 import history_pb2, model_service_pb2_grpc
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.observers import CallObserver

MIB = 2**20
TIMES = 40


class Ended(CallObserver):
    """An observer that keeps the calls that have ended."""

    def __init__(self) -> None:
        self.begun: queue.Queue[RpcCall] = queue.Queue()
        self.calls: queue.Queue[RpcCall] = queue.Queue()

    def started(self, call: RpcCall) -> None:
        self.begun.put(call)

    def ended(self, call: RpcCall) -> None:
        self.calls.put(call)


def download(stub: Any) -> Any:
    reads = pb.ReadVariablesRequest(model="counter", reads=[{"variable": "big"}])
    return stub.ReadVariables(reads, timeout=30)


def watch(stub: Any) -> Any:
    request = history_pb2.WatchVariablesRequest(model="counter", after_revision=0)
    return stub.WatchVariables(request, timeout=30)


def upload(stub: Any) -> Any:
    """A body of which the last byte never comes."""
    ended = threading.Event()

    def messages() -> Iterator[Any]:
        header = {"dtype": 4, "shape": [64 * MIB], "byte_length": 64 * MIB}
        yield manifest(entry(variable="big", tensor=header))
        for offset in range(0, 63 * MIB, MIB):
            yield chunk(offset, bytes(MIB))
        ended.wait(30)

    call = stub.AssignVariables.future(messages(), timeout=30)
    call.add_done_callback(lambda _: ended.set())
    return call


@pytest.mark.parametrize("begin", [download, watch, upload])
@pytest.mark.parametrize("end", ["cancel", "close"])
def test_who_hangs_up_is_cancelled(
    begin: Callable[[Any], Any], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At any moment of a stream, by a cancellation or with the whole connection."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    ended = Ended()
    big = FakeVariable("big", np.zeros(64 * MIB, np.uint8))
    with caplog.at_level(logging.INFO), serve_here(counter(big), observers=[ended]) as address:
        for _ in range(TIMES):
            channel = grpc.insecure_channel(
                address, options=[("grpc.use_local_subchannel_pool", 1)]
            )
            with channel:
                call = begin(model_service_pb2_grpc.ModelServiceStub(channel))
                ended.begun.get(timeout=30)
                if begin is upload:
                    time.sleep(chance.uniform(0, 0.02))  # not to wait for: any moment will do
                else:
                    for _ in range(chance.randint(1, 1 if begin is watch else 12)):
                        next(call)
                if end == "cancel":
                    call.cancel()
            result = ended.calls.get(timeout=30)
            assert result.code is grpc.StatusCode.CANCELLED, (result.code, result.reason)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
