"""TLS for the metrics' port: the service's own certificates, read again when they change."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger("varserve.telemetry")

_Stamp = tuple[int, int, int]


class Certificates:
    """A context for the next connection, of the files as they are; broken ones leave the last."""

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None) -> None:
        """With `client_authorities` callers must show a certificate that one of them signed.

        Raises OSError for files that are not there or do not fit together.
        """
        self._certificate = certificate
        self._key = key
        self._client_authorities = client_authorities
        self._loading = threading.Lock()
        self._stamps = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        with self._loading:
            try:
                stamps = self._look()
                if stamps != self._stamps:
                    self._stamps = stamps
                    self._context = self._load()
            except OSError as error:  # which ssl's own errors are
                log.error("certificates of the metrics not taken", error=str(error))
            return self._context

    def _look(self) -> Sequence[_Stamp]:
        paths = (self._certificate, self._key, self._client_authorities)
        found = [path.stat() for path in paths if path is not None]
        return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key)
        if self._client_authorities is not None:
            context.load_verify_locations(self._client_authorities)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
