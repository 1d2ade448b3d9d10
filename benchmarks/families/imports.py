"""What `import varserve` costs a program that starts."""

from __future__ import annotations

from benchmarks.figures import Figure, at_most, peer, work
from benchmarks.samples import P50

FIGURES = (
    Figure(
        name="import varserve",
        ours=work("imports", "load", modules="varserve"),
        peers=(
            peer(
                "import grpc, numpy",
                work("imports", "load", modules="grpc, numpy"),
                targets={P50: at_most(1.5)},
            ),
        ),
        measures=(P50,),
        quick=True,
    ),
)
