"""How a service is reached: its target, the caller's credentials, and the options of a channel.

Owns gRPC's names of channel options. Knows nothing of calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import grpc

from varserve._client import errors, wording

from .credentials import Tls, TlsSocket, Token, authorization
from .targets import is_local, names_all_servers, proxy_of
from .traces import trace_metadata

if TYPE_CHECKING:
    from .explanations import Way

Options: TypeAlias = tuple[tuple[str, Any], ...]
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

KEEPALIVE_SECONDS = 20.0
"""Of silence while a call is open, before the client asks whether the server is still there. A
service allows a question every 5 seconds."""
KEEPALIVE_TIMEOUT = 10.0
"""Seconds without an answer after which the connection is given up."""

# Connecting again after a failure is for the retries to pace, not for the channel to put off; and
# the service limits the size of an answer. (`min_reconnect_backoff_ms` is no backoff
# but the time that one attempt to connect may take: it stays as it is.)
_ALWAYS: Options = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", -1),
    # Of an answer's headers: one limit in place of gRPC's two, between which it refuses at random.
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
    ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT * 1000)),
    # A watch is silent while there are no writes: pings without data have no limit.
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
# Options by which a caller has its calls spread, or sent through a proxy.
_BALANCING = ("grpc.service_config", "grpc.lb_policy_name", "grpc.http_proxy")


def spreads_calls(target: str, round_robin: bool | None, options: Options) -> bool:
    """Whether calls of one channel may go to several servers, as far as that can be seen here."""
    balanced = names_all_servers(target) if round_robin is None else round_robin
    return balanced or proxy_of(target) is not None or any(key in _BALANCING for key, _ in options)


def channel_options(target: str, round_robin: bool | None) -> Options:
    """Options of a channel to a target.

    `round_robin`: calls go to all servers of the target in turn, as long as they are healthy; else
    to one of them as long as it is there. None: for a target that is written with its scheme.
    """
    options = _ALWAYS
    if is_local(target):
        # A proxy that the environment names cannot reach this machine's own addresses.
        options = (*options, ("grpc.enable_http_proxy", 0))
    if names_all_servers(target) if round_robin is None else round_robin:
        options = (*options, ("grpc.service_config", _ROUND_ROBIN))
    return options


class LaneUse(NamedTuple):
    """How a client may use the lane.

    wanted: whether it does, or where the socket is here. host: of the service, if its target names
    one alone, with `tls` as its channel has it; else empty.
    """

    wanted: bool | str = True
    host: str = ""
    tls: TlsSocket | None = None


class Origin(Protocol):
    """What an endpoint was made of, for handles that are pickled."""

    def public(self) -> Origin:
        """The same without credentials."""

    def reconnect(self, target: str, asynchronous: bool) -> tuple[Any, Any]:
        """A driver, and the defaults of its calls."""


@dataclass(frozen=True, eq=False, repr=False)  # a token is in it
class Endpoint:
    """How to reach a service. Raises InvalidRequest for metadata that no call can have.

    `sessions`: whether small calls go in a session; None: when they come often. `missing`: what an
    unpickled handle would need to connect, which was not pickled. `tls`: what the credentials were
    made of. `admin`: it is the port for operators. `lane`: whether sessions go on by the lane's
    socket where the service has one; a path: of the socket here.
    """

    target: str
    credentials: grpc.ChannelCredentials | None
    options: Options
    metadata: Metadata
    token: Token | None = None
    wait_for_ready: bool = False
    sessions: bool | None = None
    origin: Origin | None = None
    missing: tuple[str, ...] = ()
    tls: Tls | None = None
    admin: bool = False
    lane: bool | str = False

    def __post_init__(self) -> None:
        given: Sequence[Any] = self.metadata
        for entry in given:
            if not _is_metadata(entry):
                # Not the value, which may be a secret.
                found = entry[0] if isinstance(entry, tuple) and entry else entry
                raise errors.InvalidRequest(
                    "metadata: expected keys of a-z, 0-9, '_', '-' and '.', each with printable "
                    "ASCII text, or with bytes where the key ends in '-bin', "
                    f"found {wording.shown(found)}"
                )

    @property
    def way(self) -> Way:
        """What explains a connection that fails."""
        from .explanations import Way

        return Way(self.target, self.credentials is not None, self.tls, self.admin)

    def call_metadata(self) -> Metadata | None:
        """What goes with a call that begins now, its trace included.

        Raises what the function that gives the token raises.
        """
        metadata = self.session_metadata()
        if not self._common_trace:
            metadata = (*metadata, *trace_metadata())
        return metadata or None

    def trace(self) -> Metadata:
        """The trace of a call that begins now."""
        return self._common_trace or trace_metadata()

    @cached_property
    def _common_trace(self) -> Metadata:
        """The trace that all calls have."""
        if not any(key == "traceparent" for key, _ in self.metadata):
            return ()
        return tuple(each for each in self.metadata if each[0] in ("traceparent", "tracestate"))

    def session_metadata(self) -> Metadata:
        """What goes with every call that begins now.

        Raises what the function that gives the token raises.
        """
        if self.missing:
            raise errors.InvalidRequest(
                f"this handle was pickled, and its {' and '.join(self.missing)} was not: connect "
                f"to {self.target} here and make a new one"
            )
        if self.token is None:
            return self.metadata
        return (*self.metadata, authorization(self.token))

    def channel(self, module: Any, *, shared: bool = True) -> Any:
        """A channel of `grpc` or `grpc.aio`; unless `shared`, with no connection of another one's.

        Raises InvalidRequest for options that no channel has.
        """
        options = self.options
        if not shared:
            options = (*options, ("grpc.use_local_subchannel_pool", 1))
        try:
            if self.credentials is None:
                return module.insecure_channel(self.target, options=options)
            return module.secure_channel(self.target, self.credentials, options=options)
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.InvalidRequest(
                f"{self.target}: no channel has these options: {error}"
            ) from None


def _is_metadata(entry: Any) -> bool:
    """Whether gRPC takes it. A blocking call says so in gRPC's log alone, an asyncio call fails."""
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        return False
    key, value = entry
    if not isinstance(key, str) or not re.fullmatch(_METADATA_KEY, key):
        return False
    if key.endswith("-bin"):
        return isinstance(value, bytes)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return isinstance(value, str) and re.fullmatch(_METADATA_TEXT, value) is not None


_METADATA_KEY = r"[a-z0-9_.-]+"
_METADATA_TEXT = r"[\x20-\x7e]*"
