"""Names that a shell completes: from a file of the last minutes, else from the service.

One file holds the names of one kind, of one server and caller; its age is the file's own. What is
offered may be out of date: a name that is gone is refused by the command as any wrong one is. Where
no name of the file fits, the service is asked.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varserve._client.contexts import Address, cache_path

if TYPE_CHECKING:
    from .session import Session

FRESH_SECONDS = 300.0
_OLD_SECONDS = 86400.0
_ASKING_SECONDS = 2.0
_WITHOUT_MODEL = ("model", "administered")


def names(
    session: Session, kind: str, model: str | None, function: str | None, begun: str
) -> list[str]:
    """The names of a kind that begin with a text.

    kind: `model`, `administered` (also what is not loaded), or of a model `variable`, `function`,
    `input`.
    """
    of = None if kind in _WITHOUT_MODEL else model
    if of is None and kind not in _WITHOUT_MODEL:
        return []
    address: Address = "admin_server" if kind == "administered" else "server"
    what = kind if of is None else f"of {of}"
    fitting = _fitting(_read(_file(session, address, what)), kind, function, begun)
    if fitting:
        return fitting
    asked = _ask(session, kind, of)
    keep(session, address, what, asked)
    return _fitting(asked, kind, function, begun)


def forget(session: Session) -> None:
    """Drop what was kept of the session's server: it may be wrong from now on."""
    for address in ("server", "admin_server"):
        with suppress(Exception):
            for each in _folder(session, address).iterdir():
                each.unlink(missing_ok=True)


def _fitting(found: Any, kind: str, function: str | None, begun: str) -> list[str]:
    if found is None:
        return []
    if kind == "input":
        every = [f"{name}=" for name in found["functions"].get(function or "", ())]
    else:
        every = found if kind in _WITHOUT_MODEL else found[f"{kind}s"]
    return [each for each in every if each.startswith(begun)]


def _ask(session: Session, kind: str, model: str | None) -> Any:
    if kind == "administered":
        listed = session.admin.list_versions(timeout=_ASKING_SECONDS)
        return list(dict.fromkeys(each.header.model for each in listed))
    if model is None:
        return [each.name for each in session.client.models(timeout=_ASKING_SECONDS)]
    served = session.client.model(model, timeout=_ASKING_SECONDS)
    return {
        "variables": list(served.variables),
        "functions": {name: list(each.spec.inputs) for name, each in served.functions.items()},
    }


# ---- the files ----


def _folder(session: Session, address: Address) -> Path:
    """Of one server as one caller sees it."""
    from hashlib import sha256

    found = session.found(address)
    caller = repr((found.address, astuple(found.settings))).encode()
    return cache_path() / "names" / sha256(caller).hexdigest()[:32]


def _file(session: Session, address: Address, what: str) -> Path:
    from hashlib import sha256

    return _folder(session, address) / f"{sha256(what.encode()).hexdigest()[:32]}.json"


def _read(file: Path) -> Any:
    import json

    try:
        if 0 <= time.time() - file.stat().st_mtime < FRESH_SECONDS:
            return json.loads(file.read_bytes())
    except (OSError, ValueError):
        pass
    return None


def keep(session: Session, address: Address, what: str, content: Any) -> None:
    """Keep names, for this user alone. Where that cannot be, they are not kept."""
    import json

    file = _file(session, address, what)
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(content))
        os.replace(unfinished, file)  # noqa: PTH105  (Path.replace says nothing of atomicity)
        for each in file.parent.iterdir():
            if time.time() - each.stat().st_mtime > _OLD_SECONDS:
                each.unlink(missing_ok=True)
