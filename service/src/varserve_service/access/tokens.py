"""Bearer tokens: the subject of a token, or why the token is invalid.

Owns which tokens count as JWTs, and what a JWT must contain. Knows PyJWT. Messages never repeat a
token.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jwt

from .keys import Keys
from .subjects import CredentialError, checked
from .token_file import TokenFile

# Signatures by a private key only: not `none`, and nothing that a public key could make.
ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)

MAX_TOKEN_BYTES = 8 * 1024
# Seconds by which the clocks of the issuer and of this machine may differ.
LEEWAY = 10.0
_MAX_KNOWN = 4096


class Tokens(Protocol):
    """Finds the subject of a token."""

    async def subject(self, token: str) -> str | None:
        """The subject; None when this is no token of this kind. Raises CredentialError."""
        ...


class StaticTokens:
    """Tokens from a file."""

    def __init__(self, current: Callable[[], TokenFile]) -> None:
        self._current = current

    async def subject(self, token: str) -> str | None:
        """The subject; None when the file has no such token."""
        return self._current().subject(token.encode())


class _Verified(NamedTuple):
    """What was found out about a token."""

    subject: str
    expires: float
    key: jwt.PyJWK
    kid: str | None
    algorithm: str


class JwtTokens:
    """JWTs of one issuer for one audience."""

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        audience: str,
        algorithms: Sequence[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        unknown = [each for each in algorithms if each not in ALGORITHMS]
        if unknown or not algorithms:
            raise ValueError(
                f"expected algorithms of {', '.join(ALGORITHMS)}, found "
                f"{', '.join(unknown) or 'none'}"
            )
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = tuple(algorithms)
        self._clock = clock
        # By digest: this memory reveals no token.
        self._known: OrderedDict[bytes, _Verified] = OrderedDict()

    async def subject(self, token: str) -> str | None:
        """The subject of a token that looks like a JWT. Raises CredentialError."""
        if token.count(".") != 2:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            # Tokens of a withdrawn key are invalid.
            if self._clock() < known.expires and (
                await self._keys.find(known.kid, known.algorithm) is known.key
            ):
                return known.subject
            self._known.pop(digest, None)  # another call may have done it meanwhile
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError) as error:
            raise CredentialError(f"the token cannot be read: {type(error).__name__}") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise CredentialError(
                f"expected a token signed by {' or '.join(self._algorithms)}, "
                f"found {str(algorithm)[:20]!a}"
            )
        key = await self._keys.find(kid, algorithm)
        if key is None:
            raise CredentialError("no key that is trusted now has signed this token")
        subject, expires = self._verify(token, key)
        self._known[digest] = _Verified(subject, expires, key, kid, algorithm)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return subject

    def _verify(self, token: str, key: jwt.PyJWK) -> tuple[str, float]:
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expires = float(claims["exp"]) + LEEWAY
        except (jwt.PyJWTError, RecursionError, ValueError, TypeError, OverflowError) as error:
            raise CredentialError(f"the token does not hold: {_why(error)}") from None
        return checked(claims["sub"]), expires


def _why(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.ImmatureSignatureError() | jwt.InvalidIssuedAtError():
            return "it does not hold yet"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it is of another issuer"
        case jwt.InvalidSignatureError():
            return "its signature is wrong"
        case jwt.MissingRequiredClaimError():
            return f"it has no claim {error.claim!r}"
    return type(error).__name__


async def subject_of_token(token: str, kinds: Sequence[Tokens]) -> str:
    """The subject of a token, by the first kind that knows it. Raises CredentialError."""
    if len(token) > MAX_TOKEN_BYTES:
        raise CredentialError(f"expected a token of at most {MAX_TOKEN_BYTES} bytes")
    if not token.isascii():
        raise CredentialError("expected a token of ASCII characters")
    for kind in kinds:
        subject = await kind.subject(token)
        if subject is not None:
            return subject
    raise CredentialError("nobody has this token")
