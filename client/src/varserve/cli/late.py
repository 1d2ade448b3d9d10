"""Modules that are imported when something of them is first used.

A shell that completes a command imports every command, and a person waits for it: numpy, gRPC and
what they bring would take too long. To type checkers these are plain imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class late:
    """A module by its name: `np = late("numpy")`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
