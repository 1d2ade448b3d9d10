"""The lane: large values beside gRPC, as memory on a Unix socket or as bytes on a TCP port.

A call that was authenticated, admitted and authorized is given a ticket; who comes with it gets, or
gives, what the call is about. Knows sealed memory and sockets; knows nothing of single RPCs.
"""

from .memories import Lent, Received, lend_memory
from .port import MOST_PEERS, Port, Receiving, Sending
from .socket import Deposit, Lane, Loan
from .tickets import Pipe

__all__ = [
    "MOST_PEERS",
    "Deposit",
    "Lane",
    "Lent",
    "Loan",
    "Pipe",
    "Port",
    "Received",
    "Receiving",
    "Sending",
    "lend_memory",
]
