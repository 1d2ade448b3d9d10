"""The figures, declared: one module for each family. Nothing here measures anything."""

from __future__ import annotations

from benchmarks.figures import Figure

from . import (
    bulk,
    calls,
    functions,
    imports,
    journal,
    memory,
    parts,
    pauses,
    peers,
    watching,
)

FAMILIES: dict[str, tuple[Figure, ...]] = {
    "bulk": bulk.FIGURES,
    "parts": parts.FIGURES,
    "calls": calls.FIGURES,
    "functions": functions.FIGURES,
    "watching": watching.FIGURES,
    "pauses": pauses.FIGURES,
    "journal": journal.FIGURES,
    "memory": memory.FIGURES,
    "imports": imports.FIGURES,
    "peers": peers.FIGURES,
}
BY_DEFAULT = tuple(name for name in FAMILIES if name != "peers")
"""`peers` needs environments of its own, which `make bench-peers` makes."""
