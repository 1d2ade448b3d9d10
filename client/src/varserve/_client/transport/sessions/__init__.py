"""Sessions here: many small calls on one stream, of threads or of tasks.

Owns what waits for an answer, and what waits to be sent: one message carries whatever has gathered.
Knows nothing of retries, and of a call its method and the bytes of its request.
"""

from typing import TYPE_CHECKING

from varserve._late import attributes

from .asked import MAX_REQUEST_BYTES, Alone, Asked, Late, Lost

if TYPE_CHECKING:
    from .asynchronous import AsyncSession
    from .base import response_of
    from .blocking import SyncSession
else:
    # By the first session: there is none before small calls come often.
    __getattr__ = attributes(
        __name__,
        {".asynchronous": "AsyncSession", ".base": "response_of", ".blocking": "SyncSession"},
    )

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
