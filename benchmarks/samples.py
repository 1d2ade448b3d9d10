"""What was measured, and what is computed of it. Knows no processes and no figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Usage:
    """What a process took during a round: CPU seconds, its highest memory in bytes, and how much
    that was above what it had when the round began. `kept`: how much more it has at rest, within
    seconds after the round."""

    cpu: float = 0.0
    peak: int = 0
    added: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Round:
    """Some calls of one work: the seconds of each, and of all of them together."""

    times: Sequence[float]
    wall: float
    nbytes: int = 0
    """What one call moves."""
    client: Usage = field(default_factory=Usage)
    server: Usage = field(default_factory=Usage)

    @property
    def moved(self) -> float:
        """Gigabytes (10^9 bytes) of all calls."""
        return self.nbytes * len(self.times) / 1e9


Rounds = Sequence[Round]


@dataclass(frozen=True)
class Measure:
    """A number that is computed of rounds.

    `paired`: the ratio of two sides is the median of the rounds' ratios, so that what slows one
    round of all sides does not count. Otherwise the ratio of the numbers themselves: for what only
    many rounds together tell.
    """

    name: str
    unit: str
    compute: Callable[[Rounds], float]
    paired: bool = True
    show: str = ",.3g"

    def text(self, value: float) -> str:
        """The number as the table shows it."""
        if not math.isfinite(value):
            return "-"
        digits = ",.0f" if abs(value) >= 1000 else self.show
        return f"{value:{digits}} {self.unit}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values is not above (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def _pooled(rounds: Rounds) -> list[float]:
    return [seconds for each in rounds for seconds in each.times]


def _over(amount: float, moved: float) -> float:
    return amount / moved if moved else math.nan


P50 = Measure("p50", "ms", lambda rounds: statistics.median(_pooled(rounds)) * 1e3)
P99 = Measure("p99", "ms", lambda rounds: quantile(_pooled(rounds), 0.99) * 1e3, paired=False)
SECONDS = Measure("time", "s", lambda rounds: statistics.median(_pooled(rounds)))
CALLS = Measure(
    "calls/s",
    "/s",
    lambda rounds: statistics.median(len(each.times) / each.wall for each in rounds),
)
SPEED = Measure(
    "speed", "GB/s", lambda rounds: statistics.median(each.moved / each.wall for each in rounds)
)
CPU_CLIENT = Measure(
    "CPU, client",
    "s/GB",
    lambda rounds: _over(sum(e.client.cpu for e in rounds), sum(e.moved for e in rounds)),
    paired=False,
)
CPU_SERVER = Measure(
    "CPU, server",
    "s/GB",
    lambda rounds: _over(sum(e.server.cpu for e in rounds), sum(e.moved for e in rounds)),
    paired=False,
)
PEAK_CLIENT = Measure(
    "peak memory, client", "MiB", lambda rounds: max(e.client.peak for e in rounds) / 2**20, False
)
PEAK_SERVER = Measure(
    "peak memory, server", "MiB", lambda rounds: max(e.server.peak for e in rounds) / 2**20, False
)
ADDED_SERVER = Measure(
    "memory added, server",
    "MiB",
    lambda rounds: statistics.median(e.server.added for e in rounds) / 2**20,
    False,
)
KEPT_SERVER = Measure(
    "memory kept, server",
    "MiB",
    lambda rounds: max(e.server.kept for e in rounds) / 2**20,
    False,
)

MEASURES = (
    P50,
    P99,
    SECONDS,
    CALLS,
    SPEED,
    CPU_CLIENT,
    CPU_SERVER,
    PEAK_CLIENT,
    PEAK_SERVER,
    ADDED_SERVER,
    KEPT_SERVER,
)


def ratio(
    measure: Measure,
    ours: Rounds,
    peers: Sequence[Rounds],
    combine: Callable[..., float],
) -> float:
    """Ours to what the peers' numbers combine to; not a number where there is nothing to divide."""
    if measure.paired:
        pairs = zip(ours, *peers, strict=True)
        return statistics.median(
            _over(measure.compute([mine]), combine(*(measure.compute([one]) for one in others)))
            for mine, *others in pairs
        )
    return _over(measure.compute(ours), combine(*(measure.compute(each) for each in peers)))
