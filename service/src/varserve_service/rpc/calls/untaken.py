"""Answers of unary calls that their clients have not taken: bounded in bytes.

gRPC keeps such an answer in memory until its stream ends, and has nothing to end it with; the call
is over for everybody else. Owns what waits so. Knows nothing of what an answer says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import LateTrim

from .call import RpcCall

LARGE_BYTES = 64 * 2**10
"""Smaller ones are not counted: what gRPC keeps of a stream is about as much."""
MOST_BYTES = 2**30
"""Of all of them, where the memory is not known; of one caller, half of it."""
# Of the memory, where that is known.
_SHARE = 4
# What such a call has done needs no answer, and can be asked for again.
_CHANGES_NOTHING = frozenset({Verb.LIST, Verb.READ, Verb.SUMMARIZE})
# An answer that has waited for longer was not taken, and the C library would keep its memory.
_IDLE_SECONDS = 2.0


class _Answer(NamedTuple):
    key: Hashable
    nbytes: int
    since: float


class Untaken:
    """The large answers that are on their way. Used from the event loop alone."""

    def __init__(self, limit: Callable[[], int | None] = lambda: None) -> None:
        """`limit` tells the bytes of the memory, if known."""
        self._limit = limit
        self._known: int | None = None
        self.answers: dict[asyncio.Task[Any], _Answer] = {}
        """By the tasks of their calls."""
        self._by_key: Counter[Hashable] = Counter()
        self._trim = LateTrim()

    @property
    def nbytes(self) -> int:
        """Bytes that wait."""
        return self._by_key.total()

    def check(self, call: RpcCall, nbytes: int = 0) -> None:
        """Refuse a call whose caller, or all together, have too much to take already.

        `nbytes` of its answer, as far as it is known. Raises RequestError TOO_MANY_REQUESTS.
        """
        if self._known is None:
            self._known = self._limit()
        most = MOST_BYTES if self._known is None else self._known // _SHARE
        for held, bound, whose in (
            (self._by_key[call.queue_key], most // 2, "this client has"),
            (self.nbytes, most, "clients have"),
        ):
            if held and held + nbytes > bound:
                raise RequestError(
                    Reason.TOO_MANY_REQUESTS,
                    f"an answer of {nbytes} bytes does not fit beside the {held} bytes that "
                    f"{whose} not taken yet; expected at most {bound} in all; retry later",
                    limit=bound,
                )

    def add(self, task: asyncio.Task[Any], call: RpcCall, nbytes: int) -> None:
        """A large answer of a call's task is about to be sent.

        Raises RequestError as `check` does, of a call that changes nothing.
        """
        if call.method.verb in _CHANGES_NOTHING:
            self.check(call, nbytes)
        now = asyncio.get_running_loop().time()
        self.answers[task] = _Answer(call.queue_key, nbytes, now)
        self._by_key[call.queue_key] += nbytes

    def ended(self, task: asyncio.Task[Any]) -> None:
        """The stream of a call has ended."""
        answer = self.answers.pop(task, None)
        if answer is None:
            return
        self._by_key[answer.key] -= answer.nbytes
        if not self._by_key[answer.key]:
            del self._by_key[answer.key]
        if asyncio.get_running_loop().time() - answer.since > _IDLE_SECONDS:
            self._trim.ask()
