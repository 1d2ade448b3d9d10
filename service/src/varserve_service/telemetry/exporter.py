"""The port that Prometheus scrapes: one path, over HTTP, on threads of its own.

Whoever asks cannot hold up the service: the answer is made at most once a second, for few at a
time, and who does not take it in time is cut off.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from .tls import Certificates

log = structlog.get_logger("varserve.telemetry")

PATH = "/metrics"


class Page:
    """What is told of a registry, made at most once in `keep_seconds`, by one at a time."""

    def __init__(self, registry: CollectorRegistry, keep_seconds: float = 1.0) -> None:
        self._registry = registry
        self._keep_seconds = keep_seconds
        self._making = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    def read(self, accept: str) -> tuple[str, bytes]:
        """Content type and bytes, in the format that fits an Accept header best."""
        encode, content_type = choose_encoder(accept)
        with self._making:
            made, body = self._kept.get(content_type, (-self._keep_seconds, b""))
            now = time.monotonic()
            if now - made >= self._keep_seconds:
                body = encode(self._registry)
                self._kept = {content_type: (now, body)}
            return content_type, body


class Exporter:
    """Serves the metrics of a registry until it is closed."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        *,
        keep_seconds: float = 1.0,
        max_connections: int = 8,
        connection_seconds: float = 10.0,
        tls: Certificates | None = None,
    ) -> None:
        """Without `tls` in plaintext. Port 0 picks a free one.

        Raises OSError when the address cannot be had.
        """
        page = Page(registry, keep_seconds)

        class Handler(_Handler):
            read = staticmethod(page.read)

        try:
            self._server = _Server(host, port, Handler, max_connections, connection_seconds, tls)
        except OSError as error:
            raise OSError(f"cannot listen for metrics on {host}:{port}: {error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="varserve-metrics", daemon=True
        ).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(
        self,
        host: str,
        port: int,
        handler: Any,
        max_connections: int,
        seconds: float,
        tls: Certificates | None,
    ) -> None:
        self._tls = tls
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(max_connections)
        self._seconds = seconds
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # However slowly a client sends or reads: a connection is over after this.
        connection = request.dup()  # TLS takes the other one over
        end = threading.Timer(self._seconds, _cut, (connection,))
        end.daemon = True
        end.start()
        try:
            if self._tls is not None:
                # Here, not where connections are accepted: a client may take its time for it.
                request = self._tls.context().wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)  # no TLS came of it
        finally:
            end.cancel()
            connection.close()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Whoever went away in the middle is nobody's business.
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("metrics could not be told", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    read: Callable[[str], tuple[str, bytes]]
    # Tells a scanner nothing.
    server_version = "varserve"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, "Not Found", f"expected {PATH}")
            return
        content_type, content = self.read(self.headers.get("Accept", ""))
        self.send_response(200)
        headers: Iterable[tuple[str, str]] = (
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("X-Content-Type-Options", "nosniff"),
        )
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """A scrape is not worth a line."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is over already
        connection.shutdown(socket.SHUT_RDWR)
