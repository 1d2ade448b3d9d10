"""The lane: the memory of large values, handed over on a Unix socket beside gRPC.

A call that was authenticated, admitted and authorized is given a ticket; who comes with it gets, or
gives, what the call is about. Knows sealed memory and sockets; knows nothing of single RPCs.
"""

from .memories import Lent, Received, lend_memory
from .socket import MOST_CONNECTIONS, Deposit, Lane, Loan

__all__ = ["MOST_CONNECTIONS", "Deposit", "Lane", "Lent", "Loan", "Received", "lend_memory"]
