"""Looking into loaded functions while they run: TensorFlow's graphs, executed step by step."""

from __future__ import annotations

from .inspector import Insides, SavedInspector
from .sources import Sources

__all__ = ["Insides", "SavedInspector", "Sources"]
