"""What the service takes to send a large variable, and what it keeps after one was assigned."""

from __future__ import annotations

from benchmarks.figures import GIB, Figure, at_most_itself, peer, size, work
from benchmarks.samples import ADDED_SERVER, KEPT_SERVER

FIGURES = (
    Figure(
        name=f"{size(GIB)} streams out",
        ours=work("ours", "read", nbytes=GIB),
        peers=(
            peer(
                "Arrow Flight do_get",
                work("flight", "read", nbytes=GIB),
                targets={ADDED_SERVER: at_most_itself(64, "MiB")},
            ),
        ),
        measures=(ADDED_SERVER,),
        nbytes=GIB,
        needs=5 * GIB,
    ),
    Figure(
        name=f"{size(GIB)} is assigned again, and the service is at rest",
        ours=work("ours", "assign", nbytes=GIB),
        peers=(
            peer(
                "Arrow Flight do_put",
                work("flight", "assign", nbytes=GIB),
                targets={KEPT_SERVER: at_most_itself(64, "MiB")},
            ),
        ),
        measures=(KEPT_SERVER,),
        nbytes=GIB,
        needs=6 * GIB,
    ),
    Figure(
        name=f"a table of {size(GIB)} is assigned again, and the service is at rest",
        ours=work("ours", "assign_again", table=GIB),
        peers=(
            peer(
                "Arrow Flight do_put",
                work("flight", "assign", nbytes=GIB),
                targets={
                    KEPT_SERVER: at_most_itself(64, "MiB"),
                    ADDED_SERVER: at_most_itself(1152, "MiB"),
                },
            ),
        ),
        measures=(KEPT_SERVER, ADDED_SERVER),
        nbytes=GIB,
        needs=6 * GIB,
    ),
    Figure(
        name=f"{size(GIB)} is added to a table of {size(GIB)}, and the service is at rest",
        ours=work("ours", "add_to_table", table=GIB),
        peers=(
            peer(
                "Arrow Flight do_put",
                work("flight", "assign", nbytes=GIB),
                # What is added stays until the sum is there.
                targets={
                    KEPT_SERVER: at_most_itself(64, "MiB"),
                    ADDED_SERVER: at_most_itself(2176, "MiB"),
                },
            ),
        ),
        measures=(KEPT_SERVER, ADDED_SERVER),
        nbytes=GIB,
        needs=7 * GIB,
    ),
)
