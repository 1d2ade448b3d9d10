"""What one run of the command line is about: where the service is, and the connections to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

import varserve
from varserve._client.contexts import (
    IN_FILE,
    Address,
    Found,
    Settings,
    chosen_context,
    config_path,
    environment,
    find,
    read_context,
)

from .late import late
from .progress import Progress

if TYPE_CHECKING:
    from varserve import AdminClient, Client, Model, aio
    from varserve._client.transport import bodies
else:
    bodies = late("varserve._client.transport.bodies")


@dataclass(slots=True)
class Session:
    """What one run of the command line is about. Connects when a command first needs it.

    given: by flags and the environment. context: the one that is chosen. Both raise InvalidRequest.
    """

    given: Callable[[], Settings]
    context: Callable[[], Settings]
    as_json: bool = False
    timeout: float | None = None
    may_write: bool = False
    """The command changes something, unless it is stopped before."""
    sent: bool = True
    """Of a write: nothing of it is still to be sent."""
    abandoned: bool = False
    """The run ends at once, without closing connections."""
    withheld: str = ""
    """Why the context's credentials were not sent."""
    progress: Progress = field(default_factory=Progress, init=False)
    """What a person sees meanwhile."""
    _reporting: ExitStack = field(default_factory=ExitStack, init=False)
    _client: Client | None = field(default=None, init=False)
    _admin: AdminClient | None = field(default=None, init=False)

    @property
    def client(self) -> Client:
        """The client."""
        if self._client is None:
            found = self.found()
            self.timeout = found.settings.timeout
            self._client = varserve.connect(found.address, **found.options)
            self._reporting.enter_context(bodies.reporting(self.progress.report))
        return self._client

    @property
    def admin(self) -> AdminClient:
        """The operator's client."""
        if self._admin is None:
            found = self.found("admin_server")
            self._admin = varserve.connect_admin(found.address, **found.options)
        return self._admin

    def connect_async(self, token: str | None = None) -> aio.Client:
        """A client for asyncio, for the caller to close.

        token: of another caller, in place of this session's credentials.
        """
        found = self.found()
        if token is not None:
            settings = replace(found.settings.without_credentials(), token=token)
            found = replace(found, settings=settings)
        return varserve.aio.connect(found.address, **found.options)

    def model(self, name: str) -> Model:
        """A model by name."""
        return self.client.model(name)

    def found(self, address: Address = "server") -> Found:
        """The server at one of the two addresses. Raises InvalidRequest."""
        found = find(self.given(), self.context(), address)
        self.withheld = found.withheld
        return found

    @property
    def interrupted(self) -> str:
        """What became of a command that was interrupted."""
        if self.may_write and self.sent:
            return "a change may have been made: `varserve history MODEL` tells"
        return "nothing was changed"

    def close(self) -> None:
        """Hang up."""
        if self.abandoned:
            return
        self._reporting.close()
        for each in (self._client, self._admin):
            if each is not None:
                each.close()


def session_of(ctx: click.Context) -> Session:
    """A session by the command line's own options, those of `ctx`."""
    flags: dict[str, Any] = {key: ctx.params.get(key) for key in IN_FILE}
    name = ctx.params.get("context")
    return Session(
        lambda: Settings(**flags).over(environment()),
        lambda: read_context(config_path(), chosen_context() if name is None else name),
    )
