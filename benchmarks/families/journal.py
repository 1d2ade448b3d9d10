"""What it costs to keep every acknowledged write, beside the same service that keeps nothing."""

from __future__ import annotations

from benchmarks.figures import GIB, KIB, MIB, Figure, peer, size, work
from benchmarks.samples import CALLS, P50, P99, SECONDS, SPEED

LARGE = 256 * MIB
COMMITS, FEWER_COMMITS = 100_000, 5_000
STATE, SMALLER_STATE = GIB, 256 * MIB


def _writers(count: int) -> Figure:
    nbytes = 4 * KIB
    alone = peer("append and fdatasync", work("disk", "append", nbytes=nbytes))
    floor = (alone,) if count == 1 else ()
    return Figure(
        name=f"durable commits of {size(nbytes)}, {count} writer{'s' if count > 1 else ''}",
        ours=work("durable", "assign_aio", nbytes=nbytes),
        peers=(peer("without the journal", work("ours", "assign_aio", nbytes=nbytes)), *floor),
        measures=(CALLS, P50, P99),
        in_flight=count,
        quick=True,
    )


def _large(nbytes: int) -> Figure:
    return Figure(
        name=f"durable assign of {size(nbytes)}",
        ours=work("durable", "assign", nbytes=nbytes),
        peers=(
            peer("without the journal", work("ours", "assign", nbytes=nbytes)),
            peer("write and fdatasync", work("disk", "append", nbytes=nbytes)),
        ),
        measures=(SPEED,),
        nbytes=nbytes,
        needs=8 * nbytes,
        quick=True,
    )


def _ready(what: str, *, quick: bool, **kept: int) -> Figure:
    return Figure(
        name=f"start until ready, {what}",
        ours=work("starts", "ready", **kept),
        peers=(peer("nothing kept", work("starts", "ready")),),
        measures=(SECONDS,),
        calls=1,
        rounds=2,
        needs=3 * kept.get("nbytes", 0),
        quick=quick,
        full=not quick,
    )


FIGURES = (
    _writers(1),
    _writers(8),
    _large(LARGE),
    _ready(f"{COMMITS:,} small commits kept", commits=COMMITS, quick=False),
    _ready(f"{size(STATE)} of state kept", nbytes=STATE, quick=False),
    _ready(f"{FEWER_COMMITS:,} small commits kept", commits=FEWER_COMMITS, quick=True),
    _ready(f"{size(SMALLER_STATE)} of state kept", nbytes=SMALLER_STATE, quick=True),
)
