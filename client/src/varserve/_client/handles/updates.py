"""Read, modify, write: repeated until no other write came in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy.typing as npt

from varserve._client.errors import InvalidRequest, RevisionMismatch
from varserve._client.operations.reads import Read
from varserve._client.transport.calls import Budget, Op, Sleep
from varserve._client.transport.retries import CONTEND
from varserve._client.values.assign_operation import AssignOperation
from varserve._client.values.options import WriteOptions, new_request_id
from varserve._client.values.regions import Index, Part, Rows, part_of
from varserve._client.values.results import Commit, Snapshot
from varserve._client.values.writes import Write, prepare

from .cache import ModelCache


def update(
    cache: ModelCache,
    regions: Mapping[str, Index | Rows | Part | None],
    change: Callable[[Snapshot], Mapping[str, npt.ArrayLike] | None],
    budget: Budget,
    message: str,
) -> Op[Commit | None]:
    """What `change` makes of a snapshot, written back if what it read has not moved; else repeated.

    `regions`: names or paths of the variables, each with its region or None. None when `change`
    gives nothing. Raises RevisionMismatch when others were faster until the time was over.
    """
    if not regions:
        raise InvalidRequest("expected the name of at least one variable")
    for failures in itertools.count():
        yield from cache.fresh(budget)
        specs = {name: cache.variables.find(name) for name in regions}
        parts = {name: part_of(specs[name], region) for name, region in regions.items()}
        reads = {name: Read(specs[name].path, part) for name, part in parts.items()}
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
            writes.append(prepare(write, specs[name]))
        options = WriteOptions(
            new_request_id(),
            None if all_written else snapshot.revision,
            snapshot.epoch,
            message,
        )
        delay = CONTEND.delay(failures)
        try:
            return (yield from cache.write(writes, budget, options))
        except RevisionMismatch:
            if delay >= budget.remaining():
                raise
        yield Sleep(delay)
    return None  # pragma: no cover
