"""Values that go as memory on one host, and not as bytes."""

from __future__ import annotations

from benchmarks.figures import (
    GIB,
    MIB,
    Figure,
    Work,
    at_least,
    at_most,
    at_most_itself,
    at_most_more,
    peer,
    size,
    work,
)
from benchmarks.model import BENCH, OTHER
from benchmarks.samples import CPU_CLIENT, CPU_SERVER, P50, P99, PEAK_SERVER, SPEED

HEADLINE, LARGEST = 256 * MIB, 3 * GIB


def _mapped(nbytes: int) -> Work:
    return work("ours", "read_mapped", nbytes=nbytes)


MAPPED = Figure(
    name=f"read {size(HEADLINE)}, mapped",
    ours=_mapped(HEADLINE),
    peers=(
        peer(
            "TCP socket",
            work("tcp", "read", nbytes=HEADLINE),
            targets={P50: at_most_itself(2, "ms")},
        ),
    ),
    measures=(P50,),
    costs=(PEAK_SERVER,),
    nbytes=HEADLINE,
    needs=6 * HEADLINE,
    quick=True,
)
MAPPED_LARGEST = Figure(
    name=f"read {size(LARGEST)}, mapped",
    ours=_mapped(LARGEST),
    peers=(peer(f"{size(HEADLINE)}, mapped", _mapped(HEADLINE), targets={P50: at_most(1.2)}),),
    measures=(P50,),
    nbytes=LARGEST,
    needs=3 * LARGEST,
)
COPIED = Figure(
    name=f"read {size(HEADLINE)} by the lane",
    ours=work("ours", "read_by_lane", nbytes=HEADLINE),
    peers=(
        peer("TCP socket", work("tcp", "read", nbytes=HEADLINE), targets={SPEED: at_least(2)}),
        peer("through gRPC", work("ours", "read", nbytes=HEADLINE, warm=True)),
    ),
    measures=(SPEED,),
    costs=(CPU_CLIENT, CPU_SERVER),
    nbytes=HEADLINE,
    needs=6 * HEADLINE,
    quick=True,
)
READ_ANEW = Figure(
    name=f"read {size(HEADLINE)} by the lane, after each assign",
    ours=work("ours", "read_new_by_lane", nbytes=HEADLINE),
    peers=(peer("through gRPC", work("ours", "read", nbytes=HEADLINE, warm=True)),),
    measures=(P50,),
    nbytes=HEADLINE,
    needs=8 * HEADLINE,
)
HANDED_OVER = Figure(
    name=f"assign a buffer of {size(HEADLINE)}",
    ours=work("ours", "assign_buffer", nbytes=HEADLINE),
    peers=(
        peer(
            "TCP socket",
            work("tcp", "assign", nbytes=HEADLINE),
            targets={P50: at_most_itself(20, "ms")},
        ),
    ),
    measures=(P50,),
    nbytes=HEADLINE,
    needs=8 * HEADLINE,
    quick=True,
)
ASSIGNED = Figure(
    name=f"assign {size(HEADLINE)} by the lane",
    ours=work("ours", "assign_by_lane", nbytes=HEADLINE),
    peers=(
        peer("TCP socket", work("tcp", "assign", nbytes=HEADLINE)),
        peer("through gRPC", work("ours", "assign", nbytes=HEADLINE)),
    ),
    measures=(SPEED,),
    costs=(CPU_CLIENT, CPU_SERVER),
    nbytes=HEADLINE,
    needs=8 * HEADLINE,
    quick=True,
)


def _pause(nbytes: int) -> Figure:
    """As in `pauses`: what a running function notices of commits."""

    def run(model: str) -> Work:
        beside = work("ours", "assign_by_lane", nbytes=nbytes, model=model)
        return work("ours", "call", beside=beside)

    return Figure(
        name=f"RunFunction beside commits of {size(nbytes)} by the lane",
        ours=run(BENCH),
        peers=(peer("beside commits elsewhere", run(OTHER), targets={P99: at_most_more(5, "ms")}),),
        measures=(P50, P99),
        round_seconds=2,
        needs=6 * nbytes,
    )


def _by_port(name: str, *, encrypted: bool) -> Figure:
    side, socket = ("encrypted", "tls") if encrypted else ("ours", "tcp")
    ours = work(side, f"{name}_by_port", nbytes=HEADLINE)
    under = " under TLS" if encrypted else ""
    beside = peer(
        f"{socket.upper()} socket",
        work(socket, name, nbytes=HEADLINE),
        targets={SPEED: at_least(0.75)},
    )
    flight = peer(
        "Arrow Flight", work("flight", name, nbytes=HEADLINE), targets={SPEED: at_least(2)}
    )
    return Figure(
        name=f"{name} {size(HEADLINE)} by the lane's port{under}",
        ours=ours,
        peers=(beside,) if encrypted else (beside, flight),
        measures=(SPEED,),
        costs=(CPU_CLIENT, CPU_SERVER),
        nbytes=HEADLINE,
        needs=6 * HEADLINE,
        quick=True,
    )


FIGURES = (
    *(_by_port(name, encrypted=tls) for tls in (False, True) for name in ("read", "assign")),
    MAPPED,
    MAPPED_LARGEST,
    COPIED,
    READ_ANEW,
    HANDED_OVER,
    ASSIGNED,
    _pause(64 * MIB),
)
