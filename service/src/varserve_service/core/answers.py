"""Answers to writes that were done, kept so that a write which comes again is not done again.

Bounded by count and bytes; the oldest go first. The caller holds the model's lock exclusively.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import Reason, StateError

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What makes a write the same write: the client's id, and a digest of all that it asks for."""

    id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Answer]):
    fingerprint: bytes
    answer: Answer | None
    nbytes: int


class Answers(Generic[Answer]):
    """The last answers by request id."""

    def __init__(self, max_count: int = 10_000, max_bytes: int = 64 * 2**20) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, _Kept[Answer]] = OrderedDict()
        self._nbytes = 0

    def find(self, request: WriteRequest | None) -> Answer | None:
        """The answer that this request got before; None when it is new.

        Raises StateError: REQUEST_ID_REUSED when the id belongs to a different request,
        ANSWER_NOT_KEPT when the request was done but its answer was too large to keep.
        """
        if request is None:
            return None
        kept = self._kept.get(request.id)
        if kept is None:
            return None
        if kept.fingerprint != request.fingerprint:
            raise StateError(
                Reason.REQUEST_ID_REUSED,
                f"request_id {request.id!r} was used before for a different request; "
                "expected a new id for each write",
            )
        if kept.answer is None:
            raise StateError(
                Reason.ANSWER_NOT_KEPT,
                f"request {request.id!r} was done before; its answer was too large to be kept",
            )
        return kept.answer

    def keep(self, request: WriteRequest | None, answer: Answer, nbytes: int) -> None:
        """Remember an answer whose values take `nbytes` of memory."""
        if request is None:
            return
        kept = _Kept(request.fingerprint, answer, nbytes)
        if nbytes > self._max_bytes:
            kept = _Kept(request.fingerprint, None, 0)
        self._kept[request.id] = kept
        self._nbytes += kept.nbytes
        while len(self._kept) > self._max_count or self._nbytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._nbytes -= oldest.nbytes
