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
    """Of one answer; a larger one is not kept."""
    answers_bytes: int = 64 * 2**20
    """Of all answers together; beyond it the values of the oldest go, and their ids stay."""
    inline_bytes: int = 256 * 2**10
    commit_bytes: int = 2**30
    """Bytes of values that one commit of a shared state may have."""
    blob_seconds: float = 120.0
    """That a large value of a shared state stays at least: until it is swept when no commit keeps
    it, and until it is compacted, so that replicas which are behind can read it."""
    check_seconds: float = 600.0
    """Until replicas of a shared state compare their values again; 0: never."""
