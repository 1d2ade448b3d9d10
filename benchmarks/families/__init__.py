"""The figures, declared: one module for each family. Nothing here measures anything."""

from __future__ import annotations

from benchmarks.figures import Figure

from . import (
    bulk,
    calls,
    functions,
    imports,
    inspecting,
    journal,
    lane,
    limits,
    memory,
    parts,
    pauses,
    replicas,
    tables,
    watching,
)

FAMILIES: dict[str, tuple[Figure, ...]] = {
    "memory": memory.FIGURES,
    "journal": journal.FIGURES,
    "replicas": replicas.FIGURES,
    "lane": lane.FIGURES,
    "bulk": bulk.FIGURES,
    "tables": tables.FIGURES,
    "parts": parts.FIGURES,
    "calls": calls.FIGURES,
    "functions": functions.FIGURES,
    "inspecting": inspecting.FIGURES,
    "watching": watching.FIGURES,
    "pauses": pauses.FIGURES,
    "imports": imports.FIGURES,
    "limits": limits.FIGURES,
}
