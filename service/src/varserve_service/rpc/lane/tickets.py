"""Tickets: what a call gives its client, to come to the lane with once."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

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


class Pipe(Ticket):
    """A connection for whoever comes with the ticket.

    `connected` is given the service's end, a socket that does not block, which is its own from then
    on.
    """

    def __init__(self, subject: str, connected: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.subject = subject
        self.connected = connected
        self.ended = asyncio.Event()
