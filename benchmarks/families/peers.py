"""Servings that only predict, asked for the nearest thing: state as an answer, a small function."""

from __future__ import annotations

from benchmarks.figures import Figure, peer, size, work
from benchmarks.model import PEER_STATE
from benchmarks.samples import CALLS, P50, P99, SPEED

PEERS = {"PyTriton": "pytriton", "MLServer": "mlserver"}
IN_FLIGHT = 16

FIGURES = (
    Figure(
        name=f"read {size(PEER_STATE)}",
        ours=work("ours", "read", nbytes=PEER_STATE),
        peers=tuple(
            peer(name, work(side, "read", nbytes=PEER_STATE)) for name, side in PEERS.items()
        ),
        measures=(SPEED,),
        nbytes=PEER_STATE,
        quick=True,
    ),
    Figure(
        name="a small function",
        ours=work("ours", "call"),
        peers=tuple(peer(name, work(side, "call")) for name, side in PEERS.items()),
        measures=(P50, P99),
        quick=True,
    ),
    Figure(
        name=f"a small function, {IN_FLIGHT} in flight",
        ours=work("ours", "call_aio"),
        peers=tuple(peer(name, work(side, "call_aio")) for name, side in PEERS.items()),
        measures=(CALLS,),
        in_flight=IN_FLIGHT,
        quick=True,
    ),
)
