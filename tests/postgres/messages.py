"""What a client asks of PostgreSQL, read from the bytes that it sends: version 3 of its protocol.

A statement that the server has prepared is sent by its name alone, so the names of a connection are
kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_VERBS = {b"Q": "query", b"P": "parse", b"B": "bind"}
_PROTOCOL = 3 << 16
"""And its minor number. What comes before it asks for encryption, and has no type either."""


@dataclass(frozen=True)
class Asked:
    """A statement. `verb`: it is run at once, made known under a name, or run by its name."""

    verb: str
    text: bytes


class Messages:
    """The messages of one connection, as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._has_begun = False
        self._prepared: dict[bytes, bytes] = {}

    def asked(self, data: bytes) -> list[Asked]:
        """The statements whose messages end in these bytes, the next that were sent."""
        self._rest += data
        return [
            Asked(_VERBS[kind], self._text(kind, body))
            for kind, body in self._messages()
            if kind in _VERBS
        ]

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Type and content of each whole message; the first of a connection have no type."""
        while True:
            start = 1 if self._has_begun else 0
            if len(self._rest) < start + 4:
                return
            end = start + int.from_bytes(self._rest[start : start + 4], "big")
            if len(self._rest) < end:
                return
            kind, body = self._rest[:start], self._rest[start + 4 : end]
            self._rest = self._rest[end:]
            if not self._has_begun:
                self._has_begun = body[:2] == _PROTOCOL.to_bytes(4, "big")[:2]
            yield kind, body

    def _text(self, kind: bytes, body: bytes) -> bytes:
        if kind == b"Q":
            return body.rstrip(b"\0")
        first, second, _ = body.split(b"\0", 2)
        if kind == b"P":
            self._prepared[first] = second
            return second
        return self._prepared.get(second, b"")  # of a bind the first is the portal
