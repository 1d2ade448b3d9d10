"""What the service takes to send a large variable, beside the variable itself."""

from __future__ import annotations

from benchmarks.figures import GIB, Figure, at_most_itself, peer, size, work
from benchmarks.samples import ADDED_SERVER

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
)
