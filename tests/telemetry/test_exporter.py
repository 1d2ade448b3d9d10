"""The metrics' port: what it answers, and that whoever asks there holds up nobody."""

from __future__ import annotations

import errno
import http.client
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import varserve
from tests.fakes import Gate
from tests.rpc.models import counter
from tests.telemetry.scrape import scrape
from tests.telemetry.watched import watched
from tests.waiting import until
from varserve_service.access.certificates import server_context
from varserve_service.reloading import ReloadedFiles
from varserve_service.telemetry.exporter import Exporter


class Counting(Collector):
    """A gauge that tells how often it was asked for; it may be held up."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate: Gate | None = None
        self.large = ""

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        if self.gate is not None:
            self.gate()
        yield GaugeMetricFamily("asked", self.large, value=self.asked)


@contextmanager
def exporting(collector: Collector, **options: Any) -> Iterator[str]:
    registry = CollectorRegistry()
    registry.register(collector)
    exporter = Exporter(registry, "127.0.0.1", 0, **options)
    try:
        yield exporter.address
    finally:
        exporter.close()


def ask(address: str, method: str, path: str, **headers: str) -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read()


def test_one_path_in_the_format_that_was_asked_for() -> None:
    """GET and HEAD of /metrics in Prometheus' formats; 404 and 405 for anything else."""
    with exporting(Counting(), keep_seconds=0) as address:
        status, kind, body = ask(address, "GET", "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert b"asked 1.0" in body
        _, kind, body = ask(address, "GET", "/metrics", Accept="application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")
        assert ask(address, "HEAD", "/metrics")[::2] == (200, b"")
        for path in ("/", "/metrics/x", "/../etc/passwd"):
            assert ask(address, "GET", path)[0] == 404
        assert ask(address, "POST", "/metrics")[0] == 405


def test_a_page_is_made_once_a_second_whoever_asks() -> None:
    """A hundred requests within the time cost one look at the service."""
    counting = Counting()
    with exporting(counting, keep_seconds=3600) as address:
        pages = {scrape(address).text for _ in range(100)}
    assert len(pages) == counting.asked == 1


def test_connections_beyond_the_bound_are_closed_at_once() -> None:
    """Those that say nothing cannot take more than the bound; after their time all is well."""
    with exporting(Counting(), max_connections=2, connection_seconds=1.0) as address:
        host, port = address.split(":")
        idle = [socket.create_connection((host, int(port)), timeout=30) for _ in range(2)]
        for each in idle:
            each.sendall(b"GET /metrics HTTP/1.0\r\n")
        deadline = time.monotonic() + 30
        refused = False
        while not refused and time.monotonic() < deadline:
            with socket.create_connection((host, int(port)), timeout=30) as third:
                try:
                    third.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                    refused = third.recv(10) == b""
                except ConnectionError:
                    refused = True
            if refused:
                break
        assert refused
        # Their time is up: they are cut off, without an answer.
        assert [each.recv(10) for each in idle] == [b"", b""]
        for each in idle:
            each.close()
        while time.monotonic() < deadline:
            try:
                assert scrape(address).value("asked") >= 1
                return
            except OSError:
                continue  # the threads of those that were cut off are ending
        pytest.fail("nobody is served any more")


@pytest.mark.parametrize("lacking", ["thread", "timer", "descriptor"])
def test_what_the_system_does_not_give_takes_no_place(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections without a thread or a descriptor are closed; when there are some, all is well."""
    missing = iter(range(3))
    start, dup = threading.Thread.start, socket.socket.dup

    def starts(thread: threading.Thread) -> None:
        serves = threading.current_thread().name == "varserve-metrics"
        wanted = serves if lacking == "thread" else isinstance(thread, threading.Timer)
        if lacking != "descriptor" and wanted and next(missing, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    def dups(each: socket.socket) -> socket.socket:
        if lacking == "descriptor" and next(missing, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(each)

    with exporting(Counting(), max_connections=1) as address:
        monkeypatch.setattr(threading.Thread, "start", starts)
        monkeypatch.setattr(socket.socket, "dup", dups)
        for _ in range(3):
            with pytest.raises((OSError, http.client.HTTPException)):
                ask(address, "GET", "/metrics")
        until(lambda: answers(address))


def answers(address: str) -> bool:
    """Whether the page is there."""
    try:
        return ask(address, "GET", "/metrics")[0] == 200
    except (OSError, http.client.HTTPException):
        return False  # the place of the one before is not free yet


def test_without_descriptors_the_listener_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits to be accepted is asked for now and then, and is answered when it can be."""
    accept, tries = socket.socket.accept, []

    def accepts(listener: socket.socket) -> Any:
        tries.append(time.monotonic())
        if len(tries) <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    with exporting(Counting()) as address:
        monkeypatch.setattr(socket.socket, "accept", accepts)
        assert ask(address, "GET", "/metrics")[0] == 200
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert min(pauses[:3]) >= 0.2


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    """A large page that nobody takes does not keep its thread for ever."""
    counting = Counting()
    counting.large = "x" * 50_000_000
    with exporting(counting, max_connections=1, connection_seconds=1.0) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    status, _, _ = ask(address, "HEAD", "/metrics")
                except (OSError, http.client.HTTPException):
                    continue
                assert status == 200
                return
    pytest.fail("the thread is never free again")


def test_a_scrape_that_hangs_holds_up_nobody() -> None:
    """Health and calls are answered while somebody who asks for metrics waits for them."""
    gate = Gate()

    def hang() -> int:
        gate()
        return 0

    with watched(lambda observer: counter(observer=observer), graph_functions=hang) as found:
        asking = threading.Thread(target=scrape, args=(found.metrics,))
        asking.start()
        assert gate.reached.wait(30)
        with grpc.insecure_channel(found.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for _ in range(20):
                response = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
                assert response.status == health_pb2.HealthCheckResponse.SERVING
        with varserve.connect(found.address, timeout=5, retries=0) as client:
            assert client.read_variable("counter", "v").value.tolist() == [1, 1, 1]
            client.assign_variable("counter", "v", np.zeros(3, np.float32))
        gate.opened.set()
        asking.join(30)


def ask_over_tls(address: str, trusted: trustme.CA, own: trustme.LeafCert | None = None) -> int:
    context = ssl.create_default_context()
    trusted.configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    connection = http.client.HTTPSConnection(address, timeout=30, context=context)
    with closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().status


def test_with_tls_only_who_is_known_is_told(tmp_path: Path) -> None:
    """Over TLS with the service's certificate, to callers with one of their own; also a new one."""
    authority, stranger = trustme.CA(), trustme.CA()
    chain, key, clients = (tmp_path / name for name in ("chain.pem", "key.pem", "clients.pem"))

    def put(issuer: trustme.CA) -> None:
        own = issuer.issue_cert("127.0.0.1")
        chain.write_bytes(b"".join(each.bytes() for each in own.cert_chain_pems))
        key.write_bytes(own.private_key_pem.bytes())

    put(authority)
    authority.cert_pem.write_to_path(clients)
    known = authority.issue_cert("prometheus")
    contexts = ReloadedFiles("metrics certificate", [chain, key, clients], server_context)
    with exporting(Counting(), tls=lambda: contexts.current) as address:
        assert ask_over_tls(address, authority, known) == 200
        with pytest.raises(OSError):
            ask_over_tls(address, authority)
        with pytest.raises(OSError):
            ask_over_tls(address, authority, stranger.issue_cert("prometheus"))
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(address, "GET", "/metrics")
        put(stranger)
        assert contexts.reload()
        assert ask_over_tls(address, stranger, known) == 200
        key.write_text("no key")
        assert not contexts.reload()
        assert ask_over_tls(address, stranger, known) == 200


def test_a_client_that_is_slow_at_tls_is_cut_off(tmp_path: Path) -> None:
    """Who opens a connection and says nothing does not keep its thread."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    own.cert_chain_pems[0].write_to_path(chain)
    own.private_key_pem.write_to_path(key)
    context = server_context([chain.read_bytes(), key.read_bytes()])
    tls = lambda: context  # noqa: E731
    with exporting(Counting(), max_connections=1, connection_seconds=1.0, tls=tls) as at:
        host, port = at.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as silent:
            assert silent.recv(1) == b""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                assert ask_over_tls(at, authority) == 200
                return
            except OSError:
                continue  # its thread is ending
    pytest.fail("the thread is never free again")


def test_an_address_that_is_taken_is_told() -> None:
    """The message names the address and what it was for."""
    with exporting(Counting()) as address:
        port = int(address.split(":")[1])
        with pytest.raises(OSError, match=f"cannot listen for metrics on 127.0.0.1:{port}"):
            Exporter(CollectorRegistry(), "127.0.0.1", port)
