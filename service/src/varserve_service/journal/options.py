"""How much a journal keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """How much is kept. Sizes are in bytes, times in seconds."""

    history_commits: int = 10_000
    history_bytes: int = 256 * 2**20
    answer_count: int = 10_000
    answer_age: float = 86_400.0
    answer_bytes: int = 4 * 2**20
    inline_bytes: int = 256 * 2**10
