"""Commits on disk: SQLite for the log and small values, safetensors files for large ones.

Knows the core's port, the disk, and how the contract lays out strings; no gRPC, no TensorFlow.
"""

from .export import save_safetensors
from .journal import SqliteJournal
from .options import JournalOptions
from .state_directory import StateDirectory

__all__ = ["JournalOptions", "SqliteJournal", "StateDirectory", "save_safetensors"]
