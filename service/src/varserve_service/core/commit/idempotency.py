"""Answers to writes that were done, kept so that a write which comes again is not done again.

A request id belongs to its subject: the same id of two subjects makes two requests. The answers are
bounded by age, count and bytes. Where there are too many, the subject with the most loses its
oldest, so that no subject displaces another's. For want of bytes only the answer goes: that the
write was done is still known. The caller holds the model's lock: exclusive to keep, shared to find.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import WriteRequest

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Answer]):
    """`time` is by the cache's own clock."""

    fingerprint: bytes
    answer: Answer | None
    nbytes: int
    time: int


class _Subject(Generic[Answer]):
    """The answers of one subject by request id, the oldest first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, _Entry[Answer]] = OrderedDict()
        self.large: OrderedDict[str, None] = OrderedDict()  # ids of answers that take bytes
        self.nbytes = 0

    def add(self, request_id: str, entry: _Entry[Answer]) -> None:
        self.entries[request_id] = entry
        if entry.nbytes:
            self.large[request_id] = None
            self.nbytes += entry.nbytes

    def forget(self, request_id: str) -> None:
        entry = self.entries.pop(request_id)
        if entry.nbytes:
            del self.large[request_id]
            self.nbytes -= entry.nbytes

    def drop_oldest_answer(self) -> None:
        """The id stays: the write is still not to be done again."""
        request_id, _ = self.large.popitem(last=False)
        entry = self.entries[request_id]
        self.nbytes -= entry.nbytes
        self.entries[request_id] = replace(entry, answer=None, nbytes=0)

    def forget_older(self, time: int) -> int:
        """Forget what was given before a time; how many."""
        count = 0
        while self.entries:
            oldest, entry = next(iter(self.entries.items()))
            if entry.time >= time:
                break
            self.forget(oldest)
            count += 1
        return count


class IdempotencyCache(Generic[Answer]):
    """The last answers by subject and request id.

    `max_age` is in seconds. Within the process ages are by `clock`, in nanoseconds, which a jump of
    the wall clock does not move. `wall_clock`, in nanoseconds since 1970, tells the age of answers
    that come from before a restart.
    """

    def __init__(
        self,
        max_count: int = 10_000,
        max_bytes: int = 64 * 2**20,
        max_age: float = 86_400.0,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_age = int(max_age * 1e9)
        self._clock = clock
        self._wall_clock = wall_clock
        # The subject that kept an answer or was looked at last is the last one.
        self._subjects: OrderedDict[str, _Subject[Answer]] = OrderedDict()
        self._count = 0
        self._nbytes = 0

    def __len__(self) -> int:
        return self._count

    def find(self, request: WriteRequest | None) -> Answer | None:
        """The answer that this request got before; None when it is new.

        Raises RequestError: REQUEST_ID_REUSED when the id belongs to a different request of this
        subject, ANSWER_NOT_KEPT when the request was done but its answer was too large to keep.
        """
        if request is None:
            return None
        subject = self._subjects.get(request.subject)
        entry = None if subject is None else subject.entries.get(request.id)
        if entry is None or entry.time < self._clock() - self._max_age:
            return None
        if not _are_alike(entry.fingerprint, request.fingerprint):
            raise RequestError(
                Reason.REQUEST_ID_REUSED,
                f"request_id {request.id!r} was used before for a different request; "
                "expected a new id for each write",
            )
        if entry.answer is None:
            raise RequestError(
                Reason.ANSWER_NOT_KEPT,
                f"request {request.id!r} was done before; its answer was too large to be kept",
            )
        return entry.answer

    def keep(
        self,
        request: WriteRequest | None,
        answer: Answer | None,
        nbytes: int,
        given_at: int | None = None,
    ) -> None:
        """Remember an answer whose values take `nbytes` of memory; None: it was too large to keep.

        `given_at`: when it was given, in nanoseconds since 1970; None: now.
        """
        if request is None:
            return
        if answer is None or nbytes > self._max_bytes:
            answer, nbytes = None, 0
        now = self._clock()
        age = 0 if given_at is None else max(0, self._wall_clock() - given_at)
        subject = self._subjects.setdefault(request.subject, _Subject())
        self._subjects.move_to_end(request.subject)
        before = len(subject.entries), subject.nbytes
        if request.id in subject.entries:
            subject.forget(request.id)
        subject.add(request.id, _Entry(request.fingerprint, answer, nbytes, now - age))
        self._count += len(subject.entries) - before[0]
        self._nbytes += subject.nbytes - before[1]
        self._forget_old(now - self._max_age)
        while self._nbytes > self._max_bytes:
            largest = self._above_average(lambda subject: subject.nbytes, self._nbytes)
            before_bytes = largest.nbytes
            largest.drop_oldest_answer()
            self._nbytes -= before_bytes - largest.nbytes
        while self._count > self._max_count:
            largest = self._above_average(lambda subject: len(subject.entries), self._count)
            before_bytes = largest.nbytes
            largest.forget(next(iter(largest.entries)))
            self._count -= 1
            self._nbytes -= before_bytes - largest.nbytes

    def _forget_old(self, time: int) -> None:
        """Forget what is too old of the present subject and of one other; each has its turn."""
        for name in {next(iter(self._subjects)), next(reversed(self._subjects))}:
            subject = self._subjects[name]
            nbytes = subject.nbytes
            self._count -= subject.forget_older(time)
            self._nbytes -= nbytes - subject.nbytes
            if subject.entries:
                self._subjects.move_to_end(name)
            else:
                del self._subjects[name]

    def _above_average(
        self, amount: Callable[[_Subject[Answer]], int], total: int
    ) -> _Subject[Answer]:
        """A subject that has at least as much as the others on average: not always the largest."""
        while True:
            name, subject = next(iter(self._subjects.items()))
            self._subjects.move_to_end(name)
            if amount(subject) * len(self._subjects) >= total and amount(subject):
                return subject


def _are_alike(one: bytes, other: bytes) -> bool:
    """Whether two fingerprints can be of one request: some of them lack what is of the body."""
    return one.startswith(other) or other.startswith(one)
