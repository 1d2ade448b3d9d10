"""Sessions here: many small calls on one stream, of threads or of tasks.

Owns what waits for an answer, and what waits to be sent: one message carries whatever has gathered.
Knows nothing of retries, and of a call its method and the bytes of its request.
"""

from .asynchronous import AsyncSession
from .base import MAX_REQUEST_BYTES, Alone, Asked, Late, Lost, response_of
from .blocking import SyncSession

__all__ = [
    "MAX_REQUEST_BYTES",
    "Alone",
    "Asked",
    "AsyncSession",
    "Late",
    "Lost",
    "SyncSession",
    "response_of",
]
