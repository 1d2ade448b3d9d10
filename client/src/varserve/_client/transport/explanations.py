"""Why a connection failed, for people: the kinds of faults, and a sentence for each.

gRPC reports every failed connection as UNAVAILABLE, and tells them apart in its text alone, which
is of the address that it tried last. `looking` finds the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from .targets import is_local

if TYPE_CHECKING:
    from .credentials import Tls


class Way(NamedTuple):
    """How a client connects. tls: None also where other credentials encrypt. admin: to the port
    for operators."""

    target: str
    encrypted: bool = False
    tls: Tls | None = None
    admin: bool = False


class Fault(Enum):
    """What is the matter at an address, the most telling first. Its value is what a message says.

    `{detail}`, `{at}` and `{host}` are those of its finding.
    """

    FILES = "the files for TLS cannot be used together{detail}"
    EXPIRED = "its certificate has expired; the service needs a new one"
    EARLY = "its certificate is not valid yet; compare the clocks of both machines"
    OTHER_NAME = (
        "its certificate is for another name{detail}; `server_name` says which to expect "
        "in place of {host}"
    )
    UNTRUSTED = (
        "its certificate is not believed ({detail}); expected one of the authority that `ca` names"
    )
    OWN_EXPIRED = "the certificate of this client has expired; renew what `cert` names"
    OWN_EARLY = (
        "the certificate of this client is not valid yet; compare the clocks of both machines"
    )
    CLIENT_REFUSED = "it refuses the certificate of this client ({detail}); see `cert` and `key`"
    WANTS_CERTIFICATE = "it wants a certificate of this client: give `cert` and `key`"
    OTHER = "expected gRPC, found {detail}; it is another service, or another port"
    WEB = "expected gRPC, found HTTP/1; it is another service, or another port"
    PLAINTEXT = "expected TLS, found plaintext; connect without TLS"
    TLS = "expected plaintext, found TLS: give `tls`, or `ca`"
    PROXY_REFUSES = "the proxy answers {detail}"
    PROXY_OTHER = "expected an HTTP proxy at {at}, found another service"
    WELL_BESIDE = "no service listens there, but at {at}: connect to that address"
    WELL = "it could not be reached a moment ago, and can be now: try again"
    MAY_REFUSE_CLIENT = (
        "it closed the connection at once; it may not believe the certificate of this client: see "
        "`cert`"
    )
    MAY_WANT_CERTIFICATE = (
        "it closed the connection at once; it may want a certificate of this client: give `cert` "
        "and `key`"
    )
    MAY_WANT_TLS = "it closed the connection at once; it may want TLS: give `tls`, or `ca`"
    SILENT = "it accepts connections and says nothing; it hangs, or is another service"
    DROPPED = "nothing answers there; the host is not there, or a firewall drops connections"
    NO_ROUTE = "there is no way to it from here ({detail})"
    NO_NAME = "no address is known for this name"
    NO_NAME_SERVER = "the name cannot be looked up ({detail})"
    NO_PROXY = "no proxy listens at {at}"
    SOCKET_MISSING = "there is no such socket; expected the path that the service listens at"
    SOCKET_DENIED = "this user may not connect to the socket"
    NO_SOCKET = "expected a socket, found {detail}"
    SOCKET_STALE = "no service listens at the socket, which one has left behind"
    REFUSED = "no service listens there"

    @property
    def rank(self) -> int:
        """Its place: a smaller one tells more."""
        return _RANKS[self]


_RANKS = {fault: place for place, fault in enumerate(Fault)}


class Finding(NamedTuple):
    """What is the matter at an address; `at`: where it differs from that at others."""

    fault: Fault
    detail: str = ""
    at: str = ""


def sentence(findings: Iterable[Finding], way: Way) -> str:
    """The most telling of the findings at a target's addresses, and what to try; "" for none."""
    known = sorted(findings, key=lambda finding: finding.fault.rank)
    if not known:
        return ""
    fault, detail, at = known[0]
    host = way.target.rpartition(":")[0]
    text = fault.value.format(detail=detail, at=at, host=host)
    if at and "{at}" not in fault.value:
        text += f" (at {at})"
    if fault in (Fault.REFUSED, Fault.SOCKET_STALE):
        text += f"; {_what_listens(way)}"
    return text


def _what_listens(way: Way) -> str:
    if way.admin:
        return "a service has AdminService with `--admin-port`, at `--admin-host`"
    if is_local(way.target):
        return "`varserve-service serve` starts a service"
    return "without `--host` a service listens for its own machine alone"


# Of what gRPC says, the first that fits. What is in parentheses is the detail.
_TEXTS = (
    (r"CERTIFICATE_VERIFY_FAILED.*certificate has expired", Fault.EXPIRED),
    (r"CERTIFICATE_VERIFY_FAILED.*not yet valid", Fault.EARLY),
    (r"Hostname Verification Check failed|is not in peer certificate", Fault.OTHER_NAME),
    (r"CERTIFICATE_VERIFY_FAILED(?:: (.*?))?(?:: OK)?$", Fault.UNTRUSTED),
    (r"WRONG_VERSION_NUMBER", Fault.PLAINTEXT),
    (r"CERTIFICATE_REQUIRED", Fault.WANTS_CERTIFICATE),
    (r"Failed to create security handshaker", Fault.FILES),
    (r"Failed parsing HTTP/2|missing selected ALPN|(?i:http1)", Fault.WEB),
    (r"No such file or directory", Fault.SOCKET_MISSING),
    (r"Domain name not found|name lookup", Fault.NO_NAME),
    (r"DNS resolution failed|DNS query|Could not contact DNS", Fault.NO_NAME_SERVER),
    (r"Connection refused", Fault.REFUSED),
    (r"(Network is unreachable|No route to host|Host is unreachable)", Fault.NO_ROUTE),
    (r"Permission denied", Fault.SOCKET_DENIED),
)
_CONNECTING = re.compile("failed to connect", re.IGNORECASE)
_BROKEN = re.compile("Socket closed|Connection reset|closed before|FD shutdown", re.IGNORECASE)
_UNANSWERED = re.compile("timed? ?out|timeout|deadline", re.IGNORECASE)
_ADDRESS = re.compile(r"^.*?last error: (?:[A-Z_]+: )*", re.DOTALL)


def read(details: str, way: Way) -> Finding | None:
    """What gRPC's text says of a connection that failed; None where it says nothing of one."""
    for pattern, fault in _TEXTS:
        found = re.search(pattern, details)
        if found is not None and (fault is not Fault.SOCKET_MISSING or _is_file(way.target)):
            detail = (found.lastindex and found[1]) or ""
            if fault is Fault.UNTRUSTED:
                detail = detail or "it was not verified"
            if fault is Fault.NO_NAME_SERVER:
                detail = "no name server answered"
            return Finding(fault, detail)
    if not _CONNECTING.search(details):
        return None
    if _BROKEN.search(details):
        return Finding(closed_at_once(way))
    return Finding(Fault.DROPPED) if _UNANSWERED.search(details) else None


def closed_at_once(way: Way) -> Fault:
    """What it may mean that a connection was closed as soon as it was there."""
    if not way.encrypted:
        return Fault.MAY_WANT_TLS
    has_own = way.tls is not None and way.tls.cert is not None
    return Fault.MAY_REFUSE_CLIENT if has_own else Fault.MAY_WANT_CERTIFICATE


def explain(details: str, way: Way) -> str:
    """What is the matter with a connection, by gRPC's text alone; "" for anything else."""
    found = read(details, way)
    if found is not None:
        return sentence([found], way)
    return _ADDRESS.sub("", details) if _CONNECTING.search(details) else ""


def _is_file(target: str) -> bool:
    return target.startswith("unix:")
