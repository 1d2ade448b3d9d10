"""What `import varserve` costs a program that starts, and what TAB costs a person at a shell."""

from __future__ import annotations

from benchmarks.figures import Figure, at_most, at_most_itself, peer, work
from benchmarks.samples import P50

CLIENT = "import varserve; varserve.connect"

FIGURES = (
    Figure(
        name="import varserve, and its client",
        ours=work("imports", "load", code=CLIENT),
        peers=(
            peer(
                "import grpc, numpy",
                work("imports", "load", code="import grpc, numpy"),
                targets={P50: at_most(1.3)},
            ),
        ),
        measures=(P50,),
        quick=True,
    ),
    Figure(
        name="a shell completes a name of a model",
        ours=work("imports", "complete"),
        peers=(
            peer(
                "python -c pass",
                work("imports", "start", code="pass"),
                targets={P50: at_most_itself(100, "ms")},
            ),
            peer("python -c 'import click'", work("imports", "start", code="import click")),
        ),
        measures=(P50,),
        quick=True,
    ),
)
