"""TLS and tokens of a connection, from the files that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from varserve import Tls

from .exits import Unusable

if TYPE_CHECKING:
    from .session import Settings


def channel(settings: Settings) -> dict[str, Any]:
    """What `connect` is told of TLS and of who calls. Raises Unusable."""
    found: dict[str, Any] = {}
    files = {key: getattr(settings, key) for key in ("ca", "cert", "key", "server_name")}
    given = {key: value for key, value in files.items() if value}
    if settings.tls is False and given:
        raise Unusable(f"--no-tls does not go with {', '.join(given)}")
    if settings.tls or given:
        found["tls"] = Tls(**given)
    if settings.token:
        found["token"] = settings.token
    elif settings.token_file:
        path = Path(settings.token_file)
        _token_in(path)
        # Whoever issues tokens for a short time writes a new one into the file before that is over.
        found["token"] = lambda: _token_in(path)
    return found


def _token_in(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: no token can be read: {error}") from None
