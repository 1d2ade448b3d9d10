"""The client's credentials and the authorities that it trusts: TLS, and a bearer token.

Owns what is read from files, and the rule that a token does not travel in plaintext. Knows gRPC's
credentials; knows nothing of channels and calls.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import grpc

from varserve._client import errors, wording

from .targets import is_local

if TYPE_CHECKING:
    import socket
    import ssl

PathLike: TypeAlias = str | os.PathLike[str]
Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or a function that returns the current one, called for every attempt."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the service. Files are PEM, and read once, by `connect`.

    ca: the authorities to trust; None: the public authorities that gRPC includes.
    cert, key: this client's own certificate (and its chain) and its key, for mutual TLS.
    server_name: the name in the service's certificate, where it is not that of the address.
    """

    ca: PathLike | None = None
    cert: PathLike | None = None
    key: PathLike | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel. Raises InvalidRequest that names the file that cannot be read."""
        if (self.cert is None) != (self.key is None):
            raise errors.InvalidRequest("tls: expected cert and key together, found one of them")
        certificate, key = b"CERTIFICATE", b"PRIVATE KEY"
        return grpc.ssl_channel_credentials(
            _read(self.ca, "ca", certificate),
            _read(self.key, "key", key),
            _read(self.cert, "cert", certificate),
        )

    def options(self) -> tuple[tuple[str, str], ...]:
        """Channel arguments."""
        if self.server_name is None:
            return ()
        return (("grpc.ssl_target_name_override", self.server_name),)


class TlsSocket:
    """TLS for a socket beside the channel, with the same files. They are read once."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    @cached_property
    def _context(self) -> ssl.SSLContext:
        import ssl  # for the lane alone

        cafile = None if self._tls.ca is None else os.fspath(self._tls.ca)
        context = ssl.create_default_context(cafile=cafile)
        if self._tls.cert is not None:
            context.load_cert_chain(self._tls.cert, self._tls.key)
        return context

    def encrypted(self, peer: socket.socket, host: str) -> socket.socket:
        """The socket after its handshake with the service at a host. Raises OSError."""
        name = self._tls.server_name or host
        return self._context.wrap_socket(peer, server_hostname=name)


def _read(path: PathLike | None, name: str, expected: bytes) -> bytes | None:
    """The PEM file of one argument, of the kind that it must be."""
    if path is None:
        return None
    from pathlib import Path  # only where there are files

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise errors.InvalidRequest(f"tls: {os.fspath(path)}: {error.strerror}") from None
    except ValueError:
        raise errors.InvalidRequest(f"tls: expected a path, found {wording.shown(path)}") from None
    kinds = re.findall(rb"-----BEGIN ([A-Z ]+)-----", content)
    if not any(kind.endswith(expected) for kind in kinds):
        found = kinds[0].decode() if kinds else "none"
        raise errors.InvalidRequest(
            f"tls: {name}: {os.fspath(path)}: expected PEM with {expected.decode()}, found {found}"
        )
    return content


TOKEN_BYTES = 16 << 10
"""A service takes 32 KiB of headers with a call, this token among them."""


def check_token(token: Token | None, target: str, encrypted: bool) -> None:
    """Raises InvalidRequest where others could read the token on its way, or it is none."""
    if token is None:
        return
    if not encrypted and not is_local(target):
        raise errors.InvalidRequest(
            f"a token to {target} would travel in plaintext, which is for loopback; "
            "give tls=... (on the command line --tls, or --ca FILE)"
        )
    if isinstance(token, str):
        authorization(token)


def authorization(token: Token) -> tuple[str, str]:
    """The metadata that carries a token. Raises InvalidRequest for what cannot be one."""
    text: object = token if isinstance(token, str) else token()
    # As text of a header it has no spaces and no line ends, such as those of a file it came from.
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        several = isinstance(text, str) and len(text.splitlines()) > 1
        found = ", found several lines" if several else ""
        raise errors.InvalidRequest(f"token: expected one line of printable ASCII{found}")
    if not text:
        raise errors.InvalidRequest("token: expected one, found nothing")
    if " " in text:
        raise errors.InvalidRequest("token: expected no spaces, and none of `Bearer ` before it")
    if len(text) > TOKEN_BYTES:
        raise errors.InvalidRequest(
            f"token: expected at most {TOKEN_BYTES} bytes, found {len(text)}"
        )
    return "authorization", f"Bearer {text}"
