"""InspectFunction beside the plain run of the same function: a real model, of 663 inner tensors."""

from __future__ import annotations

from benchmarks.figures import Figure, at_most, at_most_itself, peer, work
from benchmarks.samples import KEPT_SERVER, P50

TENSORS = 47
SETS = 100

FIGURES = (
    Figure(
        name="basic-pitch, all of its inner tensors kept",
        ours=work("inspected", "everything"),
        peers=(peer("plain run", work("inspected", "plain"), targets={P50: at_most(2.2)}),),
        measures=(P50,),
        quick=True,
    ),
    Figure(
        name=f"basic-pitch, {TENSORS} inner tensors kept again",
        ours=work("inspected", "again", tensors=TENSORS),
        peers=(peer("plain run", work("inspected", "plain"), targets={P50: at_most(1.2)}),),
        measures=(P50,),
        quick=True,
    ),
    Figure(
        name=f"basic-pitch, {TENSORS} inner tensors again, over the wire",
        ours=work("pitch", "again", tensors=TENSORS),
        peers=(peer("RunFunction", work("pitch", "plain")),),
        measures=(P50,),
    ),
    Figure(
        name=f"basic-pitch, summaries of {TENSORS} inner tensors again, over the wire",
        ours=work("pitch", "again", tensors=TENSORS, summarized=True),
        peers=(peer("RunFunction", work("pitch", "plain")),),
        measures=(P50,),
    ),
    Figure(
        name=f"basic-pitch, {SETS} different sets of probes",
        ours=work("pitch", "sets", count=SETS, tensors=TENSORS),
        peers=(
            peer(
                "RunFunction",
                work("pitch", "plain"),
                targets={KEPT_SERVER: at_most_itself(20, "MiB")},
            ),
        ),
        measures=(KEPT_SERVER,),
        calls=1,
        rounds=1,
    ),
)
