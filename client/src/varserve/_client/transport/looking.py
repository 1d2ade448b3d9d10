"""What there is at a target, after gRPC could not connect: looked at by sockets, at each address.

Knows sockets, TLS and how HTTP/2 begins; knows nothing of gRPC. Used only after a failure.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from . import own_certificate
from .credentials import Tls
from .explanations import Fault, Finding, Way, closed_at_once
from .targets import addresses_of, is_loopback, proxy_of

# How a connection of HTTP/2 begins: the client's preface, and a frame of settings from both.
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_ALERT = b"\x15\x03"
"""How an alert of TLS begins, which is what it answers to what is not TLS."""

_MOST_ADDRESSES = 4
_LOOPBACK = ("127.0.0.1", "::1")

_EXPIRED, _EARLY, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
"""Codes of OpenSSL's for what is the matter with a certificate."""


class _Place(NamedTuple):
    """An address to look at. `tried`: gRPC looks there, too. `host`: as the target names it."""

    host: str
    address: str
    port: int
    tried: bool = True

    @property
    def shown(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def look(way: Way, seconds: float) -> list[Finding]:
    """What is the matter at each address of a target. It takes no longer than about `seconds`."""
    end = time.monotonic() + seconds
    with suppress(OSError, ValueError):  # what cannot be looked at, gRPC's own text explains
        if way.target.startswith("unix:"):
            return [*_at_socket(way, end)]
        proxy = proxy_of(way.target)
        if proxy is not None:
            return [_through_proxy(os.environ[proxy[0]], way, end)]
        return _told_apart([*_at_addresses(way, end)])
    return []


def _told_apart(findings: list[Finding]) -> list[Finding]:
    """With addresses where these differ."""
    if len({finding.fault for finding in findings}) > 1:
        return findings
    return [each if each.fault is Fault.WELL_BESIDE else each._replace(at="") for each in findings]


def _at_addresses(way: Way, end: float) -> Iterator[Finding]:
    try:
        places = _places(way.target)[:_MOST_ADDRESSES]
    except socket.gaierror as error:
        missing = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        yield Finding(Fault.NO_NAME if missing else Fault.NO_NAME_SERVER, str(error.strerror))
        return
    for number, place in enumerate(places):
        # What drops connections must not use up the time of the others.
        share = time.monotonic() + max(0.01, end - time.monotonic()) / (len(places) - number)

        def dial(place: _Place = place, share: float = share) -> socket.socket:
            return socket.create_connection((place.address, place.port), _left(share))

        finding = _speak(dial, place.host, way, share)
        if finding.fault is Fault.WELL and not place.tried:
            finding = Finding(Fault.WELL_BESIDE)
        if place.tried or finding.fault not in (Fault.REFUSED, Fault.DROPPED, Fault.NO_ROUTE):
            yield finding._replace(at=place.shown)


def _places(target: str) -> list[_Place]:
    """The addresses of a target, and after those of loopback its other one. Raises gaierror."""
    places: dict[str, _Place] = {}
    for host, port in addresses_of(target):
        for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = str(sockaddr[0])
            places.setdefault(f"{address} {port}", _Place(host, address, port))
    if places and all(is_loopback(place.address) for place in places.values()):
        host, port = addresses_of(target)[0]
        for address in _LOOPBACK:
            places.setdefault(f"{address} {port}", _Place(host, address, port, tried=False))
    return list(places.values())


def _at_socket(way: Way, end: float) -> Iterator[Finding]:
    path = way.target.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("///") else path

    def dial() -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(_left(end))
        try:
            peer.connect(path)
        except BaseException:
            peer.close()
            raise
        return peer

    try:
        mode = Path(path).stat().st_mode
    except PermissionError:
        yield Finding(Fault.SOCKET_DENIED)
    except OSError:
        yield Finding(Fault.SOCKET_MISSING)
    else:
        if not stat.S_ISSOCK(mode):
            yield Finding(Fault.NO_SOCKET, "a folder" if stat.S_ISDIR(mode) else "a file")
            return
        found = _speak(dial, "localhost", way, end)
        stale = found.fault is Fault.REFUSED
        yield Finding(Fault.SOCKET_STALE) if stale else found


def _through_proxy(url: str, way: Way, end: float) -> Finding:
    """What is the matter at a proxy, or behind it."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    at = f"{parts.hostname}:{parts.port or 80}"
    ((host, port), *_) = addresses_of(way.target)
    named = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {named} HTTP/1.1", f"Host: {named}"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append("Proxy-Authorization: Basic " + base64.b64encode(pair.encode()).decode())
    status = b""

    def dial() -> socket.socket:
        nonlocal status
        peer = socket.create_connection((parts.hostname, parts.port or 80), _left(end))
        try:
            peer.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
            answer = b""
            # By bytes: what comes after the answer is of the service behind.
            while not answer.endswith(b"\r\n\r\n") and len(answer) < 16 << 10:
                try:
                    byte = peer.recv(1)
                except TimeoutError:
                    byte = b""
                    if not answer:
                        raise
                if not byte:
                    break
                answer += byte
            status = answer.partition(b"\r\n")[0]
            if status.split()[1:2] != [b"200"]:
                raise _Refused
        except BaseException:
            peer.close()
            raise
        return peer

    try:
        found = _speak(dial, host, way, end)
    except _Refused:
        if not status.startswith(b"HTTP/"):
            return Finding(Fault.PROXY_OTHER, at=at)
        return Finding(Fault.PROXY_REFUSES, status.decode("latin-1").partition(" ")[2])
    return Finding(Fault.NO_PROXY, at=at) if found.fault is Fault.REFUSED else found


class _Refused(Exception):
    """A proxy gives no connection."""


def _speak(dial: Callable[[], socket.socket], host: str, way: Way, end: float) -> Finding:
    """What answers to a client that speaks as gRPC does."""
    try:
        with dial() as peer:
            peer.settimeout(_left(end))
            if way.encrypted:
                return _encrypted(peer, dial, host, way, end)
            found = _plain(peer)
        if found.fault is Fault.MAY_WANT_TLS and _is_encrypted(dial, end):
            return Finding(Fault.TLS)
        return found
    except ConnectionRefusedError:
        return Finding(Fault.REFUSED)
    except PermissionError:
        return Finding(Fault.SOCKET_DENIED)
    except TimeoutError:
        return Finding(Fault.DROPPED)
    except OSError as error:
        return Finding(Fault.NO_ROUTE, error.strerror or str(error))


def _plain(peer: socket.socket) -> Finding:
    try:
        peer.sendall(_HTTP2)
        answer = peer.recv(64)
    except TimeoutError:
        return Finding(Fault.SILENT)
    except OSError:
        answer = b""
    if answer.startswith(_ALERT):
        return Finding(Fault.TLS)
    return _answered(answer) or Finding(Fault.MAY_WANT_TLS)


def _is_encrypted(dial: Callable[[], socket.socket], end: float) -> bool:
    """Whether TLS is spoken there, whatever its certificates."""
    try:
        with dial() as peer:
            peer.settimeout(_left(end))
            _context(None).wrap_socket(peer).close()
    except OSError as error:
        return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")
    return True


def _answered(answer: bytes) -> Finding | None:
    """What the first bytes of an answer are of; None where there is none."""
    if not answer:
        return None
    if answer[3:4] == _SETTINGS[3:4] and answer[0] == 0:
        return Finding(Fault.WELL)
    if answer.startswith((b"HTTP/", b"<")):
        return Finding(Fault.WEB)
    line = answer.partition(b"\n")[0].decode("ascii", "replace").strip()
    return Finding(Fault.OTHER, f"{line[:30]!r}" if line.isprintable() else "other bytes")


def _encrypted(
    peer: socket.socket, dial: Callable[[], socket.socket], host: str, way: Way, end: float
) -> Finding:
    try:
        context = _context(way.tls)
    except OSError as error:
        return Finding(Fault.FILES, f" ({getattr(error, 'reason', None) or error})")
    name = (way.tls and way.tls.server_name) or host
    try:
        with context.wrap_socket(peer, server_hostname=name) as spoken:
            spoken.sendall(_HTTP2)
            answer = spoken.recv(64)
    except ssl.SSLCertVerificationError as error:
        return _certificate(error, dial, way, end)
    except TimeoutError:
        return Finding(Fault.SILENT)
    except ssl.SSLError as error:
        return _about_own(_alert(error, dial, way, end), way)
    except OSError:
        answer = b""
    return _answered(answer) or _about_own(Finding(closed_at_once(way)), way)


def _about_own(found: Finding, way: Way) -> Finding:
    """The same, or why the service may have refused the certificate of this client."""
    if way.tls is None or found.fault not in (Fault.CLIENT_REFUSED, Fault.MAY_REFUSE_CLIENT):
        return found
    fault = own_certificate.fault_of(way.tls)
    return Finding(fault) if fault is not None else found


def _context(tls: Tls | None) -> ssl.SSLContext:
    """As gRPC has it. Without `tls` nothing is verified: what it trusts is not known here."""
    if tls is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context = ssl.create_default_context(cafile=tls.ca and os.fspath(tls.ca))
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


def _certificate(
    error: ssl.SSLCertVerificationError,
    dial: Callable[[], socket.socket],
    way: Way,
    end: float,
) -> Finding:
    if error.verify_code == _EXPIRED:
        return Finding(Fault.EXPIRED)
    if error.verify_code == _EARLY:
        return Finding(Fault.EARLY)
    if error.verify_code not in (_OTHER_NAME, _OTHER_ADDRESS):
        return Finding(Fault.UNTRUSTED, error.verify_message)
    context = _context(way.tls)
    context.check_hostname = False
    names = ""
    with suppress(OSError), dial() as peer:
        peer.settimeout(_left(end))
        with context.wrap_socket(peer) as spoken:
            subject: Any = (spoken.getpeercert() or {}).get("subjectAltName", ())
            names = ", ".join(value for _, value in subject[:3])
    return Finding(Fault.OTHER_NAME, f", {names}" if names else "")


def _alert(error: ssl.SSLError, dial: Callable[[], socket.socket], way: Way, end: float) -> Finding:
    """What an error of the handshake, or the alert of a server, says."""
    reason = error.reason or ""
    if "CERTIFICATE_REQUIRED" in reason:
        return Finding(Fault.WANTS_CERTIFICATE)
    if "ALERT" in reason and way.tls is not None and way.tls.cert is not None:
        words = reason.lower().split("alert_")[-1].replace("_", " ")
        return Finding(Fault.CLIENT_REFUSED, words)
    if "ALERT_HANDSHAKE" in reason or "ALERT_BAD_CERTIFICATE" in reason:
        return Finding(closed_at_once(way))
    # What is no TLS says what it is, to who speaks as it does.
    with suppress(OSError), dial() as peer:
        peer.settimeout(_left(end))
        plain = _plain(peer)
        if plain.fault is Fault.WELL:
            return Finding(Fault.PLAINTEXT)
        if plain.fault in (Fault.WEB, Fault.OTHER):
            return plain
    return Finding(closed_at_once(way))


def _left(end: float) -> float:
    return max(0.01, end - time.monotonic())
