"""The two ways to run an operation: in the calling thread, or as a coroutine of an event loop.

Owns the channel. Knows nothing of what the calls mean.
"""

from .asynchronous import Async
from .blocking import Sync

__all__ = ["Async", "Sync"]
