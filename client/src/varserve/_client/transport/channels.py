"""How a channel finds servers, chooses among them and notices that one is gone.

Owns the options that a channel begins with. Knows gRPC's names for them and nothing of calls.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

Options: TypeAlias = tuple[tuple[str, Any], ...]

KEEPALIVE_SECONDS = 20.0
"""Of silence while a call is open, before the client asks whether the server is still there. A
service lets itself be asked every 5 seconds."""
KEEPALIVE_TIMEOUT = 10.0
"""Seconds without an answer after which the connection is given up."""

# Connecting again after a failure is for the retries to pace, not for the channel to put off; and
# how large an answer may be is for the service to say. (`min_reconnect_backoff_ms` is no backoff
# but the time that one attempt to connect may take: it stays as it is.)
_ALWAYS: Options = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
    ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
    # A watch may be silent for as long as nobody writes: nothing limits how often it may be asked.
    ("grpc.http2.max_pings_without_data", 0),
    # A name is looked up again soon after a server has gone: its successor has another address.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # The reading thread waits for the network itself: one hand-over less for each chunk.
    ("SingleThreadedUnaryStream", 1),
)

# Each call goes to the next server that is there and says that it is serving.
_ROUND_ROBIN = (
    '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'
)

_WITH_SCHEME = re.compile(r"(dns|ipv4|ipv6|xds):", re.IGNORECASE)


def channel_options(target: str, round_robin: bool | None) -> Options:
    """Options of a channel to a target.

    `round_robin`: calls go to all servers of the target in turn, as long as they are healthy; else
    to one of them as long as it is there. None: for a target that is written with its scheme.
    """
    if round_robin is None:
        round_robin = _WITH_SCHEME.match(target) is not None
    if not round_robin:
        return _ALWAYS
    return (*_ALWAYS, ("grpc.service_config", _ROUND_ROBIN))
