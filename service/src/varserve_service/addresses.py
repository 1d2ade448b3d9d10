"""The addresses that the service listens on: tried before anything that takes long, and held.

Models take minutes to load, and an operator should hear of a port that is taken before that. Knows
sockets; nothing of what is served on them.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

UNIX = "unix:"

_LONGEST_PATH = 107  # of a Unix socket, as the kernel has room for it
_WILDCARDS = {"0.0.0.0", "::"}

_HINTS = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another one",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "the process may not listen there; ports below 1024 need a right of their own",
}


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where one of the ports listens, and the setting that says so."""

    setting: str
    host: str
    port: int

    def __str__(self) -> str:
        return shown(self.host, self.port)

    def overlaps(self, other: ListenAddress) -> bool:
        """Whether only one of them can be listened on."""
        if self.host.startswith(UNIX) or other.host.startswith(UNIX) or not self.port:
            return False
        hosts = {self.host, other.host}
        return self.port == other.port and (len(hosts) == 1 or bool(hosts & _WILDCARDS))


class AddressError(OSError):
    """An address cannot be listened on; the message names setting and address."""


def shown(host: str, port: int | str) -> str:
    """An address as gRPC and people write it. A Unix socket has no port."""
    if host.startswith(UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def hold(addresses: Iterable[ListenAddress]) -> list[socket.socket]:
    """Bind all addresses that are fixed, without listening. To be closed before somebody listens.

    Raises AddressError.
    """
    held: list[socket.socket] = []
    known: list[ListenAddress] = []
    try:
        for address in addresses:
            for other in known:
                if address.overlaps(other):
                    raise AddressError(
                        f"setting {address.setting}: expected an address of its own, found "
                        f"{address}, where {other.setting} listens"
                    )
            known.append(address)
            try:
                if address.host.startswith(UNIX):
                    _check_unix(Path(address.host.removeprefix(UNIX)))
                elif address.port:
                    held.append(_bound(address.host, address.port))
            except OSError as error:
                raise AddressError(_problem(address, error)) from None
    except BaseException:
        release(held)
        raise
    return held


def release(held: Iterable[socket.socket]) -> None:
    """Let go of held addresses."""
    for each in held:
        each.close()


def open_connections(address: str) -> int:
    """Connections to `HOST:PORT` or `unix:PATH` in this network namespace that are open now."""
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        rows = (line.split(maxsplit=7) for line in _lines("/proc/self/net/unix"))
        return sum(len(row) == 8 and row[7] == path and row[5] == "03" for row in rows)
    local = f":{int(address.rpartition(':')[2]):04X}"
    rows = (
        line.split(maxsplit=4)
        for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6")
        for line in _lines(table)
    )
    return sum(row[3] == "01" and row[1].endswith(local) for row in rows)


def _lines(table: str) -> list[str]:
    try:
        return Path(table).read_text().splitlines()[1:]
    except OSError:  # no IPv6, or not Linux
        return []


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, place = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    found = socket.socket(family, kind, protocol)
    try:
        # As gRPC does: connections that have just ended do not keep the address.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
    except BaseException:
        found.close()
        raise
    return found


def _check_unix(path: Path) -> None:
    """Remove the socket of a process that has ended. Raises OSError for anything else there."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"expected at most {_LONGEST_PATH} bytes")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OSError(errno.ENOENT, f"there is no folder {path.parent}") from None
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a socket for packets, which somebody listens on
                raise
    raise OSError(errno.EADDRINUSE, "Address already in use")


def _problem(address: ListenAddress, error: OSError) -> str:
    cause = error.strerror or str(error)
    hint = _HINTS.get(error.errno or 0)
    said = f"setting {address.setting}: cannot listen on {address}: {cause}"
    return f"{said}: {hint}" if hint else said
