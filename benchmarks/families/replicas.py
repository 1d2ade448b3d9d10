"""What it costs to share a state through PostgreSQL, beside a bare insert and beside SQLite."""

from __future__ import annotations

from benchmarks.figures import KIB, Figure, at_least, at_most, peer, size, work
from benchmarks.samples import CALLS, P50, P99

NBYTES = 4 * KIB
WRITERS = 16

_BARE = "a bare insert"
_ASSIGN = work("replicated", "assign_aio", nbytes=NBYTES)

FIGURES = (
    Figure(
        name=f"lone commit of {size(NBYTES)} to PostgreSQL, without the way to the service",
        ours=work("replicated", "commit", nbytes=NBYTES),
        peers=(
            peer(
                _BARE,
                work("replicated", "insert", nbytes=NBYTES),
                targets={P50: at_most(1.6)},
            ),
        ),
        measures=(P50, P99),
        quick=True,
    ),
    Figure(
        name=f"commits of {size(NBYTES)} to PostgreSQL, 1 writer",
        ours=_ASSIGN,
        peers=(peer("SQLite", work("durable", "assign_aio", nbytes=NBYTES)),),
        measures=(CALLS, P50, P99),
    ),
    Figure(
        name=f"commits of {size(NBYTES)} to PostgreSQL, {WRITERS} writers",
        ours=_ASSIGN,
        peers=(
            peer(
                "1 writer",
                work("replicated", "assign_one_by_one_aio", nbytes=NBYTES),
                targets={CALLS: at_least(5)},
            ),
            peer("SQLite", work("durable", "assign_aio", nbytes=NBYTES)),
        ),
        measures=(CALLS,),
        in_flight=WRITERS,
        quick=True,
    ),
    Figure(
        name=f"commits of {size(NBYTES)} by three replicas, {WRITERS} writers",
        ours=work("replicas", "assign_aio", nbytes=NBYTES),
        peers=(peer("one replica", _ASSIGN, targets={CALLS: at_least(1)}),),
        measures=(CALLS, P50, P99),
        in_flight=WRITERS,
        quick=True,
    ),
    Figure(
        name=f"answer to a write of {size(NBYTES)} until a watcher at another replica has it",
        ours=work("replicas", "follow_by_watch", nbytes=NBYTES),
        peers=(
            peer(
                _BARE,
                work("replicas", "insert", nbytes=NBYTES),
                targets={P50: at_most(1)},
            ),
        ),
        measures=(P50, P99),
        quick=True,
    ),
    Figure(
        name=f"answer to a write of {size(NBYTES)} until it was read at another replica",
        ours=work("replicas", "follow", nbytes=NBYTES),
        peers=(peer(_BARE, work("replicas", "insert", nbytes=NBYTES)),),
        measures=(P50, P99),
    ),
)
