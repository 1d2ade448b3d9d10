"""Targets are judged before they are dialled; this machine is never reached through a proxy."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest

import varserve
import varserve.aio
from varserve._client.transport.endpoint import channel_options
from varserve._client.transport.targets import check_target, is_local, proxy_of


@pytest.mark.parametrize(
    "target",
    [
        "localhost:8500",
        "models.example.com:1",
        "10.0.0.1:65535",
        "[::1]:8500",
        "[fe80::1%eth0]:8500",
        "dns:localhost:8500",
        "dns:///models:8500",
        "dns://10.0.0.53/models:8500",
        "ipv4:10.0.0.1:1,10.0.0.2:2",
        "ipv6:[::1]:8500",
        "unix:/run/varserve.sock",
        "unix:varserve.sock",
        "unix:///run/varserve.sock",
        "unix-abstract:varserve",
        "xds:///models",
    ],
)
def test_targets_of_grpc(target: str) -> None:
    """What gRPC resolves to where its author meant is let pass."""
    check_target(target)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("", "found ''"),
        (" ", "found ' '"),
        (None, "found None"),
        ("localhost", "expected a port, as localhost:8500"),
        ("localhost:", "expected a port"),
        ("localhost:99999", "from 1 to 65535, found '99999'"),
        ("localhost:0", "from 1 to 65535"),
        ("localhost:-1", "from 1 to 65535"),
        ("localhost:http", "from 1 to 65535, found 'http'"),
        ("localhost:8500/models", "from 1 to 65535"),
        (":8500", "expected HOST:PORT"),
        ("two words:1", "expected HOST:PORT"),
        ("user@host:1", "expected HOST:PORT"),
        ("::1", "in brackets, as"),
        ("[::1]", r"expected a port, as \[::1\]:8500"),
        ("dns:///models", "expected a port"),
        ("ipv4:10.0.0.1:1,10.0.0.2", "found '10.0.0.2'"),
        ("unix:", "expected unix:NAME"),
        ("unix:///", "expected unix:NAME"),
        ("http://localhost:8500/", "found the URL .*try 'localhost:8500'"),
        ("HTTPS://models", "found the URL"),
        ("grpc://localhost:1", "found the URL"),
    ],
)
def test_what_is_no_target(target: str, found: str) -> None:
    """What gRPC would dial as something else is refused by every connect, with what to write."""
    for connect in (varserve.connect, varserve.aio.connect, varserve.connect_admin):
        with pytest.raises(varserve.InvalidRequest, match=found):
            connect(target)


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("unix:/x", True),
        ("unix-abstract:x", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("dns://10.0.0.1/localhost:1", False),
        ("localhost.example.com:1", False),
        ("10.0.0.1:1", False),
        ("xds:///localhost", False),
    ],
)
def test_what_is_local(target: str, local: bool) -> None:
    """Loopback and socket files are this machine; gRPC is told to use no proxy for them."""
    assert is_local(target) is local
    assert (("grpc.enable_http_proxy", 0) in channel_options(target, None)) is local


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_loopback_is_reached_beside_a_proxy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With proxies in the environment that lead nowhere, the service of this machine answers."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with varserve.connect(address, retries=0) as client:
        assert client.models()


def test_a_failure_elsewhere_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy stood between, the message says which variable names it, and no password."""
    proxy = f"127.0.0.1:{closed_port()}"
    monkeypatch.setenv("http_proxy", f"http://user:secret@{proxy}")
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with (
        varserve.connect("192.0.2.1:8500", retries=0, timeout=20) as client,
        pytest.raises(varserve.VarserveError) as caught,
    ):
        client.models()
    assert f"proxy http://{proxy}, which http_proxy names" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_which_proxy_stands_before_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gRPC looks it up: its own variable first, and never for hosts that no_proxy names."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_of("models:1") is None
    monkeypatch.setenv("http_proxy", "http://a:1")
    assert proxy_of("models:1") == ("http_proxy", "http://a:1")
    monkeypatch.setenv("grpc_proxy", "http://me:pw@b:1")
    assert proxy_of("models:1") == ("grpc_proxy", "http://b:1")
    monkeypatch.setenv("no_proxy", "other.example, example.com")
    assert proxy_of("models.example.com:1") is None
    assert proxy_of("models:1") is not None
    assert proxy_of("localhost:1") is proxy_of("unix:/x") is None


def test_a_socket_file(tmp_path: Path) -> None:
    """A service on a socket file is reached by its path, also beside a proxy."""
    from concurrent.futures import ThreadPoolExecutor

    from .scripted import Scripted, reply

    path = f"unix:{tmp_path}/s"
    scripted = Scripted()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[scripted])
    server.add_insecure_port(path)
    server.start()
    scripted.script["ListModels"] = [reply(b"")]
    try:
        with varserve.connect(path, token="secret") as client:
            assert client.models() == []
    finally:
        server.stop(0).wait(60)
