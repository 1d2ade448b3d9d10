"""What a figure is: works to be measured in turn, and what should come of it. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .samples import Measure

KIB, MIB, GIB = 2**10, 2**20, 2**30


_FEW = 2
"""So many rounds have those figures with `--targets` of which one takes seconds."""
_SHORT_SECONDS = 2.0
"""What such a round takes at least, of each side."""


@dataclass(frozen=True)
class Work:
    """What one side's client does, by the name of a method of that client and its arguments."""

    side: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    beside: Work | None = None
    """Goes on in a second client of the same side, unmeasured, while this one is measured."""


def work(side: str, name: str, *, beside: Work | None = None, **arguments: Any) -> Work:
    """A Work, its arguments as keywords."""
    return Work(side, name, arguments, beside)


@dataclass(frozen=True)
class Target:
    """A bound, and on what: the `ratio` of ours to the peer's, their `difference`, or `ours`."""

    sign: str
    bound: float
    of: str = "ratio"
    unit: str = ""

    def __str__(self) -> str:
        more = " more" if self.of == "difference" else ""
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.sign} {self.bound:g}{unit}{more}"

    def holds(self, ours: float, peer: float, ratio: float) -> bool:
        """Whether the target is met."""
        value = {"ratio": ratio, "difference": ours - peer, "ours": ours}[self.of]
        return value >= self.bound if self.sign == ">=" else value <= self.bound


def at_least(ratio: float) -> Target:
    """Ours is at least so many times the peer's."""
    return Target(">=", ratio)


def at_most(ratio: float) -> Target:
    """Ours is at most so many times the peer's."""
    return Target("<=", ratio)


def at_most_more(bound: float, unit: str) -> Target:
    """Ours is at most so much more than the peer's."""
    return Target("<=", bound, of="difference", unit=unit)


def at_most_itself(bound: float, unit: str) -> Target:
    """Ours is at most this, whatever the peer's is."""
    return Target("<=", bound, of="ours", unit=unit)


def _only(first: float) -> float:
    return first


@dataclass(frozen=True)
class Peer:
    """What ours is held against: a work, or what `combine` makes of the values of several."""

    name: str
    works: tuple[Work, ...]
    targets: Mapping[Measure, Target] = field(default_factory=dict)
    combine: Callable[..., float] = _only


def peer(name: str, *works: Work, **options: Any) -> Peer:
    """A Peer, its works in line."""
    return Peer(name, works, **options)


@dataclass(frozen=True)
class Figure:
    """Ours beside its peers.

    `nbytes` is what one call moves, all directions together. The table shows `measures` beside
    every peer, and `costs` beside the first one alone.
    """

    name: str
    ours: Work
    peers: tuple[Peer, ...]
    measures: tuple[Measure, ...]
    costs: tuple[Measure, ...] = ()
    nbytes: int = 0
    in_flight: int = 1
    round_seconds: float = 0.25
    """What a round of one side should take at least, in as many calls as that needs."""
    needs: int = 0
    """Bytes of memory that the sides take together, beside what they take anyway."""
    else_try: str = ""
    """What to do where there is not as much."""
    calls: int = 0
    """So many calls make a round; 0: as many as `round_seconds` takes."""
    rounds: int = 0
    """So many rounds are enough; 0: as many as the budget says."""
    quick: bool = False
    """Part of `--quick`."""
    repeats: bool = False
    """Not part of `--targets`: a figure of the family that is measured sooner has its target."""
    full: bool = True
    """Part of a run that is not quick."""

    @property
    def is_large(self) -> bool:
        """Whether it needs gigabytes of memory, of which its sides keep some until they end."""
        return self.needs > 2 * GIB

    @property
    def brief(self) -> bool:
        """Part of `--targets`."""
        return self.full and not self.repeats and any(each.targets for each in self.peers)

    def to_its_targets(self) -> Figure:
        """The same in shorter and fewer rounds, beside those peers alone that have a target."""
        long = self.round_seconds > 1 or self.is_large
        return replace(
            self,
            peers=tuple(each for each in self.peers if each.targets),
            costs=(),
            round_seconds=min(self.round_seconds, _SHORT_SECONDS),
            rounds=self.rounds or (_FEW if long else 0),
        )

    @property
    def works(self) -> list[Work]:
        """Every work once, ours first."""
        found = [self.ours]
        for each in self.peers:
            found.extend(one for one in each.works if one not in found)
        return found


def size(nbytes: int) -> str:
    """`4 KiB`, `256 MiB`."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if nbytes >= factor:
            return f"{nbytes / factor:g} {unit}"
    return f"{nbytes} B"
