"""Rows of a large table, and a snapshot of many small variables."""

from __future__ import annotations

from benchmarks.figures import GIB, Figure, at_most, peer, size, work
from benchmarks.model import ALONE_ROWS as ROWS
from benchmarks.model import SNAPSHOT, TABLE_ROW
from benchmarks.samples import P50, P99

TABLE = 4 * GIB


def table(nbytes: int) -> Figure:
    """Rows of a table of so many bytes."""
    return Figure(
        name=f"{ROWS} rows of a {size(nbytes)} table",
        ours=work("ours", "rows", table=nbytes, count=ROWS),
        peers=(
            peer(
                "the same rows alone",
                work("ours", "rows_alone"),
                targets={P50: at_most(2)},
            ),
            peer("TCP socket", work("tcp", "read", nbytes=ROWS * TABLE_ROW * 4)),
        ),
        measures=(P50, P99),
        nbytes=ROWS * TABLE_ROW * 4,
        # The table, and once more while its filling can still be taken back.
        needs=2 * nbytes + GIB,
        else_try="--table 1 takes a table of 1 GiB",
        quick=True,
    )


FIGURES = (
    table(TABLE),
    Figure(
        name=f"snapshot of {SNAPSHOT:,} variables of 1 KiB",
        ours=work("ours", "snapshot"),
        peers=(
            peer("unary TensorProto, all in one", work("tensor_proto", "snapshot")),
            peer("an echo of 1 KiB for each", work("echo", "echo", nbytes=1024, times=SNAPSHOT)),
        ),
        measures=(P50,),
        nbytes=SNAPSHOT * 1024,
        quick=True,
    ),
    Figure(
        name=f"assign {SNAPSHOT:,} variables of 1 KiB as one commit",
        ours=work("ours", "assign_many"),
        peers=(peer("their snapshot", work("ours", "snapshot")),),
        measures=(P50,),
        nbytes=SNAPSHOT * 1024,
    ),
)
