"""Read, modify, write: again until nobody came in between.

Knows the calls; knows no handles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy.typing as npt

from varserve._client.errors import InvalidRequest, RevisionMismatch
from varserve._client.handles.cache import ModelCache, part_of, prepared
from varserve._client.operations.calls import AssignOperation, Conditions, Write, new_request_id
from varserve._client.transport.drivers import Budget, Op, Sleep
from varserve._client.values.regions import Index, Part, Rows
from varserve._client.values.results import Commit, Snapshot

_LONGEST_PAUSE = 0.1


def update(
    cache: ModelCache,
    regions: Mapping[str, Index | Rows | Part | None],
    change: Callable[[Snapshot], Mapping[str, npt.ArrayLike] | None],
    budget: Budget,
    message: str,
) -> Op[Commit | None]:
    """What `change` makes of a snapshot, written back if what it saw is still so; else anew.

    `regions`: names or paths of the variables, each with its region or None. None when `change`
    gives nothing. Raises RevisionMismatch when others were faster until the time was over.
    """
    if not regions:
        raise InvalidRequest("expected the name of at least one variable")
    pause = 0.001
    while True:
        yield from cache.fresh(budget)
        specs = {name: cache.variables.find(name) for name in regions}
        parts = {name: part_of(specs[name], region) for name, region in regions.items()}
        reads = {name: (specs[name].path, part) for name, part in parts.items()}
        snapshot = yield from cache.read_many(reads, budget)
        if cache.stale and budget.remaining():
            continue  # of another epoch: the parts are of the sizes of the last one
        values = change(snapshot)
        if not values:
            return None
        # What was read and is not written must not have moved either: only the model can tell.
        all_written = values.keys() >= regions.keys()
        writes = []
        for name, value in values.items():
            if name not in regions:
                raise InvalidRequest(f"expected values of what was read alone, found {name!r}")
            revision = snapshot.revisions[name] if all_written else None
            write = Write(name, value, AssignOperation.SET, parts[name], revision)
            writes.append(prepared(specs[name], write))
        conditions = Conditions(
            new_request_id(),
            None if all_written else snapshot.revision,
            snapshot.epoch,
            message,
        )
        try:
            if len(writes) == 1:
                return (yield from cache.write(writes[0], budget, conditions))
            return (yield from cache.write_many(writes, budget, conditions))
        except RevisionMismatch:
            if pause >= budget.remaining():
                raise
        yield Sleep(random.uniform(0, pause))
        pause = min(_LONGEST_PAUSE, 2 * pause)
