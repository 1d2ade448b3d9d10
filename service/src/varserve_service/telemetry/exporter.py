"""The port that Prometheus scrapes: a WSGI application on prometheus_client's server.

Clients cannot hold up the service or each other: a page is made at most once a second, few
connections are open at once, and each is cut off after a time.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder

log = structlog.get_logger("varserve.telemetry")

PATH = "/metrics"

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_SECONDS = 0.2
"""How long connections wait when the process or the host has no descriptor or memory for one."""

TlsContext = Callable[[], ssl.SSLContext]


class Page:
    """The text of a registry, made at most once in `keep_seconds`, by one thread at a time."""

    def __init__(self, registry: CollectorRegistry, keep_seconds: float) -> None:
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

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"expected {PATH}\n".encode()]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return []
        content_type, body = self.read(environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")]
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] == "GET" else []


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
        tls: TlsContext | None = None,
    ) -> None:
        """`tls`: gives the context for the next connection; None: plaintext.

        Port 0 picks a free one. Raises OSError when the address cannot be listened on.
        """
        try:
            self._server = _Server(host, port, max_connections, connection_seconds, tls)
        except OSError as error:
            raise OSError(f"cannot listen for metrics on {host}:{port}: {error}") from error
        self._server.set_app(Page(registry, keep_seconds))
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="varserve-metrics", daemon=True
        ).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    # Tells a scanner nothing.
    server_version = "varserve"
    sys_version = ""

    def log_message(self, *_: Any) -> None:
        """A scrape is not worth a line."""


class _Server(ThreadingWSGIServer):
    """prometheus_client's server with bounds, which it does not have."""

    block_on_close = False
    request_queue_size = 16

    def __init__(
        self,
        host: str,
        port: int,
        max_connections: int,
        seconds: float,
        tls: TlsContext | None,
    ) -> None:
        self._tls = tls
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(max_connections)
        self._seconds = seconds
        super().__init__((host, port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection. Raises OSError."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                # It stays in the queue, and would be asked for again without a pause.
                time.sleep(_RETRY_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system gives no more threads
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            self._serve(request, client_address)
        except (OSError, RuntimeError):
            # The TLS handshake failed, or there is no descriptor or thread for the bound on time.
            self.shutdown_request(request)
        finally:
            self._free.release()

    def _serve(self, request: Any, client_address: Any) -> None:
        # However slowly a client sends or reads: its connection is over after this.
        with request.dup() as connection:  # TLS takes the other one over
            end = threading.Timer(self._seconds, _cut, (connection,))
            end.daemon = True
            end.start()
            try:
                if self._tls is not None:
                    # Here, not where connections are accepted: a client may take its time for it.
                    request = self._tls().wrap_socket(request, server_side=True)
                super().process_request_thread(request, client_address)
            finally:
                end.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away in the middle is no error of the service.
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("metrics not served", exc_info=error)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it is over already
        connection.shutdown(socket.SHUT_RDWR)
