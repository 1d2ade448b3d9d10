"""The numbers that the documentation promises are those that a model has without options."""

from __future__ import annotations

from pathlib import Path

import pytest

from varserve_service.core.commit.history import History
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.commit.leases import MAX_LEASES
from varserve_service.core.commit.watchers import EventLimits
from varserve_service.journal import JournalOptions

DOCS = Path(__file__).parents[2] / "docs"


def mib(nbytes: int) -> str:
    """As the documentation writes it; fails for what is no whole number."""
    whole, rest = divmod(nbytes, 2**20)
    assert not rest
    return f"{whole // 2**10} GiB" if whole >= 2**10 else f"{whole} MiB"


HISTORY, ANSWERS, EVENTS, KEPT = History(), IdempotencyCache[str](), EventLimits(), JournalOptions()


@pytest.mark.parametrize(
    ("page", "promise"),
    [
        (
            "watching.md",
            f"records of the last {HISTORY._max_commits:,} commits, and the values that they "
            f"replaced up to {mib(HISTORY.max_bytes)}",
        ),
        (
            "watching.md",
            f"records of the last {KEPT.history_commits:,} commits, and the values that they "
            f"replaced up to {mib(KEPT.history_bytes)}",
        ),
        ("watching.md", f"A model has at most {MAX_LEASES:,} leases"),
        ("watching.md", f"beyond {mib(EVENTS.event_bytes)} of"),
        ("watching.md", f"holds at most {mib(EVENTS.waiting_bytes)}, is closed"),
        ("guarantees.md", f"the last `--request-ids` writes ({ANSWERS._max_count:,})"),
        ("guarantees.md", f"the last `--request-ids` writes ({KEPT.answer_count:,})"),
        ("guarantees.md", f"answers by `--request-ids` and {mib(ANSWERS._max_bytes)}"),
        ("guarantees.md", f"An answer of more than {mib(KEPT.answer_bytes)} is not kept on disk"),
        ("guarantees.md", f"beyond {mib(KEPT.answers_bytes)} of answers the oldest are dropped"),
        ("replicas.md", f"`state_commit_bytes` of values ({mib(KEPT.commit_bytes)})"),
    ],
)
def test_what_is_promised(page: str, promise: str) -> None:
    """Word for word, wherever the lines end."""
    text = " ".join((DOCS / page).read_text().split())
    assert promise in text


def test_a_day_is_a_day() -> None:
    """Ids are remembered for as long on disk as in memory."""
    assert KEPT.answer_age == ANSWERS._max_age / 1e9 == 24 * 3600
    assert EVENTS.value_bytes + 2**20 == 4 * 2**20  # it fits into a message with all around it
