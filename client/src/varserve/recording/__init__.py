"""Commits into the tools that teams look at: TensorBoard's event files and MLflow's runs.

Each takes an event of a watch and the summaries of what it changed; a step is a revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from varserve import Event, Summary

BINS = 30


class Recorder(Protocol):
    """Keeps what commits did, somewhere."""

    def record(self, event: Event, summaries: Mapping[str, Summary]) -> None:
        """Keep one commit. `summaries` are of the variables as the commit left them."""
        ...

    def close(self) -> None:
        """Write what is still in memory."""
        ...


def statistics(summary: Summary) -> dict[str, float]:
    """The scalars of a summary, by name; those that are not there are left out."""
    found = {
        "mean": summary.mean,
        "deviation": summary.standard_deviation,
        "norm": summary.norm,
        "min": summary.min,
        "max": summary.max,
        "nans": summary.nans,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def told(event: Event) -> str:
    """Who made a commit and why, in a line."""
    who = f" by {event.info.subject}" if event.info.subject else ""
    why = f": {event.info.message}" if event.info.message else ""
    return f"{event.info.kind}{who}{why}"
