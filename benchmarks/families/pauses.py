"""What a running function notices of the commits of others, and a read of another model's load and
of large values on the lane's port.

A commit also takes the service's cores from the function. So the peer is the same load on another
model of the same service: what is left is the pause, the time under the model's lock.
"""

from __future__ import annotations

from benchmarks.figures import KIB, MIB, Figure, Work, at_most, at_most_more, peer, size, work
from benchmarks.model import BENCH, OTHER
from benchmarks.samples import P50, P99


def _beside(nbytes: int) -> Figure:
    def run(model: str) -> Work:
        return work("ours", "call", beside=work("ours", "assign", nbytes=nbytes, model=model))

    return Figure(
        name=f"RunFunction beside commits of {size(nbytes)}",
        ours=run(BENCH),
        peers=(
            peer(
                "beside commits elsewhere",
                run(OTHER),
                targets={P99: at_most_more(5, "ms")},
            ),
        ),
        measures=(P50, P99),
        round_seconds=2,
        needs=6 * nbytes,
        quick=nbytes > MIB,
    )


def _beside_loads(nbytes: int) -> Figure:
    read = {"nbytes": nbytes, "warm": True}
    return Figure(
        name=f"read {size(nbytes)} beside loads",
        ours=work("loads", "read", beside=work("loads", "load"), **read),
        peers=(peer("nobody loads", work("loads", "read", **read), targets={P99: at_most(5)}),),
        measures=(P50, P99),
        round_seconds=3,
        rounds=2,
        quick=True,
    )


def _beside_port(nbytes: int, large: int) -> Figure:
    read = {"nbytes": nbytes, "warm": True}
    other = work("ours", "read_by_port", nbytes=large)
    return Figure(
        name=f"read {size(nbytes)} beside reads of {size(large)} by the lane's port",
        ours=work("ours", "read", beside=other, **read),
        peers=(
            peer(
                "nobody beside it",
                work("ours", "read", **read),
                targets={P99: at_most_more(5, "ms")},
            ),
        ),
        measures=(P50, P99),
        round_seconds=2,
        needs=6 * large,
        quick=True,
    )


FIGURES = (
    _beside(4 * KIB),
    _beside(64 * MIB),
    _beside_loads(4 * KIB),
    _beside_port(4 * KIB, 256 * MIB),
)
