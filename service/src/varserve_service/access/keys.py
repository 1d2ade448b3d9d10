"""The public keys that tokens are verified with: a JWKS from a file or an address.

Owns when an address is asked: on a thread, by one thread at a time, and no more often than the pace
set here, whatever callers send.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
import structlog

from varserve_service.reloading import ReloadedFiles, ReloadStatus

log = structlog.get_logger("varserve.access")

_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}

# For an address, in seconds: the age of keys after which it is asked again, the least time between
# two requests, how long keys stay valid while it does not answer, and the timeout of a request.
MAX_AGE = 300.0
PACE = 15.0
MAX_STALE = 6 * 3600.0
TIMEOUT = 10.0


class KeySet:
    """Public keys by id and algorithm."""

    def __init__(self, keys: Mapping[tuple[str | None, str], jwt.PyJWK]) -> None:
        self._keys = keys

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id for this algorithm; without an id, the only key for the algorithm."""
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, signs), key in self._keys.items() if signs == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def key_set(document: Any, algorithms: Sequence[str]) -> KeySet:
    """The keys of a JWKS that verify signatures by one of the algorithms.

    All others are left out, and symmetric keys always. Raises ValueError if the document is no JWKS
    or has no such key.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("expected a JWKS, a JSON object with a list `keys`")
    keys: dict[tuple[str | None, str], jwt.PyJWK] = {}
    for number, key in enumerate(listed):
        if not isinstance(key, dict) or key.get("use", "sig") != "sig":
            continue
        kid = key.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise ValueError(f"keys.{number}.kid: expected a string")
        for algorithm in algorithms:
            if not _fits(key, algorithm):
                continue
            if (kid, algorithm) in keys:
                raise ValueError(f"keys.{number}: expected each kid once, found {kid!a} twice")
            try:
                keys[kid, algorithm] = jwt.PyJWK(key, algorithm)
            except jwt.PyJWTError as error:
                raise ValueError(f"keys.{number}: {type(error).__name__}") from None
    if not keys:
        raise ValueError(f"the JWKS has no key for {', '.join(algorithms)}")
    return KeySet(keys)


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    return (
        key.get("kty") == _TYPES[algorithm[:2]]
        and key.get("alg", algorithm) == algorithm
        and _CURVES.get(algorithm, key.get("crv")) == key.get("crv")
    )


class Keys(Protocol):
    """Where public keys come from."""

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key; None when there is none now. Does not block the event loop."""
        ...


class KeyFile:
    """Keys from a file, which is read again when it changes."""

    def __init__(self, path: Path, algorithms: Sequence[str]) -> None:
        """Raises OSError, and ValueError for what is no JWKS."""
        self.file = ReloadedFiles(
            "token keys", [path], lambda files: key_set(_json(files[0]), algorithms)
        )

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key; None when there is none."""
        return self.file.current.find(kid, algorithm)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None


class KeyAddress:
    """Keys from an https address (or http on loopback), cached and fetched again at intervals."""

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        authority: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`authority`: PEM file of the authorities that the address is trusted by.

        Raises OSError, ValueError.
        """
        check_url(url)
        self._url = url
        self._algorithms = tuple(algorithms)
        self._clock = clock
        self.authority = (
            None
            if authority is None
            else ReloadedFiles("authority of token keys", [authority], _trusting)
        )
        self._taken = self._refused = 0
        self._failing = False
        self._keys = KeySet({})
        self._fetched = self._asked = float("-inf")
        self._turn = threading.Lock()
        self._asking: asyncio.Future[bool] | None = None

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key; None when there is none now. An unknown key may be new, so the address is asked.

        Concurrent callers share one answer. A call too soon after an answer gets none.
        """
        key = self._known(kid, algorithm)
        if key is not None:
            return key
        if self._asking is None or self._asking.done():
            if self._too_soon():
                return None
            loop = asyncio.get_running_loop()
            self._asking = loop.run_in_executor(None, self._ask)
        await asyncio.shield(self._asking)
        return self._known(kid, algorithm)

    @property
    def status(self) -> ReloadStatus:
        return ReloadStatus("token keys", self._taken, self._refused, self._failing)

    def reload(self) -> bool:
        """Fetch the keys if they are old, on a thread. Whether there are new ones."""
        return self._clock() - self._fetched >= MAX_AGE and not self._too_soon() and self._ask()

    def _known(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        # An authority that has not answered for hours may be cut off: its keys expire.
        if self._clock() - self._fetched > MAX_STALE:
            return None
        return self._keys.find(kid, algorithm)

    def _too_soon(self) -> bool:
        return self._clock() - self._asked < PACE

    def _ask(self) -> bool:
        with self._turn:
            if self._too_soon():
                return False  # another thread asked meanwhile
            # Before the answer: one that is slow, or never comes, counts too.
            self._asked = self._clock()
            try:
                self._keys = key_set(self._fetch(), self._algorithms)
            except Exception as error:  # whatever an address may send
                log.error("could not fetch JWKS", address=self._url, error=str(error)[:300])
                self._refused += 1
                self._failing = True
                return False
            self._fetched = self._clock()
            self._taken += 1
            self._failing = False
            log.debug("JWKS fetched", address=self._url)
            return True

    def _fetch(self) -> Any:
        authority = self.authority
        trusted = ssl.create_default_context() if authority is None else authority.current
        client = jwt.PyJWKClient(
            self._url, cache_jwk_set=False, timeout=TIMEOUT, ssl_context=trusted
        )
        return client.fetch_data()


def _trusting(contents: Sequence[bytes]) -> ssl.SSLContext:
    if not contents[0]:  # of nothing ssl makes a context that trusts the system's authorities
        raise ValueError("expected certificates in PEM, found an empty file")
    try:
        return ssl.create_default_context(cadata=contents[0].decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise ValueError(f"expected certificates in PEM, found {error}") from None


def check_url(url: str) -> None:
    """Raises ValueError for an address that others on the network could answer for."""
    parts = urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError(f"expected the address of keys to begin with https://, found {url!r}")
