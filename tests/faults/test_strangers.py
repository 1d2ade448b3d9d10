"""Whoever can reach the ports, without a credential: the process goes on, and others are served."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from resource import RLIMIT_NOFILE, prlimit

import grpc
import numpy as np
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset

import varserve
from tests.serving import ServiceProcess
from tests.telemetry.scrape import scrape
from tests.waiting import join
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc as pb_grpc

TOKEN = "a-token-that-strangers-do-not-have"
OPEN_FILES = 256
PORTS = ("calls", "admin", "health")
MORE_THREADS = 8
REFUSED_CALLS = 2_000
PUBLIC_AND_NOT = (
    "/varserve.v1.ModelService/ReadVariable",
    "/varserve.v1.ModelService/WatchVariables",
    "/varserve.v1.ModelService/AssignVariables",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/no.such.Service/Method",
)


@contextmanager
def service(
    model: Path, folder: Path, *arguments: str, open_files: tuple[int, int] | None = None
) -> Iterator[ServiceProcess]:
    """The real service, with every port that it has, over one model and one token."""
    tokens = folder / "tokens.yaml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    tokens.write_text(f"tokens:\n- subject: operator\n  sha256: {digest}\n")
    process = ServiceProcess(
        *("--model", f"counter={model}", "--token-file", str(tokens)),
        *("--admin-port", "0", "--health-port", "0", "--metrics-port", "0", *arguments),
        log=folder / "log",
        open_files=open_files,
    )
    try:
        yield process
    finally:
        process.close()


def addresses(process: ServiceProcess) -> dict[str, str]:
    """Where the service listens, by what the port is for, and `metrics`."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[0] == "{"]
    (ready,) = (line for line in lines if line["event"] == "ready")
    (metrics,) = (line["address"] for line in lines if line["event"] == "metrics")
    return {
        "calls": ready["address"],
        "admin": ready["admin"],
        "health": ready["health"],
        "metrics": metrics,
    }


def silent() -> bytes:
    """Nothing: a connection, and no more."""
    return b""


def preface() -> bytes:
    """The beginning of HTTP/2, and no call."""
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    return connection.data_to_send()


def crowd(address: str, count: int, say: Callable[[], bytes], stack: ExitStack) -> None:
    """Open so many connections, and keep them as long as the other end does."""
    host, _, port = address.rpartition(":")
    for _ in range(count):
        peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        with suppress(OSError):  # it was closed at once, as it may be
            peer.sendall(say())


def threads_of(process: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def use_every_thread(client: varserve.Client) -> None:
    """Reads, writes and runs, more at once than the model has threads."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            model = client.model("counter")
            for _ in range(10):
                model.functions["total"](np.ones(3, np.float32))
                model.variables["v"][0:1].numpy()
                model.variables["count"].assign_add(1)
                model.read(["v", "count"])
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(24)]
    for worker in workers:
        worker.start()
    join(workers)
    assert failures == []


@pytest.mark.parametrize("say", [silent, preface], ids=lambda say: say.__name__)
def test_connections_leave_descriptors(
    say: Callable[[], bytes], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """More idle connections than file descriptors, on every port: each caller who is there is
    served by every thread, metrics tell of it, and when they have gone everybody is served again.
    """
    limits = (OPEN_FILES // 2, OPEN_FILES)
    with (
        service(
            model_folder("counter"),
            tmp_path,
            *("--max-connection-idle", "3", "--max-connections", "4096"),
            open_files=limits,
        ) as process,
        varserve.connect(process.address, token=TOKEN) as client,
    ):
        client.wait_ready()
        assert prlimit(process.pid, RLIMIT_NOFILE) == (OPEN_FILES, OPEN_FILES), "not raised"
        ports = addresses(process)
        with ExitStack() as stack:
            for port in PORTS:
                crowd(ports[port], OPEN_FILES * 2 if port == "calls" else 80, say, stack)
            use_every_thread(client)
            metrics = scrape(ports["metrics"])
            for port in PORTS:
                limit = metrics.value("varserve_connections_limit", port=port)
                assert metrics.value("varserve_connections", port=port) <= limit
            assert metrics.value("process_max_fds") == OPEN_FILES
            assert metrics.value("process_open_fds") <= OPEN_FILES * 7 / 8
        with varserve.connect(process.address, token=TOKEN) as other:
            other.wait_ready(timeout=30)
            use_every_thread(other)
        assert process.terminate() == 0


def test_idle_connections_end(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A connection without a call is closed after max_connection_idle; one with a call is not."""
    with (
        service(model_folder("counter"), tmp_path, "--max-connection-idle", "1") as process,
        varserve.connect(process.address, token=TOKEN, retries=0) as client,
    ):
        host, _, port = process.address.rpartition(":")
        changes = client.model("counter").watch()
        with socket.create_connection((host, int(port)), timeout=60) as idle:
            idle.sendall(preface())
            while idle.recv(2**16):
                pass  # SETTINGS, GOAWAY, and the end
        client.model("counter").variables["count"].assign_add(1)
        assert next(iter(changes)).revision == 1
        changes.close()


def test_refused_calls_take_no_threads(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """2,000 calls without a token by 20 connections are refused, and hardly a thread is added."""
    with service(model_folder("counter"), tmp_path) as process:
        before = threads_of(process)
        with ExitStack() as stack:
            options = (("grpc.use_local_subchannel_pool", 1),)
            channels = [
                stack.enter_context(grpc.insecure_channel(process.address, options))
                for _ in range(20)
            ]
            calls = [
                pb_grpc.ModelServiceStub(channel).ListModels.future(
                    pb.ListModelsRequest(), timeout=60
                )
                for channel in channels
                for _ in range(REFUSED_CALLS // len(channels))
            ]
            codes = {call.code() for call in calls}
        # gRPC resets some streams when very many of them end at once.
        assert codes - {grpc.StatusCode.CANCELLED} == {grpc.StatusCode.UNAUTHENTICATED}
        assert threads_of(process) <= before + MORE_THREADS
        with varserve.connect(process.address, token=TOKEN) as client:
            use_every_thread(client)


class HalfMessages(threading.Thread):
    """A connection whose calls each send all of a message but its last byte, as fast as it can."""

    def __init__(self, address: str, path: str, streams: int, nbytes: int) -> None:
        super().__init__()
        host, _, port = address.rpartition(":")
        self._peer = socket.create_connection((host, int(port)), timeout=2)
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._left = {}
        for _ in range(streams):
            stream = self._h2.get_next_available_stream_id()
            headers = [(":method", "POST"), (":scheme", "http"), (":path", path)]
            headers += [(":authority", address), ("content-type", "application/grpc")]
            self._h2.send_headers(stream, [*headers, ("te", "trailers")])
            self._h2.send_data(stream, struct.pack(">BI", 0, nbytes))
            self._left[stream] = nbytes - 1
        self.sent = 0

    def run(self) -> None:
        """Until everything is sent, nothing has come for two seconds, or the connection is over."""
        with suppress(OSError):  # a timeout, or the other end has had enough
            while any(self._left.values()):
                for stream in list(self._left):
                    self._send(stream)
                data = self._peer.recv(2**20)
                if not data:
                    return
                for event in self._h2.receive_data(data):
                    if isinstance(event, StreamReset | StreamEnded):
                        self._left.pop(event.stream_id, None)

    def _send(self, stream: int) -> None:
        while room := min(self._h2.local_flow_control_window(stream), 2**14, self._left[stream]):
            self._h2.send_data(stream, bytes(room))
            self._left[stream] -= room
            self.sent += room
            self._peer.sendall(self._h2.data_to_send())
        self._peer.sendall(self._h2.data_to_send())

    def close(self) -> None:
        self._peer.close()


@pytest.mark.parametrize("path", PUBLIC_AND_NOT)
def test_messages_of_strangers_take_no_memory(
    path: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """2 GiB in messages that never end, on 512 streams without a token: a quarter at most is held.

    Others are served meanwhile.
    """
    with service(model_folder("counter"), tmp_path, "--reflection") as process:
        before = process.rss_bytes()
        with ExitStack() as stack:
            strangers = [HalfMessages(process.address, path, 64, 2**22) for _ in range(8)]
            for stranger in strangers:
                stack.callback(stranger.close)
                stranger.start()
            join(strangers, 240)
            assert process.rss_bytes() - before <= 512 * 2**20
            assert sum(stranger.sent for stranger in strangers) > 2**20, "nothing was tried"
            with varserve.connect(process.address, token=TOKEN) as client:
                use_every_thread(client)


EXHAUSTED = """
import os
from resource import RLIMIT_NOFILE, setrlimit
from varserve_service import savedmodel
from varserve_service.core.threads import ModelThread, prepare_threads_with
from varserve_service.descriptors import Reserve
import tensorflow as tf

function = tf.function(lambda: tf.constant(1)).get_concrete_function()
reserve = Reserve()
savedmodel.prepare_thread()
prepare_threads_with(lambda: reserve.spend_on(savedmodel.prepare_thread))
setrlimit(RLIMIT_NOFILE, (100, 100))
try:
    while True:
        os.open(os.devnull, os.O_RDONLY)
except OSError as error:
    print(error.strerror)
thread = ModelThread(lambda: print("ran", int(function())), "late")
thread.start()
thread.join(60)
"""


def test_a_thread_begins_without_descriptors() -> None:
    """A thread that begins when all descriptors are taken runs TensorFlow's functions."""
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["Too many open files", "ran 1"]
