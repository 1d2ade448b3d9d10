"""Tokens in a file, for small set-ups: the subject of each, by the token's SHA-256.

The file reveals no token.
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
    model_config = ConfigDict(extra="forbid")

    subject: str
    sha256: _Digest


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: tuple[_Entry, ...] = Field(min_length=1)


class TokenFile:
    """The tokens of one file."""

    def __init__(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._entries = tuple(entries)

    def subject(self, token: bytes) -> str | None:
        """The subject of the token; None when the file does not have it."""
        digest = hashlib.sha256(token).digest()
        owner = None
        # All entries, each compared in constant time: the duration reveals nothing.
        for subject, listed in self._entries:
            if hmac.compare_digest(digest, listed):
                owner = subject
        return owner


def read_tokens(text: bytes) -> TokenFile:
    """The tokens in a file's bytes. Raises ValueError."""
    try:
        file = _File.model_validate(load_yaml(text))
        entries = [(checked(entry.subject), bytes.fromhex(entry.sha256)) for entry in file.tokens]
    except pydantic.ValidationError as error:
        # Without the wrong value: it may be a token, by mistake.
        problems = [told(problem, show=False) for problem in error.errors()]
        raise ValueError("; ".join(problems)) from None
    except (yaml.YAMLError, CredentialError) as error:
        raise ValueError(str(error)) from None
    digests = [digest for _, digest in entries]
    if len(set(digests)) != len(digests):
        raise ValueError("expected each token once, found one twice")
    return TokenFile(entries)
