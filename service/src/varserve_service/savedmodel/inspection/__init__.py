"""Looking into loaded functions while they run: TensorFlow's graphs, executed step by step."""

from __future__ import annotations

from .inspector import Insides, SavedInspector
from .printing import Printing
from .sources import Sources

__all__ = ["Insides", "Printing", "SavedInspector", "Sources"]
