"""Targets: what an address may look like, whether it is local, and which proxy stands before it.

gRPC takes nearly any text as a target and dials something else than its author meant: port 443
where there is none, port 34463 for 99999. So targets are judged here, before a channel is made.
"""

from __future__ import annotations

import os
import re

from varserve._client import errors, wording

_URL = re.compile(r"(https?|grpcs?|tcp)://", re.IGNORECASE)
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_SOCKETS = ("unix", "unix-abstract", "vsock")
_ADDRESSES = ("dns", "ipv4", "ipv6")
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_DIRECT = ("no_grpc_proxy", "no_proxy")

EXPECTED = "HOST:PORT, unix:PATH or another target of gRPC"


def check_target(target: object) -> None:
    """Raises InvalidRequest for what is no target, with what was expected instead."""
    if not isinstance(target, str) or not target.strip() or not target.isprintable():
        raise errors.InvalidRequest(f"target: expected {EXPECTED}, found {wording.shown(target)}")
    if _URL.match(target):
        plain = target.split("://", 1)[1].rstrip("/") or "HOST:PORT"
        raise errors.InvalidRequest(
            f"target: expected {EXPECTED}, found the URL {wording.shown(target)}; try {plain!r}"
        )
    scheme, addresses = _split(target)
    if scheme in _SOCKETS:
        if not addresses[0].strip("/"):
            raise errors.InvalidRequest(f"target: expected {scheme}:NAME, found {target!r}")
    elif scheme in _ADDRESSES:
        for address in addresses:
            _check_address(address, target)


def is_local(target: str) -> bool:
    """Whether the target is on this machine: a socket file, or loopback alone."""
    scheme, addresses = _split(target)
    if scheme in _ADDRESSES:
        if "://" in target and ":///" not in target:
            return False  # a name server elsewhere may call anything `localhost`
        return all(is_loopback(_host(address)) for address in addresses)
    return scheme in _SOCKETS and scheme != "vsock"


def single_host(target: str) -> str:
    """The host that a target names, alone and directly; empty for several, a proxy, a socket."""
    scheme, addresses = _split(target)
    if scheme not in _ADDRESSES or len(addresses) != 1 or proxy_of(target) is not None:
        return ""
    return _host(addresses[0])


def addresses_of(target: str) -> list[tuple[str, int]]:
    """The hosts and ports that a target names; none for a socket."""
    scheme, addresses = _split(target)
    if scheme not in _ADDRESSES:
        return []
    return [(_host(each), int(each.rpartition(":")[2])) for each in addresses]


def names_all_servers(target: str) -> bool:
    """Whether the target is written with a scheme that gives the addresses of several servers."""
    match = _SCHEME.fullmatch(target)
    return match is not None and match["scheme"].lower() in (*_ADDRESSES, "xds")


def proxy_of(target: str) -> tuple[str, str] | None:
    """The environment variable that names a proxy for the target, and the proxy without secrets.

    As gRPC looks it up: `grpc_proxy`, `https_proxy`, `http_proxy`; and `no_grpc_proxy` or
    `no_proxy` for hosts that are reached directly.
    """
    scheme, addresses = _split(target)
    if scheme not in _ADDRESSES or is_local(target):
        return None
    variable = next((name for name in _PROXIES if os.environ.get(name)), "")
    if not variable:
        return None
    direct = next((os.environ[name] for name in _DIRECT if os.environ.get(name)), "")
    host = _host(addresses[0])
    if any(host.endswith(each.strip()) for each in direct.split(",") if each.strip()):
        return None
    return variable, re.sub(r"//[^@/]*@", "//", os.environ[variable])


def _split(target: str) -> tuple[str, list[str]]:
    """The scheme, `dns` where none is written, and the addresses; or a socket's name alone."""
    match = _SCHEME.fullmatch(target)
    scheme = match["scheme"].lower() if match else ""
    if match is None or (scheme not in (*_SOCKETS, *_ADDRESSES) and "//" not in match["rest"]):
        return "dns", [target]  # `localhost:8500` looks like a scheme, too
    rest = match["rest"]
    if scheme in _SOCKETS:
        return scheme, [rest]
    if rest.startswith("//"):  # a name server may stand between `//` and `/`
        rest = rest[2:].partition("/")[2]
    return scheme, rest.split(",")


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.rpartition(":")[0] if address.count(":") == 1 else address


def _check_address(address: str, target: str) -> None:
    within = "" if address == target else f" in {target!r}"
    host, port = _host(address), address.rpartition(":")[2]
    if not address.startswith("[") and address.count(":") > 1:
        raise errors.InvalidRequest(
            "target: expected an IPv6 address in brackets, as [::1]:8500, "
            f"found {address!r}{within}"
        )
    if not host or any(character.isspace() or character in "/@?#" for character in host):
        raise errors.InvalidRequest(f"target: expected {EXPECTED}, found {address!r}{within}")
    after = address[len(host) + 2 :] if address.startswith("[") else address[len(host) :]
    if not after.startswith(":") or not port:
        raise errors.InvalidRequest(
            f"target: expected a port, as {host if ':' not in host else f'[{host}]'}:8500, "
            f"found {address!r}{within}"
        )
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise errors.InvalidRequest(
            f"target: expected a port from 1 to 65535, found {port!r} in {target!r}"
        )


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or an address of loopback."""
    if host == "localhost":
        return True
    import ipaddress  # for a host that is not `localhost` alone

    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
