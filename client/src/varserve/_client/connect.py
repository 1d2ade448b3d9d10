"""How a program connects: the options of a connection, and what makes clients of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

import grpc

from . import errors
from .client import Client
from .handles.base import Defaults
from .transport.calls import positive_seconds
from .transport.credentials import Tls, TlsSocket, Token, check_token
from .transport.drivers import Async, Sync
from .transport.endpoint import (
    Endpoint,
    LaneUse,
    Metadata,
    Options,
    channel_options,
    spreads_calls,
)
from .transport.retries import Throttle
from .transport.targets import check_target, is_local, single_host
from .values.seen import Seen

if TYPE_CHECKING:
    from .contexts import Address

CLIENT_SECONDS = 30.0
ADMIN_SECONDS = 600.0

P = ParamSpec("P")
Made = TypeVar("Made")
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


@dataclass(frozen=True, kw_only=True, repr=False)  # a token is in it
class ConnectOptions:
    """How a service is reached, besides its target. Each is a keyword argument of `connect`.

    context: of the command line's configuration file, where no target is given: its address, TLS,
        token and timeout. None: what `VARSERVE_CONTEXT` names, or the file's `current` one.
    timeout: seconds that a call may take; one that moves bytes has one more for every 8 MiB. None:
        30, and for an operator's client 600, since a load takes as long as the model is large.
    retries: how often a call that may safely be repeated is, within its timeout.
    tls: the authorities and certificate to use; True: public authorities; False: plaintext.
    token: a bearer token, or a function that gives the present one, which is asked before every
        attempt of every call and must be quick. Without TLS only to loopback. At most 16 KiB.
    credentials: of gRPC, where `tls` does not say it.
    metadata: sent with every call.
    options: gRPC channel arguments, after the client's own.
    round_robin: calls go to all servers of the target in turn, as long as they say that they are
        serving; else to one of them. None: for a target that is written with its scheme, as
        `dns:///HOST:PORT` is. Servers without a common database have a state each: to write,
        connect to one.
    wait_for_ready: while no server can be reached, calls wait within their timeout; else they
        fail after some retries.
    lane: large values go beside gRPC where the service offers it: on this host as memory, from
        others on a port of its own; and the messages of sessions on this host. False: never. A
        path: where the service's socket is here.
    sessions: small calls share one stream, and watches another one, which costs less than a call
        each. None: small calls when they come often, and watches but the first; not where calls are
        spread over several servers, by `round_robin` or a proxy that the environment names. False
        for a proxy or balancer that cannot be seen from here.
    """

    context: str | None = None
    timeout: float | None = None
    retries: int = 4
    tls: Tls | bool = False
    token: Token | None = None
    credentials: grpc.ChannelCredentials | None = None
    metadata: Metadata = ()
    options: Options = ()
    round_robin: bool | None = None
    wait_for_ready: bool = False
    lane: bool | str = True
    sessions: bool | None = None
    _missing: tuple[str, ...] = field(default=(), init=False)

    def endpoint(self, target: str, *, admin: bool = False) -> Endpoint:
        """Of a target. Raises InvalidRequest for what does not go together, or is no target."""
        check_target(target)
        tls = Tls() if self.tls is True else self.tls
        credentials, own = self.credentials, channel_options(target, self.round_robin)
        if tls:
            if credentials is not None:
                raise errors.InvalidRequest("expected tls or credentials, found both")
            credentials, own = tls.credentials(), (*own, *tls.options())
        check_token(self.token, target, credentials is not None)
        sessions = self.sessions
        if sessions is None and spreads_calls(target, self.round_robin, self.options):
            sessions = False
        return Endpoint(
            target,
            credentials,
            (*own, *self.options),
            tuple(self.metadata),
            self.token,
            wait_for_ready=self.wait_for_ready,
            sessions=sessions,
            origin=self,
            missing=self._missing,
            tls=tls or None,
            admin=admin,
            lane=self.lane if isinstance(self.lane, str) else self.lane and is_local(target),
        )

    def public(self) -> ConnectOptions:
        """The same without what is secret, for another process."""
        tls = self.tls
        if isinstance(tls, Tls) and tls.key is not None:
            tls = replace(tls, cert=None, key=None)
        secrets = {
            "token": self.token,
            "credentials": self.credentials,
            "metadata": self.metadata,
            "certificate": tls != self.tls,
        }
        missing = tuple(name for name, value in secrets.items() if value) or self._missing
        public = replace(self, tls=tls, token=None, credentials=None, metadata=())
        object.__setattr__(public, "_missing", missing)
        return public

    def reconnect(self, target: str, asynchronous: bool) -> tuple[Sync | Async, Defaults]:
        """A driver, and the defaults of its calls, for a handle that was unpickled."""
        driver = Async if asynchronous else Sync
        return driver(self.endpoint(target)), self.defaults(target, CLIENT_SECONDS)

    def defaults(self, target: str, timeout: float) -> Defaults:
        """For the calls of a client; `timeout` where none was given."""
        given = timeout if self.timeout is None else self.timeout
        tls = Tls() if self.tls is True else self.tls
        # What other credentials trust, a socket beside the channel cannot know.
        host = single_host(target) if self.credentials is None else ""
        lane = LaneUse(self.lane, host, TlsSocket(tls) if tls else None)
        return Defaults(positive_seconds(given), self.retries, Throttle(), Seen(), lane)


_FOUND = "<found as the command line finds it>"
"""No target. None is an error: it is what a program has that looked for one in vain."""


class Connect(Protocol[P, C_co]):
    """Takes a target, or finds one, and options as keywords."""

    def __call__(self, target: str = ..., *args: P.args, **kwargs: P.kwargs) -> C_co:
        """A client."""
        ...


def options_of(
    options: Callable[P, Made], *, default: Address = "server"
) -> Callable[[Callable[[str, Made], C]], Connect[P, C]]:
    """Lets a function that takes a target and an object of options take these as keywords.

    Without a target it is found as the command line finds it, at the address `default`.
    """

    def decorate(make: Callable[[str, Made], C]) -> Connect[P, C]:
        keywords: Any = options

        def connect(target: str = _FOUND, **given: Any) -> C:
            if target is _FOUND:
                target, given = _found(default, given)
            elif given.get("context") is not None:
                raise errors.InvalidRequest("expected a target or a context, found both")
            return make(target, keywords(**given))

        _document(connect, make, options)
        return cast("Connect[P, C]", connect)

    return decorate


def _found(address: Address, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A target, and what goes with it below the options that are given."""
    from . import contexts

    name = given.get("context")
    name = contexts.chosen_context() if name is None else name
    context = contexts.read_context(contexts.config_path(), name)
    found = contexts.find(contexts.environment(), context, address)
    if found.withheld:
        import warnings

        warnings.warn(found.withheld, stacklevel=3)
    options = found.options
    if given.get("credentials") is not None:
        options.pop("tls", None)
    return found.address, options | given


def _document(connect: Any, make: Any, options: Any) -> None:
    connect.__name__ = connect.__qualname__ = make.__name__
    connect.__doc__, connect.__module__ = make.__doc__, "varserve"
    target = inspect.Parameter(
        "target",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=_FOUND,
        annotation="str",
    )
    keywords = inspect.signature(options).parameters.values()
    connect.__signature__ = inspect.Signature([target, *keywords])


@options_of(ConnectOptions)
def connect(target: str, options: ConnectOptions) -> Client[Sync]:
    """A client of the service at `HOST:PORT`, `unix:PATH`, or another target of gRPC.

    Without a target it is the one that the command line would take: of `VARSERVE_SERVER`, of a
    context in its configuration file, or `localhost:8500`, with the credentials that belong to it.
    With a target nothing is taken from there. Connects at the first call; threads may share it.
    The keywords are those of `ConnectOptions`. Raises InvalidRequest.
    """
    return Client(Sync(options.endpoint(target)), options.defaults(target, CLIENT_SECONDS))
