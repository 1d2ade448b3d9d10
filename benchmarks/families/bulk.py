"""Whole variables, read and assigned."""

from __future__ import annotations

from benchmarks.figures import GIB, MIB, Figure, at_least, peer, size, work
from benchmarks.samples import CPU_CLIENT, CPU_SERVER, P50, PEAK_CLIENT, PEAK_SERVER, SPEED

SIZES = (MIB, 64 * MIB, 256 * MIB, GIB)
HEADLINE = 256 * MIB
COSTS = (CPU_CLIENT, CPU_SERVER, PEAK_CLIENT, PEAK_SERVER)


def _read(nbytes: int) -> Figure:
    """Into memory that was touched before, on both sides."""
    headline = nbytes == HEADLINE
    return Figure(
        name=f"read {size(nbytes)}",
        ours=work("ours", "read", nbytes=nbytes, warm=True),
        peers=(
            peer(
                "TCP socket",
                work("tcp", "read", nbytes=nbytes),
                targets={SPEED: at_least(0.5)} if headline else {},
            ),
        ),
        measures=(SPEED,),
        costs=COSTS if headline else (),
        nbytes=nbytes,
        needs=6 * nbytes,
        quick=nbytes in (MIB, HEADLINE),
    )


def _read_fresh(nbytes: int) -> Figure:
    """Into an array of its own each time, as most programs read, on both sides."""
    return Figure(
        name=f"read {size(nbytes)}, fresh array",
        ours=work("ours", "read", nbytes=nbytes),
        peers=(
            peer(
                "into a warm array",
                work("ours", "read", nbytes=nbytes, warm=True),
                targets={SPEED: at_least(0.95)},
            ),
            peer("TCP socket, fresh buffer", work("tcp", "read", nbytes=nbytes, fresh=True)),
            peer(
                "unary TensorProto",
                work("tensor_proto", "read", nbytes=nbytes),
                targets={SPEED: at_least(10)},
            ),
            peer(
                "1 MiB protobuf chunks",
                work("chunks", "read", nbytes=nbytes),
                targets={SPEED: at_least(2)},
            ),
            peer(
                "Arrow Flight do_get",
                work("flight", "read", nbytes=nbytes),
                targets={SPEED: at_least(1.7)},
            ),
            peer("remote eager", work("eager", "read", nbytes=nbytes)),
        ),
        measures=(SPEED,),
        costs=COSTS,
        nbytes=nbytes,
        needs=6 * nbytes,
        quick=True,
    )


def _assign(nbytes: int) -> Figure:
    read = peer("its own read", work("ours", "read", nbytes=nbytes, warm=True))
    peers = [read, peer("TCP socket", work("tcp", "assign", nbytes=nbytes))]
    if nbytes == HEADLINE:
        peers = [
            peer(read.name, *read.works, targets={SPEED: at_least(0.8)}),
            *peers[1:],
            peer("unary TensorProto", work("tensor_proto", "assign", nbytes=nbytes)),
            peer("1 MiB protobuf chunks", work("chunks", "assign", nbytes=nbytes)),
            peer("Arrow Flight do_put", work("flight", "assign", nbytes=nbytes)),
            peer("remote eager", work("eager", "assign", nbytes=nbytes)),
        ]
    return Figure(
        name=f"assign {size(nbytes)}",
        ours=work("ours", "assign", nbytes=nbytes),
        peers=tuple(peers),
        measures=(SPEED,),
        costs=COSTS if nbytes == HEADLINE else (),
        nbytes=nbytes,
        needs=6 * nbytes,
        quick=nbytes in (MIB, HEADLINE),
    )


def _bfloat16(name: str) -> Figure:
    nbytes = HEADLINE
    return Figure(
        name=f"{name} {size(nbytes)} of bfloat16",
        ours=work("ours", name, nbytes=nbytes, dtype="bfloat16"),
        peers=(
            peer("the same of float32", work("ours", name, nbytes=nbytes)),
            peer("TCP socket", work("tcp", name, nbytes=nbytes)),
        ),
        measures=(SPEED,),
        nbytes=nbytes,
        needs=6 * nbytes,
    )


def _summarize(nbytes: int) -> Figure:
    """Statistics and hash, of which a kilobyte travels."""
    return Figure(
        name=f"summarize {size(nbytes)}",
        ours=work("ours", "summarize", nbytes=nbytes),
        peers=(
            peer("its own read, alone", work("ours", "read", nbytes=nbytes, warm=True)),
            peer("read and numpy", work("ours", "read_and_summarize", nbytes=nbytes)),
            peer("without the hash", work("ours", "summarize", nbytes=nbytes, content_hash=False)),
            peer(
                "numpy and hashlib, in process",
                work("in_process", "summarize", nbytes=nbytes),
                targets={SPEED: at_least(1.5)},
            ),
        ),
        measures=(SPEED,),
        costs=COSTS,
        nbytes=nbytes,
        needs=6 * nbytes,
        repeats=nbytes > HEADLINE,
    )


def _cast() -> Figure:
    return Figure(
        name=f"read {size(HEADLINE)} of float32 as bfloat16",
        ours=work("ours", "read", nbytes=HEADLINE, sent_as="bfloat16", warm=True),
        peers=(
            peer(
                "read, then cast by numpy",
                work("ours", "read_and_cast", nbytes=HEADLINE, to="bfloat16"),
            ),
            peer("not cast", work("ours", "read", nbytes=HEADLINE, warm=True)),
        ),
        measures=(P50,),
        nbytes=HEADLINE,
        needs=6 * HEADLINE,
    )


FIGURES = (
    *(_read(nbytes) for nbytes in SIZES),
    _read_fresh(HEADLINE),
    *(_assign(nbytes) for nbytes in SIZES),
    _bfloat16("read"),
    _bfloat16("assign"),
    _summarize(HEADLINE),
    _summarize(GIB),
    _cast(),
)
