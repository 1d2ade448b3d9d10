"""Leases of replicas: granted at one, renewed, revoked and ended by any, once."""

from __future__ import annotations

import threading
import time

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import ADD, SET, array, refusal, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.waiting import join, until
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import leases as module
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind
from varserve_service.journal.postgres.schema import FORMAT

LONG = 60.0


def made() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("a", array(1, 2, 3)),
            FakeVariable("b", array(10, 20)),
            FakeVariable("table", np.zeros((4, 2), np.float32), in_place=True),
        ]
    )


def leased(live: LiveModel, *writes: Write, seconds: float = LONG) -> int:
    return live.assign(writes, lease_seconds=seconds).header.revision


def same(*lives: LiveModel) -> None:
    until(lambda: len({live.header.revision for live in lives}) == 1)


def ends(live: LiveModel) -> list[str]:
    commits = live.timeline.commits(100).commits
    return [each.origin.message for each in commits if each.kind is CommitKind.EXPIRE]


def test_any_replica_renews_and_revokes(database: str, replica: Start) -> None:
    """What one granted, with what was there before: whole values, rows, several variables."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    rows = Write("table", ADD, np.ones((2, 2), np.float32), Rows(np.array([3, 1])))
    lease = leased(one, Write("a", SET, array(0, 0, 0)), rows)
    same(one, two)
    assert two.leases.renew(lease) == LONG
    assert {spec.name for spec in two.leases.variables(lease)} == {"a", "table"}
    assert two.leases.revoke(lease).header.revision == 2
    same(one, two)
    for live in (one, two):
        assert value_of(live, "a").tolist() == [1, 2, 3]
        assert value_of(live, "table").sum() == 0
        assert refusal(live.leases.renew, lease).reason is Reason.LEASE_NOT_FOUND
        assert refusal(live.leases.revoke, lease).reason is Reason.LEASE_NOT_FOUND


def test_a_lease_is_ended_once_whoever_granted_it(database: str, replica: Start) -> None:
    """The replica that made the write has gone; of three others exactly one puts it back."""
    granting, _ = replica(database, made)
    others = [replica(database, made)[0] for _ in range(3)]
    leased(granting, Write("a", SET, array(0, 0, 0)), seconds=0.5)
    granting.close()
    until(lambda: all(live.header.revision == 2 for live in others))
    time.sleep(0.3)  # a second end would come now
    same(*others)
    for live in others:
        assert (ends(live), live.header.revision) == (["lease 1 expired"], 2)
        assert value_of(live, "a").tolist() == [1, 2, 3]


def test_leases_outlive_all_replicas(database: str, replica: Start) -> None:
    """What is due when one starts again is ended then, what is not stays."""
    first, _ = replica(database, made)
    leased(first, Write("a", SET, array(0, 0, 0)), seconds=0.05)
    kept = leased(first, Write("b", SET, array(0, 0)))
    first.close()
    time.sleep(0.1)
    second, _ = replica(database, made)
    until(lambda: value_of(second, "a").tolist() == [1, 2, 3])
    assert value_of(second, "b").tolist() == [0, 0]
    second.leases.revoke(kept)
    assert value_of(second, "b").tolist() == [10, 20]


def test_a_lease_that_is_renewed_elsewhere_goes_on(database: str, replica: Start) -> None:
    """The replica that granted it looks at its end, and finds that it has moved."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    for trial in range(5):
        lease = leased(one, Write("a", SET, array(0, 0, 0)), seconds=1.0)
        if renewed_for(two, lease, 2.5):
            break
        # This machine did not come to it in time.
        until(lambda trial=trial: one.header.revision == 2 * (trial + 1))  # type: ignore[misc]
    else:
        pytest.fail("no lease could be renewed in time")
    assert one.header.revision == lease
    until(lambda: one.header.revision == lease + 1)


def renewed_for(live: LiveModel, lease: int, seconds: float) -> bool:
    """Renew a lease of a second all the time; False: one renewal came too late for it."""
    until_then = before = time.monotonic()
    until_then += seconds
    while before < until_then:
        try:
            began = time.monotonic()
            live.leases.renew(lease)
        except RequestError:
            assert time.monotonic() - before > 0.9, "it was renewed in time, and has ended"
            return False
        before = began
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_leases_on_top_of_each_other_leave_nothing_behind(
    database: str, replica: Start, order: tuple[int, int]
) -> None:
    """Granted and ended at different replicas, in either order."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    both = [
        leased(one, Write("a", SET, array(5, 5, 5))),
        leased(two, Write("a", SET, array(6, 6, 6))),
    ]
    two.leases.revoke(both[order[0]])
    assert value_of(two, "a").tolist() == ([6, 6, 6] if order == (0, 1) else [5, 5, 5])
    one.leases.revoke(both[order[1]])
    assert value_of(one, "a").tolist() == [1, 2, 3]


def test_a_lease_that_is_kept_or_overwritten_is_gone_everywhere(
    database: str, replica: Start
) -> None:
    """Neither is a commit, and nobody ends it again."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    kept = leased(one, Write("a", SET, array(0, 0, 0)), seconds=3.0)
    ends_at = time.monotonic() + 3.0
    assert two.leases.revoke(kept, keep=True).header.revision == 1
    over = leased(one, Write("b", SET, array(0, 0)))
    two.assign([Write("b", SET, array(7, 7))])
    assert one.leases.revoke(over).header.revision == 3
    time.sleep(max(0.0, ends_at + 0.2 - time.monotonic()))
    same(one, two)
    assert (one.header.revision, ends(one)) == (3, [])
    assert refusal(two.leases.renew, over).reason is Reason.LEASE_NOT_FOUND


def test_too_many_leases_are_too_many_for_all(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other replicas count."""
    monkeypatch.setattr(module, "MAX_LEASES", 2)
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    for live in (one, two):
        leased(live, Write("a", SET, array(0, 0, 0)))
    assert refusal(leased, one, Write("b", SET, array(0, 0))).reason is Reason.TOO_MANY_REQUESTS
    assert one.header.revision == 2


def test_renewals_and_ends_at_the_same_time(database: str, replica: Start) -> None:
    """A renewal that succeeded is never followed by an end before its time."""
    lives = [replica(database, made)[0] for _ in range(2)]
    seconds, wrong = 0.3, []

    def renew(live: LiveModel, variable: str, value: np.ndarray) -> None:
        for _ in range(3):
            lease = leased(live, Write(variable, SET, value), seconds=seconds)
            other = lives[1 - lives.index(live)]
            for number in range(6):
                began = time.monotonic()
                try:
                    (live if number % 2 else other).leases.renew(lease)
                except RequestError:
                    break  # it came too late
                time.sleep(seconds * 0.9 if number % 3 else seconds * 0.5)
                if time.monotonic() - began < seconds:
                    with psycopg.connect(database) as connection:
                        query = "SELECT 1 FROM varserve_lease WHERE lease = %s"
                        there = connection.execute(query, (lease,)).fetchone()
                    if there is None and time.monotonic() - began < seconds:
                        wrong.append((lease, number))

    threads = [
        threading.Thread(target=renew, args=(lives[0], "a", array(9, 9, 9))),
        threading.Thread(target=renew, args=(lives[1], "b", array(9, 9))),
    ]
    for thread in threads:
        thread.start()
    join(threads)
    assert not wrong
    until(lambda: value_of(lives[0], "a").tolist() == [1, 2, 3])
    until(lambda: value_of(lives[0], "b").tolist() == [10, 20])


def test_tables_of_the_last_format_are_brought_to_this_one(database: str, replica: Start) -> None:
    """A database from before leases were kept is used as it is; nothing of it is lost."""
    first, _ = replica(database, made)
    first.assign([Write("a", SET, array(4, 5, 6))])
    first.close()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE varserve_lease, varserve_round, varserve_report")
        connection.execute(
            "DROP TABLE varserve_blob, varserve_chunk, varserve_label, varserve_replica"
        )
        connection.execute("UPDATE varserve_format SET format = 1")
    second, _ = replica(database, made)
    assert value_of(second, "a").tolist() == [4, 5, 6]
    second.leases.revoke(leased(second, Write("a", SET, array(0, 0, 0))))
    assert value_of(second, "a").tolist() == [4, 5, 6]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE varserve_format SET format = 99")
    with pytest.raises(Exception, match=f"format 99, expected at most {FORMAT}: a newer version"):
        replica(database, made)
