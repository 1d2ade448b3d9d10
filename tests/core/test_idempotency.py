"""A write that comes again is done once, for the subject that asked for it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.core.test_live_model import ADD, array, refusal, two, value_of
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.errors import Reason
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.messages import Answer

SECOND = 1_000_000_000


def request(name: str, subject: str = "", fingerprint: bytes = b"") -> WriteRequest:
    return WriteRequest(name, fingerprint, subject)


def test_answers_are_bounded_by_count_and_bytes() -> None:
    """The oldest answers go first, and one that is too large is remembered as done but not kept."""
    answers: IdempotencyCache[str] = IdempotencyCache(max_count=2, max_bytes=100)
    for name in "abc":
        answers.keep(request(name), name, 10)
    assert [answers.find(request(name)) for name in "abc"] == [None, "b", "c"]
    answers.keep(request("d"), "d", 95)
    assert refusal(answers.find, request("c")).reason is Reason.ANSWER_NOT_KEPT
    assert answers.find(request("d")) == "d"
    answers.keep(request("big"), "big", 101)
    assert refusal(answers.find, request("big")).reason is Reason.ANSWER_NOT_KEPT
    assert answers.find(request("d")) == "d"  # in whose place it did not come


def test_answers_leave_by_age() -> None:
    """An id is remembered for as long as was set, and no longer."""
    now = SECOND
    answers: IdempotencyCache[str] = IdempotencyCache(max_age=2.0, clock=lambda: now)
    for name in "ab":
        answers.keep(request(name), name, 1)
        now += 3 * SECOND // 2
    assert [answers.find(request(name)) for name in "ab"] == [None, "b"]
    answers.keep(request("c"), "c", 1)
    assert len(answers) == 2


def test_each_bound_is_kept_exactly() -> None:
    """What is at a bound stays; one more second, byte or answer is too much."""
    now = SECOND
    answers: IdempotencyCache[str] = IdempotencyCache(3, 100, 2.0, clock=lambda: now)
    answers.keep(request("a"), "a", 100)
    assert answers.find(request("a")) == "a"
    now += 2 * SECOND
    answers.keep(request("b"), "b", 0)
    assert answers.find(request("a")) == "a"
    assert len(answers) == 2
    now += 1
    assert answers.find(request("a")) is None
    answers.keep(request("c"), "c", 100)
    assert (len(answers), answers.find(request("c"))) == (2, "c")
    for name in "de":
        answers.keep(request(name), name, 0)
    assert [answers.find(request(name)) for name in "bcde"] == [None, "c", "d", "e"]


def test_a_request_that_is_kept_again_counts_once() -> None:
    """With the newer answer, as the newest; one without a request is not kept."""
    answers: IdempotencyCache[str] = IdempotencyCache(max_count=2, max_bytes=100)
    answers.keep(None, "nobody's", 1)
    assert (len(answers), answers.find(None)) == (0, None)
    answers.keep(request("a"), "first", 60)
    answers.keep(request("b"), "b", 10)
    answers.keep(request("a"), "second", 90)
    assert (len(answers), answers.find(request("a")), answers.find(request("b"))) == (
        2,
        "second",
        "b",
    )
    answers.keep(request("c"), "c", 0)
    assert [answers.find(request(name)) for name in "abc"] == ["second", None, "c"]


def test_a_fingerprint_may_lack_what_is_of_the_body() -> None:
    """Then the part that both have decides, whichever came first."""
    answers: IdempotencyCache[str] = IdempotencyCache()
    answers.keep(request("long", fingerprint=b"head-body"), "a", 1)
    answers.keep(request("short", fingerprint=b"head"), "b", 1)
    assert answers.find(request("long", fingerprint=b"head")) == "a"
    assert answers.find(request("short", fingerprint=b"head-body")) == "b"
    for name in ("long", "short"):
        error = refusal(answers.find, request(name, fingerprint=b"heal"))
        assert error.reason is Reason.REQUEST_ID_REUSED


@pytest.mark.parametrize("jump", [-86_400, 86_400, 10**9])
def test_a_jump_of_the_wall_clock_forgets_nothing(jump: int) -> None:
    """What was answered in this process is as old as it is, whatever the wall clock says."""
    wall = 10**18
    answers: IdempotencyCache[str] = IdempotencyCache(max_age=60.0, wall_clock=lambda: wall)
    answers.keep(request("a"), "a", 1)
    wall += jump * SECOND
    assert answers.find(request("a")) == "a"
    answers.keep(request("b"), "b", 1)
    assert answers.find(request("a")) == "a"


@pytest.mark.parametrize(("age", "known"), [(59, True), (61, False), (-3600, True)])
def test_answers_from_before_a_restart_are_as_old_as_the_wall_clock_says(
    age: int, known: bool
) -> None:
    """One that seems to come from the future is as old as the process."""
    wall = 10**18
    answers: IdempotencyCache[str] = IdempotencyCache(
        max_age=60.0, clock=lambda: 5 * SECOND, wall_clock=lambda: wall
    )
    answers.keep(request("a"), "a", 1, wall - age * SECOND)
    assert (answers.find(request("a")) == "a") is known


def test_an_id_is_its_subject_s_own() -> None:
    """Equal ids of two subjects are two writes, equal or not, and neither learns of the other."""
    live, *_ = two()

    def add(asked: WriteRequest) -> Answer:
        return live.assign([Write("a", ADD, array(1, 1, 1))], request=asked)

    ours, theirs = request("r", "ours", b"x"), request("r", "theirs", b"x")
    first = add(ours)
    assert add(theirs).header.revision == 2
    assert add(ours) is first
    assert add(request("r", "others", b"y")).header.revision == 3
    assert value_of(live, "a").tolist() == [4, 5, 6]


def test_no_subject_pushes_out_another_s_ids() -> None:
    """Whoever floods loses its own: a subject with few ids and small answers keeps all of them."""
    answers: IdempotencyCache[str] = IdempotencyCache(max_count=100, max_bytes=10_000)
    for number in range(20):
        answers.keep(request(f"{number}", "quiet"), "kept", 100)
    for number in range(1000):
        answers.keep(request(f"{number}", "flood"), "flood", 900)
    assert len(answers) == 100
    for number in range(20):
        assert answers.find(request(f"{number}", "quiet")) == "kept"
    assert answers.find(request("999", "flood")) == "flood"


def test_bounds_hold_whoever_writes() -> None:
    """Random subjects, ids, sizes and times: the counts are what is kept, and within the bounds."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, now = random.Random(seed), 0
    answers: IdempotencyCache[int] = IdempotencyCache(
        max_count=50, max_bytes=1000, max_age=30.0, clock=lambda: now
    )
    for number in range(3000):
        now += chance.randrange(SECOND)
        subject = f"s{min(chance.randrange(12), chance.randrange(12))}"
        name = f"{chance.randrange(40)}"
        answers.keep(request(name, subject), number, chance.choice([0, 1, 90, 400, 1001]))
        kept = [e for s in answers._subjects.values() for e in s.entries.values()]
        assert len(answers) == len(kept) <= 50
        assert answers._nbytes == sum(entry.nbytes for entry in kept) <= 1000
        large = Counter(len(s.large) for s in answers._subjects.values())
        assert sum(n * count for n, count in large.items()) == sum(e.nbytes > 0 for e in kept)
