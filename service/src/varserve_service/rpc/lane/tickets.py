"""Tickets: what a call gives its client, to come to the lane with once."""

from __future__ import annotations

import secrets

from varserve import lane
from varserve.v1 import lane_pb2


class Ticket:
    """One ticket, and the proof that it is answered with."""

    def __init__(self) -> None:
        self.ticket = secrets.token_bytes(lane.TICKET_BYTES)
        self.proof = secrets.token_bytes(lane.TICKET_BYTES)

    @property
    def message(self) -> lane_pb2.LaneTicket:
        """The ticket as the client is told it."""
        return lane_pb2.LaneTicket(ticket=self.ticket, proof=self.proof)
