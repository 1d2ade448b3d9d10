"""What others' calls on a table notice while all of it is read, summarized or assigned.

The table is accessed sparsely, as an embedding is. The peer is the same call with nobody beside it.
And what a function that scatters into it costs, beside the same rows written by a call.
"""

from __future__ import annotations

from benchmarks.figures import GIB, Figure, at_most, at_most_more, peer, size, work
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
        repeats=call != "look_up",
    )


def _trained(side: str, how: str) -> Figure:
    rows = {"table": GIB, "count": 8}
    return Figure(
        name=f"8 rows of {size(GIB)} trained by a function{how}",
        ours=work(side, "train_rows", **rows),
        peers=(
            peer("8 rows written", work(side, "write_rows", **rows), targets={P50: at_most(2)}),
        ),
        measures=(P50, P99),
        needs=4 * GIB,
        quick=side == "durable",
    )


FIGURES = (
    *(_beside(call, other, table) for table in TABLES for call in CALLS for other in BESIDE),
    _trained("ours", ""),
    _trained("durable", ", durably"),
)
