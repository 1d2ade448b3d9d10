"""Behind nginx and HAProxy: restarts of the service, and the proxies' own limits."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.serving import serve_here
from tests.waiting import until
from varserve_service.core.model.live_model import LiveModel

from .served import fake_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "proxies.md"
ROWS = 400_000  # 4.8 MB


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def settings(language: str) -> str:
    """The settings that the page shows."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


class Service:
    """A service that can be restarted at its address, with its state."""

    def __init__(self) -> None:
        self.port = free_port()
        self.live = LiveModel(fake_model())
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(
            serve_here(self.live, port=self.port, message_bytes=1 << 20, chunk_bytes=1 << 16)
        )

    def stop(self) -> None:
        self._running.close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    service.start()
    yield service
    service.stop()


class Proxy:
    """One kind of proxy in front of a service."""

    def __init__(self, name: str, service: Service, folder: Path) -> None:
        self.name = name
        path = f"/usr/sbin:/usr/local/sbin:{os.environ['PATH']}"
        self._program = shutil.which(name, path=path)
        self._service = service
        self._folder = folder
        self._running = ExitStack()
        if self._program is None:
            pytest.skip(f"{name} is not installed")

    def start(self, change: tuple[str, str] = ("", "")) -> str:
        """Start it with the page's settings, of which one line may be changed; its address."""
        port = free_port()
        text = settings(self.name)
        assert change[0] in text
        text = text.replace(*change).replace("8510", str(self._service.port))
        if self.name == "nginx":
            text = nginx_file(text.replace("listen 8500", f"listen 127.0.0.1:{port}"), self._folder)
        else:
            text = text.replace("bind :8500", f"bind 127.0.0.1:{port}")
        file = self._folder / f"{self.name}-{port}.conf"
        file.write_text(text)
        options = {"nginx": ["-p", str(self._folder), "-c"], "haproxy": ["-db", "-f"]}[self.name]
        command = [str(self._program), *options, str(file)]
        self._running.enter_context(serving(command, file.with_suffix(".log"), port))
        return f"127.0.0.1:{port}"

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(request.param, service, tmp_path)
    yield proxy
    proxy.stop()


def nginx_file(server: str, folder: Path) -> str:
    places = "".join(
        f"{each}_temp_path {folder}/{each};\n"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log {folder}/log;\n"
        f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{places}{server}}}\n"
    )


@contextmanager
def serving(command: list[str], log: Path, port: int) -> Iterator[None]:
    """Run a program until the end of the block, from when it listens at a port."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as other:
            return other.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens)
        yield
    finally:
        process.kill()
        process.wait(30)


def test_values_and_tokens_of_any_size_pass(proxy: Proxy) -> None:
    """With the page's settings large writes, large reads and a token of 16 KiB come through."""
    value = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    with varserve.connect(proxy.start(), token="x" * (16 << 10)) as client:
        model = client.model("fake")
        growing = model.variables["growing"]
        growing.assign(value)
        assert np.array_equal(growing.numpy(), value)
        assert model.functions["spread"](n=np.int32(500_000))["ones"].size == 500_000


def test_watches_and_writes_go_on_through_restarts(service: Service, proxy: Proxy) -> None:
    """While the service restarts twice no event is lost, and no write is lost or done twice."""
    stop = threading.Event()
    with varserve.connect(proxy.start(), retries=40, timeout=60) as client:
        model = client.model("fake")
        counter, growing = model.variables["counter"], model.variables["growing"]
        sent = {"small": 0, "large": 0}

        def write(name: str, change: Callable[[], object]) -> None:
            while not stop.is_set():
                change()
                sent[name] += 1

        def all_have_written() -> None:
            before = dict(sent)
            until(lambda: all(sent[name] > before[name] for name in sent))

        ones = np.ones((50_000, 3), np.float32)  # streamed: more than one message carries
        growing.assign(np.zeros_like(ones))
        writers = [
            threading.Thread(target=write, args=("small", lambda: counter.assign_add(1))),
            threading.Thread(target=write, args=("large", lambda: growing.assign_add(ones))),
        ]
        with model.watch(values=False, timeout=120) as watch:
            for each in writers:
                each.start()
            for _ in range(2):
                all_have_written()
                service.stop()
                service.start()
            all_have_written()
            stop.set()
            for each in writers:
                each.join(60)
            last = counter.assign(counter.numpy()).revision
            revisions = []
            for event in watch:
                revisions.append(event.revision)
                if event.revision == last:
                    break
        assert revisions == list(range(2, last + 1))
        assert counter.numpy() == 7 + sent["small"]
        assert np.array_equal(growing.numpy(), ones * sent["large"])


@pytest.mark.parametrize("proxy", ["nginx"], indirect=True)  # HAProxy has no limit of size
def test_a_proxy_that_is_too_strict_is_named(proxy: Proxy) -> None:
    """Past a limit of size a write fails with a word of the proxy, and small ones pass."""
    address = proxy.start(("client_max_body_size 0;", "client_max_body_size 1m;"))
    with varserve.connect(address, retries=1) as client:
        model = client.model("fake")
        with pytest.raises((varserve.Unavailable, varserve.MessageTooLarge), match="proxy between"):
            model.variables["growing"].assign(np.zeros((ROWS, 3), np.float32))
        model.variables["counter"].assign(1)


def test_a_silent_watch_goes_on_past_a_time_limit(proxy: Proxy) -> None:
    """A proxy that ends silent streams after a second ends no watch."""
    change = {
        "nginx": ("grpc_read_timeout 1h", "grpc_read_timeout 1s"),
        "haproxy": ("timeout server 1h", "timeout server 1s"),
    }[proxy.name]
    with varserve.connect(proxy.start(change)) as client:
        model = client.model("fake")
        with model.watch("counter", timeout=60) as watch:
            first = watch._stream
            events: list[varserve.Event] = []
            reading = threading.Thread(target=lambda: events.append(next(watch)))
            reading.start()
            until(lambda: watch._stream not in (first, None))
            revision = model.variables["counter"].assign(5).revision
            reading.join(30)
            assert [event.revision for event in events] == [revision]


def test_a_service_that_stays_away(service: Service, proxy: Proxy) -> None:
    """While nobody is behind the proxy calls are Unavailable, and wait_ready waits."""
    with varserve.connect(proxy.start(), retries=1) as client:
        service.stop()
        with pytest.raises(varserve.Unavailable, match="cannot reach the service"):
            client.models()
        starting = threading.Timer(0.5, service.start)
        starting.start()
        client.wait_ready(timeout=30)
        starting.join(30)
        assert client.models()
