"""Connections that fail: one sentence each, that says what is there and what to try."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import varserve
from varserve._client.transport.explanations import explain

OURS, OTHER = trustme.CA(), trustme.CA()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """PEM files: two authorities, and a certificate with its key."""
    leaf = OURS.issue_cert("localhost")
    OURS.cert_pem.write_to_path(tmp_path / "ca.pem")
    OTHER.cert_pem.write_to_path(tmp_path / "other.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return tmp_path


@contextmanager
def tls_server(*, mutual: bool) -> Iterator[int]:
    leaf = OURS.issue_cert("localhost")
    pair = (leaf.private_key_pem.bytes(), b"".join(each.bytes() for each in leaf.cert_chain_pems))
    credentials = grpc.ssl_server_credentials([pair], OURS.cert_pem.bytes(), mutual)
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(10)


@contextmanager
def web_server() -> Iterator[int]:
    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def failure(target: str, **options: Any) -> str:
    """The message of a call: short, and it begins with the target."""
    with (
        varserve.connect(target, retries=0, timeout=20, **options) as client,
        pytest.raises(varserve.VarserveError) as caught,
    ):
        client.models()
    message = str(caught.value)
    assert len(message) < 200
    assert message.startswith(f"{target}: ")
    return message


def test_nobody_listens() -> None:
    """On this machine the message says what starts a service."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "no service listens there; `varserve-service serve`" in failure(f"127.0.0.1:{port}")
    assert "there is no such socket" in failure("unix:/nowhere/at/all")
    assert "no address is known" in failure("no-such-host.invalid:8500")


def test_plaintext_where_tls_is_expected(address: str, files: Path) -> None:
    """The service has none: connect without."""
    tls = varserve.Tls(ca=files / "ca.pem")
    assert "expected TLS, found plaintext; connect without TLS" in failure(address, tls=tls)


def test_tls_where_it_is_not_given(files: Path) -> None:
    """Each of the certificate's mistakes has its own sentence."""
    with tls_server(mutual=False) as port:
        localhost = f"localhost:{port}"
        assert "it may want TLS" in failure(localhost)
        # Of the two addresses of localhost gRPC tells of either; this one is alone.
        alone = f"127.0.0.1:{port}"
        other = failure(alone, tls=varserve.Tls(ca=files / "other.pem"))
        assert "not believed (" in other
        assert "not believed" in failure(alone, tls=True)
        named = failure(f"127.0.0.1:{port}", tls=varserve.Tls(ca=files / "ca.pem"))
        assert "for another name; `server_name`" in named
    with tls_server(mutual=True) as port:
        ours = failure(f"localhost:{port}", tls=varserve.Tls(ca=files / "ca.pem"))
        assert "it may want a certificate of this client: give `cert` and `key`" in ours


def test_the_address_that_is_there_is_told_of(address: str) -> None:
    """Of `localhost` one address may refuse while the other answers: whichever gRPC tried last, the
    message is of the one that is there; and a service that has begun meanwhile is no riddle."""

    def told(port: int | str, *, encrypted: bool = False) -> str:
        refused = (
            "failed to connect to all addresses; last error: UNKNOWN: "
            f"ipv6:%5B::1%5D:{port}: connect: Connection refused (111)"
        )
        return explain(refused, f"localhost:{port}", encrypted)

    with tls_server(mutual=False) as port:
        assert "it may want TLS" in told(port)
        assert f"only 127.0.0.1:{port} listens there" in told(port, encrypted=True)
    assert "no service listens" in told(port)
    assert "one does now: try again" in told(address.rpartition(":")[2])


def test_a_web_server() -> None:
    """Another port of another service is told as such."""
    with web_server() as port:
        assert "expected gRPC, found HTTP/1" in failure(f"127.0.0.1:{port}")


def test_files_that_are_of_another_kind(files: Path) -> None:
    """The argument, the file, what it must hold and what it holds."""
    ca, key, cert = (files / f"{name}.pem" for name in ("ca", "key", "cert"))
    (files / "text").write_text("hello")
    for tls, expected in (
        (varserve.Tls(ca=key), "tls: ca: .*key.pem: expected PEM with CERTIFICATE, found .*KEY"),
        (varserve.Tls(ca=files / "text"), "expected PEM with CERTIFICATE, found none"),
        (varserve.Tls(ca=ca, cert=cert, key=ca), "tls: key: .*PRIVATE KEY, found CERTIFICATE"),
        (varserve.Tls(ca=ca, cert=key, key=key), "tls: cert: .*CERTIFICATE, found .*KEY"),
        (varserve.Tls(ca=files / "none"), "none: No such file"),
    ):
        with pytest.raises(varserve.InvalidRequest, match=expected):
            varserve.connect("localhost:8500", tls=tls)
