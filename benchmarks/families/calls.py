"""Small calls, beside the round trip that one call of gRPC takes: they share a connection."""

from __future__ import annotations

from benchmarks.figures import KIB, Figure, at_least, at_most, peer, size, work
from benchmarks.samples import CALLS, P50, P99

# Of the p50 of an echo.
_TARGETS = {"read": 0.8, "assign": 2.0}
IN_FLIGHT = 32


def _call(name: str, nbytes: int, dtype: str = "float32") -> Figure:
    headline = (nbytes, dtype) == (4 * KIB, "float32")
    through = peer("through gRPC", work("ours", name, nbytes=nbytes, lane=False))
    of = "" if dtype == "float32" else f" of {dtype}"
    return Figure(
        name=f"{name} {size(nbytes)}{of}",
        ours=work("ours", name, nbytes=nbytes, dtype=dtype),
        peers=(
            peer(
                f"grpc.aio echo of {size(nbytes)}",
                work("echo", "echo", nbytes=nbytes),
                targets={P50: at_most(_TARGETS[name])} if headline else {},
            ),
            *((through,) if headline else ()),
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
    Figure(
        name=f"read {size(4 * KIB)}, {IN_FLIGHT} in flight",
        ours=work("ours", "read_aio", nbytes=4 * KIB),
        peers=(
            peer(
                f"grpc.aio echo of {size(4 * KIB)}",
                work("echo", "echo_aio", nbytes=4 * KIB),
                targets={CALLS: at_least(4)},
            ),
            peer("through gRPC", work("ours", "read_aio", nbytes=4 * KIB, lane=False)),
        ),
        measures=(CALLS, P99),
        in_flight=IN_FLIGHT,
        quick=True,
    ),
)
