"""What a subject may be called, whatever proves it.

Knows nothing of credentials.
"""

from __future__ import annotations

MAX_SUBJECT_BYTES = 512


class CredentialError(Exception):
    """A credential does not hold; the message says why and repeats no secret."""


def checked(subject: object) -> str:
    """A name that policies, logs and the history can carry. Raises CredentialError."""
    if not isinstance(subject, str) or not subject:
        raise CredentialError("the credential names nobody")
    if len(subject.encode(errors="replace")) > MAX_SUBJECT_BYTES:
        raise CredentialError(f"expected a subject of at most {MAX_SUBJECT_BYTES} bytes")
    if not subject.isprintable():
        raise CredentialError(f"expected a subject without control characters, found {subject!a}")
    return subject
