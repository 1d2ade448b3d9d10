"""What may listen at an address in place of the service that was meant: real servers, and files."""

from __future__ import annotations

import datetime
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import trustme

OURS, OTHER = trustme.CA(), trustme.CA()
_NOW = datetime.datetime.now(datetime.UTC)
_DAY = datetime.timedelta(days=1)
NAMES = ("localhost", "127.0.0.1", "::1")


def write_files(folder: Path) -> Path:
    """PEM files: two authorities, a certificate with its key, another one's, two not valid now."""
    OURS.cert_pem.write_to_path(folder / "ca.pem")
    OTHER.cert_pem.write_to_path(folder / "other.pem")
    kinds = {"": {}, "other-": {}, "expired-": expired(), "early-": early()}
    for prefix, validity in kinds.items():
        authority = OTHER if prefix == "other-" else OURS
        leaf = authority.issue_cert("a.client", **validity)  # type: ignore[arg-type]
        leaf.private_key_pem.write_to_path(folder / f"{prefix}key.pem")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{prefix}cert.pem")
    return folder


def _pair(leaf: trustme.LeafCert) -> tuple[bytes, bytes]:
    return leaf.private_key_pem.bytes(), b"".join(each.bytes() for each in leaf.cert_chain_pems)


@contextmanager
def tls_server(
    *, mutual: bool, names: tuple[str, ...] = ("localhost",), host: str = "127.0.0.1", **of: object
) -> Iterator[int]:
    """gRPC with TLS; `of`: what else is asked of its certificate."""
    leaf = OURS.issue_cert(*names, **of)  # type: ignore[arg-type]
    credentials = grpc.ssl_server_credentials([_pair(leaf)], OURS.cert_pem.bytes(), mutual)
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port(f"{host}:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(60)


def expired() -> dict[str, object]:
    """Of a certificate that was valid until yesterday."""
    return {"not_before": _NOW - 9 * _DAY, "not_after": _NOW - _DAY}


def early() -> dict[str, object]:
    """Of a certificate that is valid from tomorrow on."""
    return {"not_before": _NOW + _DAY, "not_after": _NOW + 9 * _DAY}


@contextmanager
def web_server(*, tls: bool = False) -> Iterator[int]:
    """HTTP/1, as nearly every other port speaks it."""

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...

    server = Server(("127.0.0.1", 0), Silent)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        OURS.issue_cert(*NAMES).configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@contextmanager
def answering(handle: Callable[[socket.socket], None], port: int = 0) -> Iterator[int]:
    """A listener that gives each connection to `handle`, on a thread."""
    with ExitStack() as open_ones:
        listener = open_ones.enter_context(socket.create_server(("127.0.0.1", port)))

        def accept() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                open_ones.enter_context(peer)
                threading.Thread(target=handle, args=(peer,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def greeting(peer: socket.socket) -> None:
    """As SSH begins."""
    peer.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")


def silent(peer: socket.socket) -> None:
    """Says nothing."""


def refusing_proxy(peer: socket.socket) -> None:
    """A proxy of HTTP that lets nobody through."""
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def proxy_to_nowhere(peer: socket.socket) -> None:
    """A proxy of HTTP that does not reach what is behind it."""
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def dropping() -> Iterator[int]:
    """A port that answers no connection, as behind a firewall that drops: its queue is full."""
    with ExitStack() as waiting:
        listener = waiting.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        for _ in range(8):
            try:
                waiting.enter_context(socket.create_connection(("127.0.0.1", port), 0.2))
            except TimeoutError:
                break
        else:
            raise AssertionError("the queue of the listener takes no end of connections")
        yield port


@contextmanager
def nothing() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield port
