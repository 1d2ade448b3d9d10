"""Why a connection failed, for people: gRPC's text, explained.

gRPC reports every failed connection as UNAVAILABLE, and tells them apart in its text alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .targets import is_local

_ADDRESS = re.compile(r"^.*?last error: (?:[A-Z_]+: )*", re.DOTALL)

# How a connection of HTTP/2 begins: the client's preface, and a frame of settings from both.
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS

_CLOSED = "closed the connection at once"
_WANTS_CERTIFICATE = "it may want a certificate of this client: give `cert` and `key`"
_WANTS_TLS = "it may want TLS: give `tls`, or `ca`"


def explain(details: str, target: str, encrypted: bool) -> str:
    """What is the matter with a connection to `target`, and what to try; "" for anything else."""
    if "Connection refused" in details:
        there = _listening(target)
        if there is not None and there.plaintext:
            return f"{target}: no service listened there a moment ago, and one does now: try again"
        if there is not None and encrypted:
            return f"{target}: only {there.address} listens there; connect to that address alone"
        if there is not None:
            return f"{target}: {_CLOSED}; {_WANTS_TLS}"
        start = "; `varserve-service serve` starts a service" if is_local(target) else ""
        return f"{target}: no service listens there{start}"
    if "No such file or directory" in details and target.startswith("unix:"):
        return f"{target}: there is no such socket; expected the path that the service listens at"
    if "Domain name not found" in details or "name lookup" in details:
        return f"{target}: no address is known for this name"
    if "WRONG_VERSION_NUMBER" in details:
        return f"{target}: expected TLS, found plaintext; connect without TLS"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        reason = details.partition("CERTIFICATE_VERIFY_FAILED: ")[2].removesuffix(": OK")
        return (
            f"{target}: its certificate is not believed ({reason or 'it was not verified'}); "
            "expected one of the authority that `ca` names"
        )
    if re.search("Hostname Verification Check failed|is not in peer certificate", details):
        return f"{target}: its certificate is for another name; `server_name` says which to expect"
    if "Failed to create security handshaker" in details:
        return f"{target}: the files for TLS cannot be used together"
    if "Failed parsing HTTP/2" in details or "http1" in details.lower():
        return f"{target}: expected gRPC, found HTTP/1; it is another service, or another port"
    if "failed to connect" in details and re.search("Socket closed|Connection reset", details):
        return f"{target}: {_CLOSED}; {_WANTS_CERTIFICATE if encrypted else _WANTS_TLS}"
    if "failed to connect" in details:
        return f"{target}: {_ADDRESS.sub('', details)}"
    return ""


class _Listening(NamedTuple):
    address: str
    plaintext: bool
    """It speaks HTTP/2 without TLS, as a service does that has none."""


def _listening(target: str) -> _Listening | None:
    """The address of `localhost` that accepts connections although another one refuses them.

    gRPC tells of the one that it tried last, which need not be the one that there is.
    """
    host, _, port = target.rpartition(":")
    if host != "localhost" or not port.isdecimal():
        return None
    import socket

    for address in ("127.0.0.1", "::1"):
        try:
            with socket.create_connection((address, int(port)), 0.2) as connection:
                connection.settimeout(0.2)
                connection.sendall(_HTTP2)
                answer = connection.recv(len(_SETTINGS))
        except ConnectionRefusedError:
            continue
        except OSError:
            answer = b""
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return _Listening(shown, answer[3:4] == _SETTINGS[3:4])
    return None
