"""Admission: how many calls, and bytes of their bodies, may be in progress at once.

Owns the limits by verb and by subject. A call beyond a limit is refused at once; calls wait in one
place only, the queue of their model (`workers`). Knows the core's errors; knows nothing of gRPC or
of what a call does. Used from the event loop alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError

from .method import Method

DEFAULT_CALLS = {
    Verb.LIST: 256,
    Verb.READ: 1024,
    Verb.SUMMARIZE: 64,
    Verb.ASSIGN: 512,
    Verb.RUN: 1024,
    Verb.INSPECT: 64,
    Verb.WATCH: 10_000,
    Verb.ADMIN: 8,
}
"""Calls of a verb in progress at once, where nothing else is set."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be in progress of one verb at once; None: the default.

    `calls` of all callers, by default DEFAULT_CALLS; of one subject, by default half of that.
    `nbytes` of bodies that are arriving or being used, by default all that may be staged; of one
    subject, by default half of that.
    """

    calls: int | None = None
    calls_per_subject: int | None = None
    nbytes: int | None = None
    nbytes_per_subject: int | None = None


@dataclass(frozen=True, slots=True)
class _Bound:
    calls: int
    calls_per_subject: int
    nbytes: int
    nbytes_per_subject: int


def _bound(verb: Verb, limit: Limit, staging_bytes: int) -> _Bound:
    calls = limit.calls or DEFAULT_CALLS[verb]
    nbytes = limit.nbytes or staging_bytes
    return _Bound(
        calls,
        limit.calls_per_subject or max(1, calls // 2),
        nbytes,
        limit.nbytes_per_subject or max(1, nbytes // 2),
    )


class _Use:
    """What is in progress of a verb, or of a subject's calls of a verb."""

    __slots__ = ("calls", "nbytes")

    def __init__(self) -> None:
        self.calls = 0
        self.nbytes = 0


class Admission:
    """The limits of one service, and what is in progress under them.

    A subject is the caller's name by authentication. Callers without a name cannot be told apart,
    so that the limits by subject do not apply to them.
    """

    def __init__(self, limits: Mapping[str, Limit], staging_bytes: int) -> None:
        """`limits` by verb; `staging_bytes`: bytes of all bodies that are in progress at once."""
        self._staging_bytes = staging_bytes
        self._bounds = {
            verb: _bound(verb, limits.get(verb, Limit()), staging_bytes) for verb in Verb
        }
        self._verbs = {verb: _Use() for verb in Verb}
        self._subjects: dict[tuple[str, str], _Use] = {}
        self._staged = 0

    @property
    def staged(self) -> int:
        """Bytes of bodies that are held now."""
        return self._staged

    def calls(self, verb: Verb) -> int:
        """Calls of a verb that are in progress now."""
        return self._verbs[verb].calls

    def most_calls(self, verb: Verb) -> int:
        """Calls of a verb that may be in progress at once."""
        return self._bounds[verb].calls

    def admit(self, method: Method, subject: str) -> Admitted:
        """Let a call in until the block ends. Raises RequestError TOO_MANY_REQUESTS."""
        verb = _verb_of(method)
        use, bound = self._verbs[verb], self._bounds[verb]
        own = self._subjects.get((verb, subject)) if subject else None
        if not method.always_admitted:
            if own is not None and own.calls >= bound.calls_per_subject:
                raise _too_many(verb, own.calls, bound.calls_per_subject, subject)
            if use.calls >= bound.calls:
                raise _too_many(verb, use.calls, bound.calls)
        if subject and own is None:
            own = self._subjects[verb, subject] = _Use()
        use.calls += 1
        if own is not None:
            own.calls += 1
        return Admitted(self, verb, subject, own)

    def leave(self, admitted: Admitted) -> None:
        """The call is over."""
        self._verbs[admitted.verb].calls -= 1
        if admitted.own is not None:
            admitted.own.calls -= 1
            if not admitted.own.calls:  # subjects that come once are many
                del self._subjects[admitted.verb, admitted.subject]

    @contextmanager
    def stage(self, method: Method, subject: str, nbytes: int) -> Iterator[None]:
        """Hold bytes while a body arrives and is used; its call has been admitted.

        Raises RequestError TOO_MANY_REQUESTS, and VALUE_TOO_LARGE for more than ever fits.
        """
        verb = _verb_of(method)
        use, bound = self._verbs[verb], self._bounds[verb]
        own = self._subjects.get((verb, subject)) if subject else None
        if own is not None and own.nbytes + nbytes > bound.nbytes_per_subject:
            raise _too_large(nbytes, own.nbytes, bound.nbytes_per_subject, f"of {subject!r} ")
        if use.nbytes + nbytes > bound.nbytes:
            raise _too_large(nbytes, use.nbytes, bound.nbytes, f"to {verb} ")
        if self._staged + nbytes > self._staging_bytes:
            raise _too_large(nbytes, self._staged, self._staging_bytes)
        uses = [use] if own is None else [use, own]
        self._staged += nbytes
        for held in uses:
            held.nbytes += nbytes
        try:
            yield
        finally:
            self._staged -= nbytes
            for held in uses:
                held.nbytes -= nbytes


class Admitted:
    """A call that was let in; as a context manager it is over when the block ends."""

    __slots__ = ("_admission", "own", "subject", "verb")

    def __init__(self, admission: Admission, verb: Verb, subject: str, own: _Use | None) -> None:
        self._admission = admission
        self.verb = verb
        self.subject = subject
        self.own = own

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._admission.leave(self)


def _verb_of(method: Method) -> Verb:
    assert method.verb is not None
    return method.verb


def _too_many(verb: Verb, found: int, limit: int, subject: str = "") -> RequestError:
    whose = f" of {subject[:200]!r}" if subject else ""
    return RequestError(
        Reason.TOO_MANY_REQUESTS,
        f"{found} calls{whose} to {verb} are in progress; expected at most {limit}; retry later",
        verb=verb,
        limit=limit,
    )


def _too_large(nbytes: int, held: int, limit: int, which: str = "") -> RequestError:
    if nbytes > limit:  # however long the caller waits
        return RequestError(
            Reason.VALUE_TOO_LARGE,
            f"the body has {nbytes} bytes; expected at most {limit} bytes {which}at once",
            nbytes=nbytes,
            limit=limit,
        )
    return RequestError(
        Reason.TOO_MANY_REQUESTS,
        f"a body of {nbytes} bytes does not fit beside the {held} bytes {which}that are "
        f"arriving; expected at most {limit} in all; retry later",
        limit=limit,
    )
