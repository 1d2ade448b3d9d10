"""No message, however expensive and whoever sends it, holds up the health of another connection."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.rpc.expensive_messages import LIMIT, Expensive, delimited, expensive_messages
from tests.waiting import join, read_line
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.methods import ADMIN_SERVICE, FACADES, METHODS, MODEL_SERVICE

# Seconds beyond what a plain message of the same size takes.
ALLOWED = 0.05
# A busy machine runs all of it slower: the plain message is measured again beside each further try.
TRIES = 8
CALLERS = {"allowed": ("boss", 1), "denied": ("some", 2), "without a name": ("", 5)}
"""Names, and of how many messages one is sent: the fewer steps a call takes, the fewer will do."""
KNOWN = {
    "model": b"m",
    "variable": b"v",
    "function": b"f",
    "request_id": b"id",
    "folder": b"m/2",
    "model_name": b"m",
    "datatype": b"FP32",
}
OTHERS = [
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
]


class Case(NamedTuple):
    """One message to a method."""

    method: Any
    message: Expensive

    @property
    def name(self) -> str:
        return f"{self.method.name}: {self.message.name}"


def cases() -> Iterator[Case]:
    methods = [row.descriptor for row in METHODS]
    methods += [row.descriptor for rows in FACADES.values() for row in rows]
    methods += [method for service in OTHERS for method in service.methods]
    for method in methods:
        for message in expensive_messages(method.input_type, KNOWN):
            yield Case(method, message)
    words = MODEL_SERVICE.methods_by_name["RunFunction"]
    yield Case(words, Expensive("strings that the function takes", _many_words()))


def _many_words() -> bytes:
    request = pb.RunFunctionRequest(model="m", function="words")
    tensor = request.inputs["x"]
    tensor.dtype = 7  # type: ignore[assignment]
    tensor.strings.extend([b""] * (LIMIT // 2 - 100))
    tensor.shape.append(len(tensor.strings))
    return request.SerializeToString()


class Service:
    """The service in its process, and a connection whose health is watched."""

    def __init__(self, process: int, address: str, admin_address: str) -> None:
        # The clock of the time that all threads of a process have run.
        self._clock = ~process << 3 | 2
        self.address = address
        self.admin_address = admin_address
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._check = self._channel.unary_unary("/grpc.health.v1.Health/Check")

    def close(self) -> None:
        self._channel.close()

    def delay(self, method: Any, data: bytes, caller: str) -> float:
        """Send a message; the longest that a health check took until it was answered.

        In seconds, of which the service ran all: what else the machine does is not counted.
        """
        done = threading.Event()

        def send() -> None:
            try:
                admin = method.containing_service is ADMIN_SERVICE
                with grpc.insecure_channel(
                    self.admin_address if admin else self.address,
                    options=[("grpc.use_local_subchannel_pool", 1)],
                ) as channel:
                    _send(channel, method, data, caller)
            finally:
                done.set()

        self._check(b"", timeout=30)
        sending = threading.Thread(target=send)
        sending.start()
        worst = 0.0
        while not done.is_set():
            started, ran = time.monotonic(), time.clock_gettime(self._clock)
            self._check(b"", timeout=60)
            waited = time.monotonic() - started
            worst = max(worst, min(waited, time.clock_gettime(self._clock) - ran))
        join([sending])
        return worst


def _send(channel: grpc.Channel, method: Any, data: bytes, caller: str) -> None:
    kind = "_".join(
        "stream" if streaming else "unary"
        for streaming in (method.client_streaming, method.server_streaming)
    )
    call = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    request: Any = iter([data]) if method.client_streaming else data
    try:
        answer = call(request, metadata=(("name", caller),) if caller else (), timeout=30)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except (grpc.RpcError, StopIteration):
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rpc.expensive_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    service = Service(process.pid, *read_line(process).split())
    try:
        yield service
    finally:
        service.close()
        process.stdin.close()
        assert process.wait(60) == 0
        process.stdout.close()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
def test_no_message_holds_up_health(service: Service, caller: str) -> None:
    """For every field of every request filled with as many elements as a message has room for."""
    value = pb.AssignVariableRequest(model="m", variable="bytes")
    value.value.dtype = 4  # type: ignore[assignment]
    value.value.shape.append(LIMIT - 64)
    value.value.data = bytes(LIMIT - 64)
    assign = MODEL_SERVICE.methods_by_name["AssignVariable"]
    plain = value.SerializeToString()
    name, step = CALLERS[caller]
    usual = max(service.delay(assign, plain, name) for _ in range(3))
    slow, sent = {}, 0
    for method, message in islice(cases(), 0, None, step):
        sent += 1
        least = service.delay(method, message.data, name)
        for _ in range(TRIES):
            if least <= usual + ALLOWED:
                break
            usual = max(usual, service.delay(assign, plain, name))
            least = min(least, service.delay(method, message.data, name))
        else:
            slow[f"{method.name}: {message.name}"] = round(least, 3)
    assert not slow, f"plain: {usual:.3f} seconds"
    print(f"plain: {usual:.4f} seconds")
    assert sent > 100 // step


def test_a_stream_opens_with_its_manifest() -> None:
    """The streaming requests of the contract are enumerated through their manifests."""
    names = {case.name for case in cases()}
    for method, filled in (
        ("AssignVariables", "AssignManifest.entries distinct"),
        ("StreamRunFunction", "RunManifest.constants distinct"),
        ("RunFunction", "RunFunctionRequest.inputs distinct"),
        ("SummarizeVariables", "Rows.indices packed"),
    ):
        assert any(name.startswith(method) and name.endswith(filled) for name in names), method
    assert delimited(1, b"") == b"\x0a\x00"
