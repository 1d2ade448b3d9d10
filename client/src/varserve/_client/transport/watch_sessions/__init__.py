"""Watches that share a stream: those of one client, of threads or of tasks.

Owns the shared stream, which of its messages are for which watch, and when a watch is better a call
of its own: the first one, and where something speaks against sharing. Knows nothing of what watches
show, and nothing of how one is resumed.
"""

from .asynchronous import AsyncWatches
from .base import Watches
from .blocking import SyncWatches

__all__ = ["AsyncWatches", "SyncWatches", "Watches"]
