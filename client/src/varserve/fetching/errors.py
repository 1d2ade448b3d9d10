"""The one failure of this room."""

from __future__ import annotations


class FetchError(Exception):
    """A model cannot be fetched; the message is for people. Nothing was left in the repository."""
