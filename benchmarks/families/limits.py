"""How far varserve is from gRPC itself: the same calls and bytes in C++ (`make bench-peers`).

A client in Python is bounded by Python's gRPC whatever the server is made of, so that both are
here: a server in C++ asked by Python, and by a client in C++.
"""

from __future__ import annotations

from benchmarks.figures import KIB, MIB, Figure, peer, size, work
from benchmarks.samples import CPU_CLIENT, P50, SPEED

SMALL, LARGE, IN_FLIGHT = 4 * KIB, 256 * MIB, 32
_TIMES = 50
"""Calls of the client in C++ for each line on its pipe."""
_MANY = 50 * IN_FLIGHT


def _one_of_them(milliseconds: float) -> float:
    return milliseconds / _TIMES


FIGURES = (
    Figure(
        name=f"read {size(SMALL)}",
        ours=work("ours", "read", nbytes=SMALL),
        peers=(
            peer("server in C++, client in Python", work("cpp", "echo", nbytes=SMALL)),
            peer(
                "both in C++",
                work("cpp", "native_echo", nbytes=SMALL, times=_TIMES, in_flight=1),
                combine=_one_of_them,
            ),
            peer(
                "a message on a stream, both in C++",
                work("cpp", "native_stream", nbytes=SMALL, times=_TIMES),
                combine=_one_of_them,
            ),
        ),
        measures=(P50,),
        nbytes=SMALL,
        quick=True,
    ),
    Figure(
        name=f"{_MANY:,} reads of {size(SMALL)}, {IN_FLIGHT} in flight",
        ours=work("ours", "read_many_aio", nbytes=SMALL, times=_MANY, in_flight=IN_FLIGHT),
        peers=(
            peer(
                "server in C++, client in Python",
                work("cpp", "echo_many_aio", nbytes=SMALL, times=_MANY, in_flight=IN_FLIGHT),
            ),
            peer(
                "both in C++",
                work("cpp", "native_echo", nbytes=SMALL, times=_MANY, in_flight=IN_FLIGHT),
            ),
        ),
        measures=(P50,),
        nbytes=SMALL,
        quick=True,
    ),
    Figure(
        name=f"read {size(LARGE)}",
        ours=work("ours", "read", nbytes=LARGE, warm=True),
        peers=(
            peer("server in C++, client in Python", work("cpp", "read", nbytes=LARGE)),
            peer("both in C++", work("cpp", "native_read", nbytes=LARGE)),
            peer("TCP socket", work("tcp", "read", nbytes=LARGE)),
        ),
        measures=(SPEED,),
        costs=(CPU_CLIENT,),
        nbytes=LARGE,
        needs=6 * LARGE,
        quick=True,
    ),
)
