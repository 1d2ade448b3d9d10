"""Tickets: what a call gives its client, to come to the lane with once."""

from __future__ import annotations

import secrets

from varserve import lane
from varserve.v1 import lane_pb2


class Ticket:
    """One ticket or several, and the proof that they are answered with."""

    def __init__(self, count: int = 1) -> None:
        """`count`: of tickets, each for a connection of its own."""
        self.tickets = [secrets.token_bytes(lane.TICKET_BYTES) for _ in range(count)]
        self.ticket = self.tickets[0]
        self.proof = secrets.token_bytes(lane.TICKET_BYTES)

    @property
    def message(self) -> lane_pb2.LaneTicket:
        """The ticket as the client is told it."""
        return lane_pb2.LaneTicket(
            ticket=self.ticket, proof=self.proof, further_tickets=self.tickets[1:]
        )
