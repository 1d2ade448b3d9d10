"""`python -m benchmarks.picture [JSON [PNG]]`: the bulk and latency figures of a run, drawn.

Two panels: what a value of 256 MiB travels at on every side, and what a small call takes. Under
them the command, the machine and the date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .families.bulk import HEADLINE
from .families.functions import SMALL
from .figures import KIB, size

SOURCE = Path(".benchmarks/latest.json")
PICTURE = Path("docs/figures.png")

OURS, THEIRS = "#c2410c", "#94a3b8"

Bars = list[tuple[str, float, float]]
"""Name, value, and how far above it p99 is (0 where that is not shown)."""


def _figure(run: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = [each for each in run["figures"] if each["name"] == name and not each["problem"]]
    return found[0] if found else None


def bars(figure: Mapping[str, Any], measure: str, until: str | None = None) -> Bars:
    """Ours and each peer with this measure; `until` names a second one that it reaches up to."""

    def values(name: str) -> dict[str, float]:
        rows = [row for row in figure["rows"] if row["measure"] == name]
        found = {row["peer"]: row["theirs"] for row in rows}
        return {"varserve": rows[0]["ours"], **found} if rows else {}

    low, high = values(measure), values(until) if until else {}
    return [(name, value, max(0.0, high.get(name, value) - value)) for name, value in low.items()]


def caption(run: Mapping[str, Any]) -> str:
    """What was run, where and when."""
    machine = run["machine"]
    return (
        f"{run['command']}  ({run['date'][:10]}, commit {run['commit'] or 'unknown'})\n"
        f"{machine['cpus']} cores of {machine['cpu']}, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, Python {machine['python']}; everything on loopback"
    )


def _panel(axes: Any, title: str, groups: Sequence[tuple[str, Bars]], unit: str) -> None:
    at = 0.0
    ticks: list[tuple[float, str]] = []
    for heading, found in groups:
        axes.text(0, at - 0.8, heading, fontweight="bold", va="center")
        for name, value, more in found:
            axes.barh(
                at,
                value,
                xerr=[[0], [more]] if more else None,
                color=OURS if name == "varserve" else THEIRS,
                ecolor="#475569",
                capsize=2,
            )
            axes.text(value + more, at, f"  {value:.3g}", va="center", fontsize=8)
            ticks.append((at, name))
            at += 1
        at += 1.3
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw(run: Mapping[str, Any], path: Path) -> None:
    """The picture of one run. Raises ValueError when the run has none of its figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    large = size(HEADLINE)
    speeds = [
        (name, bars(figure, "speed"))
        for name in (f"read {large}", f"read {large}, fresh array", f"assign {large}")
        if (figure := _figure(run, name))
    ]
    times = [
        (name, bars(figure, "p50", until="p99"))
        for name in (f"read {size(4 * KIB)}", f"assign {size(4 * KIB)}", SMALL.name)
        if (figure := _figure(run, name))
    ]
    if not speeds and not times:
        raise ValueError("the run has neither the bulk figures nor those of small calls")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6))
    _panel(left, "Large values: more is better", speeds, "GB/s")
    _panel(right, "Small calls: less is better (line: to p99)", times, "ms, p50")
    figure.text(0.01, 0.01, caption(run), fontsize=8, color="#475569", va="bottom")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(source: str = str(SOURCE), picture: str = str(PICTURE)) -> None:
    """Draw a run's JSON as a PNG."""
    try:
        draw(json.loads(Path(source).read_text()), Path(picture))
    except (OSError, ValueError) as error:
        sys.exit(f"{source}: {error}")
    print(f"written to {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
