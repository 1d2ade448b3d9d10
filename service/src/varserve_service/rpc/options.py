"""How a server is reached and how much it takes on, and what of that gRPC itself is told.

Knows gRPC's channel arguments; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from varserve_service.access.certificates import ServerIdentity
from varserve_service.addresses import shown
from varserve_service.reloading import ReloadedFiles

from .authorization.access import server_credentials
from .calls.admission import Limit
from .serving.batching import BatchOptions


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the service is reached and how much it takes on. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8500
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    """Where health is answered as well, in plaintext: probes have no certificates."""
    lane_socket: str = ""
    """Path of the Unix socket of the lane; empty: none."""
    lane_port: int | None = None
    """Port of the lane for other hosts; 0 picks a free one, None: none."""
    lane_host: str = "127.0.0.1"
    max_lane_connections: int = 512
    max_lane_memories: int = 4096
    """Memories that were handed over, which have a file descriptor each."""
    lane_uids: tuple[int, ...] = ()
    """User ids that may connect to it, beside root and the service's own."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    reflection: bool = False
    threads_per_model: int = 8
    max_pending_calls: int = 256
    message_bytes: int = 4 * 2**20
    facades: tuple[str, ...] = ()
    """Foreign protocols that are answered on the port of ModelService, of `methods.FACADES`."""
    facade_message_bytes: int = 64 * 2**20
    """Of one message of theirs: their clients know no chunks."""
    chunk_bytes: int = 2**20
    body_bytes: int = 8 * 2**30
    staging_bytes: int = 16 * 2**30
    transfer_silence: float = 60.0
    """Seconds in which an upload or download must move something."""
    transfer_rate: float = 64 * 2**10
    """Bytes a second that it must move on average after so many seconds."""
    batching: Mapping[tuple[str, str], BatchOptions] = field(default_factory=dict)
    """By model and function, which `batching.batching_problem` must find no fault with."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By verb."""
    state_lag: float = 0.0
    """Seconds that a replica may be behind the others and be ready; 0: any."""
    call_log_level: str = "debug"
    max_streams: int = 256
    """Calls of one connection in progress at once; the client keeps further ones waiting."""
    max_connections: int = 4096
    """Connections to ModelService, open at once; further ones are closed as soon as they come."""
    max_other_connections: int = 64
    """The same, on the port of AdminService and on that of health."""
    connection_idle: float = 300.0
    """Seconds after which a connection without a call is closed."""
    connection_handshake: float = 20.0
    """Seconds that a new connection has for its TLS and HTTP/2 handshakes."""
    bookmark_seconds: float = 10.0
    """A watch on which nothing else was sent for so long gets a bookmark."""
    keepalive_seconds: float = 30.0
    """A connection on which nothing was heard for so long is asked for an answer ..."""
    keepalive_timeout: float = 10.0
    """... and closed when none comes for so long."""
    max_connection_age: float | None = None
    """Seconds after which clients are asked to connect anew, a tenth more or less; None: never."""
    connection_grace: float | None = None
    """Seconds that the calls of such a connection get; None: all that they need."""

    @property
    def largest_message_bytes(self) -> int:
        """Of one message of any protocol that is answered."""
        large = self.facade_message_bytes if self.facades else 0
        return max(self.message_bytes, large)


METADATA_BYTES = 32 << 10
"""Headers that a call may have, in bytes as HTTP/2 counts them. Clients send tokens of 16 KiB."""


def channel_options(options: ServerOptions, connections: int) -> Sequence[tuple[str, Any]]:
    """gRPC's arguments for a server that has at most so many connections."""
    return (
        # Each takes a file descriptor, and no credential is needed to connect.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_connection_idle_ms", _milliseconds(options.connection_idle)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(options.connection_handshake)),
        # Two limits, between which gRPC refuses at random: with one value a size has one outcome.
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_receive_message_length", options.largest_message_bytes),
        ("grpc.max_send_message_length", options.largest_message_bytes),
        # A second server on the same port must fail, not share its connections.
        ("grpc.so_reuseport", 0),
        # A client whose machine is gone says nothing: ask, or its watches stay forever.
        ("grpc.keepalive_time_ms", int(options.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout * 1000)),
        # The timeout above is for TCP's acknowledgements, this one for the answer to a ping.
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        # ... and let clients ask as often.
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        # With a bound, gRPC itself refuses streams of a peer that opens and resets them faster than
        # they are ended here; without one they would all come to our loop.
        ("grpc.max_concurrent_streams", options.max_streams),
        # A client looks for servers anew when it has to connect anew.
        ("grpc.max_connection_age_ms", _milliseconds(options.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(options.connection_grace)),
    )


def _milliseconds(seconds: float | None) -> int:
    """As gRPC takes them: the largest int, 24 days, means forever."""
    return 2**31 - 1 if seconds is None else min(int(seconds * 1000), 2**31 - 1)


def listen(
    server: grpc.aio.Server, host: str, port: int, tls: ReloadedFiles[ServerIdentity] | None
) -> str:
    """Listen on an address, `unix:PATH` as the host for a Unix socket.

    Returns it as clients reach it. Raises OSError.
    """
    address = shown(host, port)
    try:
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            # Each port has its own: they ask whether the certificate has changed since.
            bound = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    return shown(host, bound)
