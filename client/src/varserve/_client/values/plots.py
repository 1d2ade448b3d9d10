"""Pictures by matplotlib, which varserve does not install."""

from __future__ import annotations

from typing import Any

from .summaries import Summary


def axes(given: Any) -> Any:
    """The axes to draw on: the given ones, else new ones of pyplot.

    Raises ModuleNotFoundError that says what to install.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "plot() needs matplotlib, not installed here: pip install matplotlib"
        ) from None
    return pyplot.subplots()[1] if given is None else given


def histogram(of: Summary, on: Any) -> Any:
    """Draw how a value is distributed."""
    if of.histogram is not None:
        on.stairs(of.histogram.counts, of.histogram.edges, fill=True)
    on.set_title(f"{of.variable}, revision {of.variable_revision}")
    on.set_xlabel(f"mean {of.mean:.4g}, standard deviation {of.standard_deviation:.4g}")
    on.set_ylabel("elements")
    return on
