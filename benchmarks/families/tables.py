"""What others' calls on a table notice while all of it is read, summarized or assigned.

The table is accessed sparsely, as an embedding is. The peer is the same call with nobody beside it.
"""

from __future__ import annotations

from benchmarks.figures import GIB, Figure, at_most_more, peer, size, work
from benchmarks.samples import P50, P99

TABLES = (GIB, 3 * GIB)
CALLS = {"look_up": "100 rows looked up", "write_row": "a row written"}
BESIDE = {"read_table": "reads", "summarize_table": "summaries", "assign_table": "assigns"}


def _beside(call: str, other: str, table: int) -> Figure:
    return Figure(
        name=f"{CALLS[call]} beside {BESIDE[other]} of {size(table)}",
        ours=work("ours", call, table=table, beside=work("ours", other, table=table)),
        peers=(
            peer(
                "nobody beside it",
                work("ours", call, table=table),
                targets={P99: at_most_more(5, "ms")},
            ),
        ),
        measures=(P50, P99),
        round_seconds=4,
        needs=4 * table,
        quick=table == GIB and call == "look_up",
    )


FIGURES = tuple(
    _beside(call, other, table) for table in TABLES for call in CALLS for other in BESIDE
)
