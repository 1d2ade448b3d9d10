"""What it costs to share a state through PostgreSQL, beside a bare insert and beside SQLite."""

from __future__ import annotations

from benchmarks.figures import KIB, Figure, at_most, peer, size, work
from benchmarks.samples import CALLS, P50, P99

NBYTES = 4 * KIB
WRITERS = (1, 16)


def _writers(count: int) -> Figure:
    alone = peer("SQLite, one service", work("durable", "assign_aio", nbytes=NBYTES))
    three = peer("three replicas", work("replicas", "assign_aio", nbytes=NBYTES))
    return Figure(
        name=f"commits of {size(NBYTES)} to PostgreSQL, {count} writer{'s' if count > 1 else ''}",
        ours=work("replicated", "assign_aio", nbytes=NBYTES),
        peers=(alone, three),
        measures=(CALLS, P50, P99),
        in_flight=count,
    )


FIGURES = (
    Figure(
        name=f"lone commit of {size(NBYTES)} to PostgreSQL, without the way to the service",
        ours=work("replicated", "commit", nbytes=NBYTES),
        peers=(
            peer(
                "a bare insert",
                work("replicated", "insert", nbytes=NBYTES),
                targets={P50: at_most(1.6)},
            ),
        ),
        measures=(P50, P99),
        quick=True,
    ),
    *(_writers(count) for count in WRITERS),
    Figure(
        name=f"answer to a write of {size(NBYTES)} until another replica has it",
        ours=work("replicas", "follow", nbytes=NBYTES),
        peers=(peer("a bare insert", work("replicas", "insert", nbytes=NBYTES)),),
        measures=(P50, P99),
    ),
)
