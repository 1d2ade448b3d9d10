"""Answers to writes that were done, kept so that a write which comes again is not done again.

Bounded by age, count and bytes; the oldest go first. For bytes only the answer goes: that the write
was done is still known. The caller holds the model's lock: exclusive to keep, shared to find.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import WriteRequest

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Answer]):
    fingerprint: bytes
    answer: Answer | None
    nbytes: int
    time: int


class IdempotencyCache(Generic[Answer]):
    """The last answers by request id. `max_age` is in seconds; `clock` gives ns since 1970."""

    def __init__(
        self,
        max_count: int = 10_000,
        max_bytes: int = 64 * 2**20,
        max_age: float = 86_400.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_age = int(max_age * 1e9)
        self._clock = clock
        self._kept: OrderedDict[str, _Kept[Answer]] = OrderedDict()
        self._large: OrderedDict[str, None] = OrderedDict()  # ids of answers that take bytes
        self._nbytes = 0

    def find(self, request: WriteRequest | None) -> Answer | None:
        """The answer that this request got before; None when it is new.

        Raises RequestError: REQUEST_ID_REUSED when the id belongs to a different request,
        ANSWER_NOT_KEPT when the request was done but its answer was too large to keep.
        """
        if request is None:
            return None
        kept = self._kept.get(request.id)
        if kept is None or kept.time < self._clock() - self._max_age:
            return None
        if kept.fingerprint != request.fingerprint:
            raise RequestError(
                Reason.REQUEST_ID_REUSED,
                f"request_id {request.id!r} was used before for a different request; "
                "expected a new id for each write",
            )
        if kept.answer is None:
            raise RequestError(
                Reason.ANSWER_NOT_KEPT,
                f"request {request.id!r} was done before; its answer was too large to be kept",
            )
        return kept.answer

    def keep(
        self,
        request: WriteRequest | None,
        answer: Answer | None,
        nbytes: int,
        time: int | None = None,
    ) -> None:
        """Remember an answer whose values take `nbytes` of memory; None: it was too large to keep.

        `time` is when it was given, in nanoseconds since 1970; unset: now.
        """
        if request is None:
            return
        now = self._clock()
        if answer is None or nbytes > self._max_bytes:
            answer, nbytes = None, 0
        self._forget(request.id)
        given = now if time is None else time
        self._kept[request.id] = _Kept(request.fingerprint, answer, nbytes, given)
        if nbytes:
            self._nbytes += nbytes
            self._large[request.id] = None
        while self._nbytes > self._max_bytes:
            # The id stays: the write is still not to be done again.
            oldest, _ = self._large.popitem(last=False)
            kept = self._kept[oldest]
            self._nbytes -= kept.nbytes
            self._kept[oldest] = _Kept(kept.fingerprint, None, 0, kept.time)
        while self._kept:
            oldest, kept = next(iter(self._kept.items()))
            if len(self._kept) <= self._max_count and kept.time >= now - self._max_age:
                return
            self._forget(oldest)

    def _forget(self, request_id: str) -> None:
        kept = self._kept.pop(request_id, None)
        if kept is not None and kept.nbytes:
            self._nbytes -= kept.nbytes
            del self._large[request_id]
