"""Small unary calls: what varserve adds to the round trip that gRPC takes anyway."""

from __future__ import annotations

from benchmarks.figures import KIB, Figure, at_most, peer, size, work
from benchmarks.samples import CALLS, P50, P99


def _call(name: str, nbytes: int, dtype: str = "float32") -> Figure:
    headline = (name, nbytes, dtype) == ("read", 4 * KIB, "float32")
    of = "" if dtype == "float32" else f" of {dtype}"
    return Figure(
        name=f"{name} {size(nbytes)}{of}",
        ours=work("ours", name, nbytes=nbytes, dtype=dtype),
        peers=(
            peer(
                f"grpc.aio echo of {size(nbytes)}",
                work("echo", "echo", nbytes=nbytes),
                targets={P50: at_most(1.3)} if headline else {},
            ),
        ),
        measures=(P50, P99, CALLS) if headline else (P50, P99),
        nbytes=nbytes,
        quick=nbytes == 4 * KIB,
    )


FIGURES = (
    _call("read", 4),
    _call("read", 4 * KIB),
    _call("read", 4 * KIB, "bfloat16"),
    _call("assign", 4),
    _call("assign", 4 * KIB),
)
