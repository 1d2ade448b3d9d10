"""Large values of the log become those of the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET
from tests.postgres.conftest import Start
from tests.postgres.large import MIB, add, asked, chunks, kept, made, put, same
from tests.waiting import until
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.journal.postgres import compaction


def test_large_parts_are_folded_into_the_base(database: str, replica: Start) -> None:
    """Over a large base, over what the SavedModel had, and again; no chunk is left over."""
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, made, **options)
    column = Slices((Slice(), Slice(3, 903)))
    for number in range(1, 4):
        one.assign(
            [Write("table", SET, np.full((299, 1024), number, np.float32), Rows(np.arange(299)))]
        )
        one.assign([Write("table", ADD, np.full((300, 900), 0.5, np.float32), column)])
        put(one, number)
        one.assign([Write("large", ADD, np.ones(1, np.float32), Slices((Slice(5, 6),)))])
        journal.compact()
        late, late_journal = replica(database, made)
        assert late_journal.horizon == one.header.revision - 1
        same(one, late)
        late.close()
    # In the base: one of a whole value, one of elements, one of their indices.
    until(lambda: len(kept(database)) == 3)
    named = asked(database, "SELECT sum(chunks)::int FROM varserve_blob")[0][0]
    until(lambda: chunks(database) == named)


def test_compaction_does_not_hold_the_lock_while_it_folds(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others commit meanwhile; of two that fold at once one has no effect and leaves nothing."""
    options = {"history_commits": 1, "blob_seconds": 0.0}
    one, journal = replica(database, made, **options)
    two, other = replica(database, made, **options)
    put(one, 1)
    one.assign([Write("large", ADD, np.ones(1, np.float32), Slices((Slice(5, 6),)))])
    put(one, 2)
    fold, revisions = compaction._fold, []

    def folding(*arguments: Any) -> Any:
        base = fold(*arguments)
        with monkeypatch.context() as unpatched:
            unpatched.setattr(compaction, "_fold", fold)
            revisions.append(add(two))
            other.compact()
        return base

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_fold", folding)
        journal.compact()
    assert revisions[0] == 4
    late, late_journal = replica(database, made)
    assert late_journal.horizon == 3
    same(one, two, late)
    assert kept(database) == [3]  # the base names the last one
    until(lambda: chunks(database) == 3)


def test_a_large_value_stays_in_the_log_for_a_while(database: str, replica: Start) -> None:
    """So that a replica which is busy can follow, whatever the log's bounds."""
    one, journal = replica(database, made, history_bytes=MIB, blob_seconds=3600.0)
    put(one, 1)
    journal.compact()
    assert asked(database, "SELECT horizon FROM varserve_head") == [(0,)]
    late, late_journal = replica(database, made, history_bytes=MIB, blob_seconds=0.0)
    late_journal.compact()
    assert asked(database, "SELECT horizon FROM varserve_head") == [(1,)]
    same(one, late)
