"""RunFunction: small, large, and many at once."""

from __future__ import annotations

from benchmarks.figures import MIB, Figure, at_least, at_most, peer, size, work
from benchmarks.model import STEP
from benchmarks.samples import CALLS, P50, P99, SPEED

IN_PROCESS = 1.5
"""What the function itself may take, as a multiple of what it takes in process."""
LARGE = 16 * MIB

SMALL = Figure(
    name="RunFunction, small",
    ours=work("ours", "call"),
    peers=(
        peer(
            f"echo + {IN_PROCESS:g}x in process",
            work("echo", "echo", nbytes=64),
            work("in_process", "call"),
            targets={P50: at_most(0.9)},
            combine=lambda echo, call: echo + IN_PROCESS * call,
        ),
        peer("grpc.aio echo", work("echo", "echo", nbytes=64)),
        peer("through gRPC", work("ours", "call", lane=False)),
        peer("unary TensorProto", work("tensor_proto", "call")),
        peer("remote eager", work("eager", "call")),
    ),
    measures=(P50, P99),
    quick=True,
)


def _at_once(in_flight: int) -> Figure:
    return Figure(
        name=f"RunFunction, small, {in_flight} in flight",
        ours=work("ours", "call_aio"),
        peers=(
            peer(
                "grpc.aio echo",
                work("echo", "echo_aio", nbytes=64),
                targets={CALLS: at_least(0.5)} if in_flight == 32 else {},
            ),
            peer("unary TensorProto", work("tensor_proto", "call")),
        ),
        measures=(CALLS, P99) if in_flight > 1 else (CALLS,),
        in_flight=in_flight,
        quick=in_flight == 32,
    )


def _batched(in_flight: int) -> Figure:
    return Figure(
        name=f"RunFunction, small, {in_flight} in flight, batched",
        ours=work("batched", "call_aio"),
        peers=(
            peer(
                "grpc.aio echo",
                work("echo", "echo_aio", nbytes=64),
                targets={CALLS: at_least(1.2)} if in_flight == 32 else {},
            ),
            peer("without batching", work("ours", "call_aio")),
        ),
        measures=(CALLS, P99),
        in_flight=in_flight,
        quick=in_flight == 32,
    )


FIGURES = (
    SMALL,
    *(_at_once(in_flight) for in_flight in (1, 8, 32)),
    *(_batched(in_flight) for in_flight in (8, 32)),
    Figure(
        name=f"RunFunction that writes {STEP} variables of 1 KiB",
        ours=work("ours", "step"),
        peers=(peer("in process", work("in_process", "step")),),
        measures=(P50, P99),
    ),
    Figure(
        name=f"RunFunction, {size(LARGE)} in and out",
        ours=work("ours", "transform", nbytes=LARGE),
        peers=(
            peer("TCP socket, there and back", work("tcp", "transform", nbytes=LARGE)),
            peer("in process", work("in_process", "transform", nbytes=LARGE)),
            peer("unary TensorProto", work("tensor_proto", "transform", nbytes=LARGE)),
            peer("remote eager", work("eager", "transform", nbytes=LARGE)),
        ),
        measures=(SPEED,),
        nbytes=2 * LARGE,
        quick=True,
    ),
)
