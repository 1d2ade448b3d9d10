"""Tokens in a file, for small set-ups: who has which, by the token's SHA-256.

Whoever reads the file learns no token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from varserve_service.strict_yaml import load_yaml

from .policy_file import told
from .subjects import CredentialError, checked

_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str
    sha256: _Digest


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[_Entry, ...] = Field(min_length=1)


class TokenFile:
    """The tokens of one file."""

    def __init__(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._entries = tuple(entries)

    def subject(self, token: bytes) -> str | None:
        """Whose token this is; None when it is nobody's."""
        digest = hashlib.sha256(token).digest()
        found = None
        # To the end, each compared in constant time: how long it takes tells nothing.
        for subject, theirs in self._entries:
            if hmac.compare_digest(digest, theirs):
                found = subject
        return found


def read_tokens(text: bytes) -> TokenFile:
    """The tokens that a file's bytes tell of. Raises ValueError."""
    try:
        file = _File.model_validate(load_yaml(text))
        entries = [(checked(each.subject), bytes.fromhex(each.sha256)) for each in file.tokens]
    except pydantic.ValidationError as error:
        # Without what was found: it may be a token, by mistake.
        problems = [told(problem, show=False) for problem in error.errors()]
        raise ValueError("; ".join(problems)) from None
    except (yaml.YAMLError, CredentialError) as error:
        raise ValueError(str(error)) from None
    digests = [digest for _, digest in entries]
    if len(set(digests)) != len(digests):
        raise ValueError("expected each token once, found one twice")
    return TokenFile(entries)
