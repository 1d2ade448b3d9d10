"""Where the service is and how it is reached: by arguments, the environment, a file of contexts.

Arguments go before the environment, and both before the context that is chosen in the file. What a
context's credentials are for the servers that it names, and for no other. The command line and
`connect()` both ask here. Knows no gRPC: shells complete names by it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

DEFAULT_SERVER = "localhost:8500"
DEFAULT_ADMIN_SERVER = "localhost:8502"

Address = Literal["server", "admin_server"]
"""Which of a service's two addresses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one service is reached. None: not set."""

    server: str | None = None
    admin_server: str | None = None
    """Where AdminService is, which has a port of its own."""
    timeout: float | None = None
    """Seconds, for each call."""
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
"""What a context may say."""

_VARIABLES = {each: f"VARSERVE_{each.upper()}" for each in IN_FILE} | {
    "token_file": "VARSERVE_BEARER_FILE",
    "token": "VARSERVE_TOKEN",
}


@dataclass(frozen=True, slots=True)
class Found:
    """How one server is reached.

    withheld: why the context's credentials are not sent there; "" where they are, or it has none.
    """

    address: str
    settings: Settings
    withheld: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `connect`. Raises InvalidRequest."""
        return _options(self.settings)


def find(given: Settings, context: Settings, address: Address = "server") -> Found:
    """The server at an address, by what is given and the context. Raises InvalidRequest."""
    settings, withheld = _merged(given, context, address)
    if address == "server":
        return Found(settings.server or DEFAULT_SERVER, settings, withheld)
    if settings.server and not settings.admin_server:
        # Never another service's by default.
        _refuse(
            "expected the address of AdminService, --admin-server HOST:PORT, "
            f"where that of the service is said, found {settings.server!r} alone"
        )
    return Found(settings.admin_server or DEFAULT_ADMIN_SERVER, settings, withheld)


def _merged(given: Settings, context: Settings, address: Address) -> tuple[Settings, str]:
    target = getattr(given, address)
    own = [each for each in (context.server, context.admin_server) if each]
    # A context that names no server is for whichever is named beside it.
    if not target or not own or target in own:
        return given.over(context), ""
    settings = given.over(context.without_credentials())
    if context.has_credentials and not settings.has_credentials:
        names = " and ".join(own)
        return settings, f"the context's credentials are for {names}, and were not sent"
    return settings, ""


# ---- the environment ----


def environment() -> Settings:
    """What `VARSERVE_SERVER` and the others say. Raises InvalidRequest."""
    values: dict[str, Any] = {}
    for key, variable in _VARIABLES.items():
        text = os.environ.get(variable)
        if text:
            values[key] = _READ.get(key, _text)(variable, text)
    return Settings(**values)


def chosen_context() -> str | None:
    """The context that `VARSERVE_CONTEXT` names."""
    return os.environ.get("VARSERVE_CONTEXT") or None


def _text(variable: str, text: str) -> str:
    return text


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        _refuse(f"{variable}: expected seconds, more than 0, found {text!r}")
    return seconds


def _switch(variable: str, text: str) -> bool:
    if text.lower() in ("1", "true", "t", "yes", "y", "on"):
        return True
    if text.lower() in ("0", "false", "f", "no", "n", "off"):
        return False
    return _refuse(f"{variable}: expected true or false, found {text!r}")


_READ = {"timeout": _seconds, "tls": _switch}


# ---- the file ----


def config_path() -> Path:
    """The file of contexts: `$VARSERVE_CONFIG`, else `varserve/config.toml` of the user's own.

    Raises InvalidRequest where the variable names no file: a write could go to another service.
    """
    chosen = os.environ.get("VARSERVE_CONFIG")
    if not chosen:
        return _own_folder("XDG_CONFIG_HOME", ".config") / "varserve" / "config.toml"
    if not Path(chosen).exists() or Path(chosen).is_dir():  # /dev/null is an empty file
        _refuse(f"VARSERVE_CONFIG: expected a file, found none at {chosen}")
    return Path(chosen)


def cache_path() -> Path:
    """The folder of what can be had again: `varserve` in the user's own."""
    return _own_folder("XDG_CACHE_HOME", ".cache") / "varserve"


def _own_folder(variable: str, name: str) -> Path:
    """As the freedesktop.org base directories have it, and other systems where they differ."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home())
    if sys.platform == "darwin":
        folder = "Caches" if name == ".cache" else "Application Support"
        return Path.home() / "Library" / folder
    return Path(os.environ.get(variable) or Path.home() / name)


def context_names() -> list[str]:
    """The contexts of the file; none where it cannot be read."""
    from .errors import InvalidRequest

    try:
        return list(_parse(config_path()).get("contexts", {}))
    except (OSError, ValueError, AttributeError, InvalidRequest):
        return []


def read_context(path: Path, name: str | None) -> Settings:
    """The settings of a context in the file; of the `current` one where no name is given.

    Raises InvalidRequest.
    """
    try:
        content = _parse(path)
    except FileNotFoundError:
        if name is None:
            return Settings()
        _refuse(f"there is no context {name!r}: {path} is not there")
    except (OSError, ValueError) as error:
        _refuse(f"{path}: {error}")
    _check_keys(path, "", content, ["contexts", "current"])
    contexts = content.get("contexts", {})
    name = content.get("current") if name is None else name
    if name is None:
        return Settings()
    if not isinstance(contexts, Mapping) or not isinstance(contexts.get(name), Mapping):
        known = ", ".join(contexts) if isinstance(contexts, Mapping) else ""
        _refuse(f"{path}: no context {name!r}; expected one of: {known or '(none)'}")
    context = contexts[name]
    _check_keys(path, f"contexts.{name}", context, IN_FILE)
    for key, value in context.items():
        expected: Any = (int, float) if key == "timeout" else bool if key == "tls" else str
        if not isinstance(value, expected) or (key == "timeout" and isinstance(value, bool)):
            _refuse(f"{path}: contexts.{name}: {key} cannot be {value!r}")
    # A file that is named in the file is beside it.
    folder = path.parent
    paths = {
        key: str(folder / context[key])
        for key in ("ca", "cert", "key", "token_file")
        if key in context
    }
    return Settings(**{**context, **paths})


def _parse(path: Path) -> dict[str, Any]:
    text = path.read_text()
    if not text.strip():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            _refuse(f"{path}: Python 3.10 reads no TOML by itself: pip install tomli")
    return tomllib.loads(text)


def _check_keys(path: Path, where: str, content: Mapping[str, Any], known: list[str]) -> None:
    unknown = [key for key in content if key not in known]
    if unknown:
        place = f"{where}: " if where else ""
        _refuse(f"{path}: {place}unknown {', '.join(unknown)}; expected: {', '.join(known)}")


# ---- what `connect` takes ----


def _options(settings: Settings) -> dict[str, Any]:
    from .transport.credentials import Tls

    options: dict[str, Any] = {}
    # Without one, each kind of call gets the time that it needs by itself.
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    files = {key: getattr(settings, key) for key in ("ca", "cert", "key", "server_name")}
    given = {key: value for key, value in files.items() if value}
    if settings.tls is False and given:
        _refuse(f"plaintext (--no-tls, tls = false) does not go with {', '.join(given)}")
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
        reason = error.strerror if isinstance(error, OSError) else error
        _refuse(f"{path}: expected a file with a token: {reason}")


def _refuse(message: str) -> NoReturn:
    from .errors import InvalidRequest

    raise InvalidRequest(message)
