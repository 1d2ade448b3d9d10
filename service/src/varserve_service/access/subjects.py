"""The names that a subject may have, whatever credential proves it.

Knows nothing of credentials.
"""

from __future__ import annotations

MAX_SUBJECT_BYTES = 512


class CredentialError(Exception):
    """A credential is invalid. The message says why and repeats no secret."""


def checked(subject: object) -> str:
    """Check that policies, logs and the history can carry the name. Raises CredentialError."""
    if not isinstance(subject, str) or not subject:
        raise CredentialError("the credential names nobody")
    if len(subject.encode(errors="replace")) > MAX_SUBJECT_BYTES:
        raise CredentialError(f"expected a subject of at most {MAX_SUBJECT_BYTES} bytes")
    if not subject.isprintable():
        raise CredentialError(f"expected a subject without control characters, found {subject!a}")
    return subject
