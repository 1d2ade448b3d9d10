"""From a commit until those who watch have it."""

from __future__ import annotations

from benchmarks.figures import Figure, at_most, peer, work
from benchmarks.samples import P50, P99, PEAK_SERVER

MANY = (100, 1000)


def _watched(watchers: int) -> Figure:
    targets = {P50: at_most(2)} if watchers == MANY[0] else {}
    alone = peer("one watcher", work("ours", "watched_aio", watchers=1), targets=targets)
    commit = peer("the commit alone", work("ours", "watched_aio", watchers=0))
    return Figure(
        name=f"commit until {watchers:,} watcher{'s have' if watchers > 1 else ' has'} it",
        ours=work("ours", "watched_aio", watchers=watchers),
        peers=(commit, alone) if watchers > 1 else (commit,),
        measures=(P50, P99),
        costs=(PEAK_SERVER,) if watchers > 1 else (),
        quick=watchers != MANY[-1],
    )


FIGURES = tuple(_watched(watchers) for watchers in (1, *MANY))
