"""Where the service is and how it is reached: from flags, the environment and a file of contexts.

A flag goes before the environment, and both before the context that is chosen in the file. What a
context's credentials are for the servers that it names, and for no other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from varserve import AdminClient, Client, Model, Tls, aio, connect, connect_admin

from .exits import Unusable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_SERVER = "localhost:8500"
DEFAULT_ADMIN_SERVER = "localhost:8502"


@dataclass(frozen=True, slots=True)
class Settings:
    """How one service is reached. Empty and None: not set."""

    server: str | None = None
    admin_server: str | None = None
    """Where AdminService is, which has a port of its own."""
    timeout: float | None = None
    ca: str | None = None
    """PEM file of the authorities that the service's certificate is checked against."""
    cert: str | None = None
    """PEM file of this user's certificate, for mutual TLS."""
    key: str | None = None
    """PEM file of its private key."""
    server_name: str | None = None
    """The name in the service's certificate, where it is not that of the address."""
    tls: bool | None = None
    """TLS with the authorities that gRPC brings, where no `ca` is given."""
    token_file: str | None = None
    """File with a bearer token."""
    token: str | None = None
    """A bearer token; in the environment, not in a file that others may read."""

    def over(self, other: Settings) -> Settings:
        """These, and the other's where nothing is set here."""
        merged = {
            each.name: getattr(other, each.name)
            if getattr(self, each.name) is None
            else getattr(self, each.name)
            for each in fields(self)
        }
        if self.server not in (None, other.server):
            # What the other says of AdminService is of another service.
            merged["admin_server"] = self.admin_server
        if self.token or self.token_file:
            # Credentials come from one place.
            merged |= {"token": self.token, "token_file": self.token_file}
        return Settings(**merged)

    @property
    def has_credentials(self) -> bool:
        """They have credentials."""
        return bool(self.token or self.token_file or self.cert)

    def without_credentials(self) -> Settings:
        """The same without credentials. TLS stays, also where only a certificate implied it."""
        tls = True if self.tls is None and self.cert else self.tls
        return replace(self, cert=None, key=None, tls=tls, token_file=None, token=None)


IN_FILE = [each.name for each in fields(Settings) if each.name != "token"]


def config_path() -> Path:
    """The file of contexts: `$VARSERVE_CONFIG`, else `varserve/config.toml` of the user's own.

    Raises Unusable where the variable names no file: a write could go to another service.
    """
    chosen = os.environ.get("VARSERVE_CONFIG")
    if not chosen:
        return Path(click.get_app_dir("varserve")) / "config.toml"
    if not Path(chosen).exists() or Path(chosen).is_dir():  # /dev/null is an empty file
        raise Unusable(f"VARSERVE_CONFIG: expected a file, found none at {chosen}")
    return Path(chosen)


def context_names() -> list[str]:
    """The contexts of the file; none where it cannot be read."""
    try:
        return list(tomllib.loads(config_path().read_text()).get("contexts", {}))
    except (OSError, ValueError, AttributeError, Unusable):
        return []


def read_context(path: Path, name: str | None) -> Settings:
    """The settings of a context in the file; of the `current` one where no name is given.

    Raises Unusable.
    """
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if name is None:
            return Settings()
        raise Unusable(f"there is no context {name!r}: {path} is not there") from None
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from None
    _check_keys(path, "", content, ["contexts", "current"])
    contexts = content.get("contexts", {})
    name = content.get("current") if name is None else name
    if name is None:
        return Settings()
    if not isinstance(contexts, Mapping) or not isinstance(contexts.get(name), Mapping):
        known = ", ".join(contexts) if isinstance(contexts, Mapping) else ""
        raise Unusable(f"{path}: no context {name!r}; expected one of: {known or '(none)'}")
    context = contexts[name]
    _check_keys(path, f"contexts.{name}", context, IN_FILE)
    for key, value in context.items():
        expected: Any = (int, float) if key == "timeout" else bool if key == "tls" else str
        if not isinstance(value, expected) or (key == "timeout" and isinstance(value, bool)):
            raise Unusable(f"{path}: contexts.{name}: {key} cannot be {value!r}")
    # A file that is named in the file is beside it.
    folder = path.parent
    paths = {
        key: str(folder / context[key])
        for key in ("ca", "cert", "key", "token_file")
        if key in context
    }
    return Settings(**{**context, **paths})


def _check_keys(path: Path, where: str, content: Mapping[str, Any], known: list[str]) -> None:
    unknown = [key for key in content if key not in known]
    if unknown:
        place = f"{where}: " if where else ""
        raise Unusable(f"{path}: {place}unknown {', '.join(unknown)}; expected: {', '.join(known)}")


@dataclass(slots=True)
class Session:
    """What one run of the command line is about. Connects when a command first needs it.

    given: by flags and the environment. context: reads the one that is chosen.
    """

    given: Settings
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
    _client: Client | None = field(default=None, init=False)
    _admin: AdminClient | None = field(default=None, init=False)

    @property
    def client(self) -> Client:
        """The client."""
        if self._client is None:
            settings = self._settings("server")
            self.timeout = settings.timeout
            server = settings.server or DEFAULT_SERVER
            self._client = connect(server, **_options(settings))
        return self._client

    @property
    def admin(self) -> AdminClient:
        """The operator's client. Raises Unusable where only the address of the service is set."""
        if self._admin is None:
            settings = self._settings("admin_server")
            if settings.server and not settings.admin_server:
                # Never another service's by default.
                raise Unusable(
                    "expected the address of AdminService, --admin-server HOST:PORT, "
                    f"where that of the service is said, found {settings.server!r} alone"
                )
            server = settings.admin_server or DEFAULT_ADMIN_SERVER
            self._admin = connect_admin(server, **_options(settings))
        return self._admin

    def connect_async(self, token: str | None = None) -> aio.Client:
        """A client for asyncio, for the caller to close.

        token: of another caller, in place of this session's credentials.
        """
        settings = self._settings("server")
        if token is not None:
            settings = replace(settings.without_credentials(), token=token)
        return aio.connect(settings.server or DEFAULT_SERVER, **_options(settings))

    def model(self, name: str) -> Model:
        """A model by name."""
        return self.client.model(name)

    def _settings(self, address: str) -> Settings:
        """How the server at an address, `server` or `admin_server`, is reached."""
        context = self.context()
        target = getattr(self.given, address)
        own = [each for each in (context.server, context.admin_server) if each]
        # A context that names no server is for whichever is named beside it.
        if not target or not own or target in own:
            return self.given.over(context)
        settings = self.given.over(context.without_credentials())
        if context.has_credentials and not settings.has_credentials:
            self.withheld = (
                f"the context's credentials are for {' and '.join(own)}, and were not sent"
            )
        return settings

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
        for each in (self._client, self._admin):
            if each is not None:
                each.close()


def _options(settings: Settings) -> dict[str, Any]:
    options = _channel(settings)
    # Without one, each kind of call gets the time that it needs by itself.
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    return options


def session_of(ctx: click.Context) -> Session:
    """A session by the command line's own options, those of `ctx`."""
    flags: dict[str, Any] = {}
    environment: dict[str, Any] = {"token": os.environ.get("VARSERVE_TOKEN") or None}
    for key in IN_FILE:
        typed = ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE
        (flags if typed else environment)[key] = ctx.params.get(key)
    given = Settings(**flags).over(Settings(**environment))
    return Session(given, lambda: read_context(config_path(), ctx.params.get("context")))


def _channel(settings: Settings) -> dict[str, Any]:
    """The options of `connect` for TLS and credentials. Raises Unusable."""
    options: dict[str, Any] = {}
    files = {key: getattr(settings, key) for key in ("ca", "cert", "key", "server_name")}
    given = {key: value for key, value in files.items() if value}
    if settings.tls is False and given:
        raise Unusable(f"--no-tls does not go with {', '.join(given)}")
    if settings.tls or given:
        options["tls"] = Tls(**given)
    if settings.token:
        options["token"] = settings.token
    elif settings.token_file:
        path = Path(settings.token_file)
        _token_in(path)
        # Whoever issues tokens for a short time writes a new one into the file before that is over.
        options["token"] = lambda: _token_in(path)
    return options


def _token_in(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: no token can be read: {error}") from None
