"""Writes that expire: what each lease holds, and when it ends.

A lease is the right to keep what one commit wrote. When it ends, the owner of this object restores
what the commit replaced. One thread waits for the ends of all leases of a model, while there are
any. Knows commits; the caller of `grant` and `end` holds the model's lock exclusively.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.holdings import Holding
from varserve_service.core.ports.commits import Changed
from varserve_service.core.threads import ModelThread, started

MAX_LEASES = 10_000
"""Of one model, at once: each keeps alive what its write replaced, and costs a look at each end."""

_log = logging.getLogger("varserve.leases")

# Seconds until what could not be put back (for want of memory, say) is tried again.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a lease holds of one variable.

    `own` is the revision of the write that it keeps, `under` of the one that this replaced.
    """

    changed: Changed
    own: int
    under: int


@dataclass(slots=True, eq=False)
class _Lease:
    """`end` is in seconds of `time.monotonic`; `held` is by the variables' paths.

    `why`: why it ends when that time comes. `told`: what the log says of why it does not.
    """

    seconds: float
    end: float
    held: dict[str, Held]
    holdings: Sequence[Holding]
    why: str = "expired"
    told: str = ""

    def release(self) -> None:
        """Stop charging its subject for what it kept alive."""
        for holding in self.holdings:
            holding.release()


class Leases:
    """All leases of one model, by the revision of the commit that each came with.

    `expire` is called on the thread of this object with a lease that is due.
    """

    def __init__(self, expire: Callable[[int], object], model: str) -> None:
        """`model`: its name, for the log."""
        self._expire = expire
        self._model = model
        self._changed = threading.Condition()
        self._leases: dict[int, _Lease] = {}
        self._given_up: OrderedDict[int, str] = OrderedDict()
        self._thread: threading.Thread | None = None

    def check_room(self) -> None:
        """Raises RequestError TOO_MANY_REQUESTS when there are as many leases as there may be."""
        check_room(len(self._leases))

    def grant(
        self,
        revision: int,
        seconds: float,
        changed: Sequence[Changed],
        under: Mapping[str, int],
        holdings: Sequence[Holding] = (),
    ) -> None:
        """A lease on what the commit of this revision wrote, over the writes `under`.

        `holdings` are of what it keeps alive, and are released with it.
        """
        held = {
            each.variable.path: Held(_undone(each), revision, under[each.variable.path])
            for each in changed
        }
        lease = _Lease(seconds, time.monotonic() + seconds, held, holdings)
        with self._changed:
            self._leases[revision] = lease
            self._have_waited_for()
            self._changed.notify()

    def renew(self, revision: int) -> float:
        """Let a lease last for its seconds from now on. Raises RequestError LEASE_NOT_FOUND."""
        with self._changed:
            lease = self._find(revision)
            lease.end, lease.why = time.monotonic() + lease.seconds, "expired"
            self._given_up.pop(revision, None)
            for holding in lease.holdings:
                holding.touched()
            self._have_waited_for()
            return lease.seconds

    def give_up(self, revision: int, why: str) -> None:
        """Let a lease end now. Returns at once; nothing happens to one that has ended."""
        with self._changed:
            lease = self._leases.get(revision)
            if lease is not None:
                lease.end, lease.why = time.monotonic(), why
                self._given_up[revision] = why
                while len(self._given_up) > MAX_LEASES:
                    self._given_up.popitem(last=False)
                self._have_waited_for()
                self._changed.notify()

    def why(self, revision: int) -> str:
        """Why a lease ends when its time is over."""
        with self._changed:
            return self._find(revision).why

    @property
    def revisions(self) -> Sequence[int]:
        """All leases, the newest first."""
        with self._changed:
            return sorted(self._leases, reverse=True)

    def clear(self) -> None:
        """Forget all leases; what they hold stays."""
        with self._changed:
            for lease in self._leases.values():
                lease.release()
            self._leases.clear()
            self._changed.notify()

    def is_due(self, revision: int) -> bool:
        """The lease is there and its time is over."""
        with self._changed:
            lease = self._leases.get(revision)
            return lease is not None and lease.end <= time.monotonic()

    def held(self, revision: int) -> Sequence[Held]:
        """What the lease holds. Raises RequestError LEASE_NOT_FOUND."""
        with self._changed:
            return list(self._find(revision).held.values())

    def end(self, revision: int, restored: Collection[str], at: int, *, keep: bool) -> None:
        """The lease has ended: the variables `restored` were put back, by the commit `at`.

        Leases may lie on top of each other. One whose write was put back keeps that from now on.
        One that replaced a whole value of this one shall put back what was there before both, since
        this one no longer keeps its own alive; unless it was to `keep` its writes for good.
        """
        with self._changed:
            ended = self._leases.pop(revision)
            ended.release()
            self._changed.notify()
            for other in self._leases.values():
                other.held |= changed_by_end(ended.held, other.held, restored, at, keep=keep)

    def _have_waited_for(self) -> None:
        if self._thread is not None:
            return
        thread = ModelThread(self._wait, "varserve-leases")
        # Without one the commit stands. The next call, a renewal say, tries again.
        self._thread = thread if started(thread) else None

    def _find(self, revision: int) -> _Lease:
        lease = self._leases.get(revision)
        if lease is None:
            ended = "has ended, or the write at that revision came with none"
            raise RequestError(
                Reason.LEASE_NOT_FOUND,
                f"no lease {revision}: it {self._given_up.get(revision, ended)}",
                lease=revision,
            )
        return lease

    def _wait(self) -> None:
        while True:
            with self._changed:
                if not self._leases:
                    self._thread = None
                    return
                revision, lease = min(self._leases.items(), key=lambda item: item[1].end)
                remaining = lease.end - time.monotonic()
                if remaining > 0:
                    self._changed.wait(remaining)
                    continue
            try:
                self._expire(revision)
            except Exception as error:  # the lease is still there, and so is its write
                self._postpone(revision, lease, error)

    def _postpone(self, revision: int, lease: _Lease, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if why != lease.told:  # it is tried every second
            lease.told = why
            log_failure(self._model, not_ended(revision), why)
        with self._changed:
            # It may have been renewed meanwhile.
            lease.end = max(lease.end, time.monotonic() + _RETRY_SECONDS)


def log_failure(model: str, what: str, why: str) -> None:
    """Say in the log what of a model's leases is tried again."""
    _log.warning("model %r: %s; tried again: %s", model, what, why)


def not_ended(lease: int) -> str:
    """What there is to say of a lease that is over, with its write still there."""
    return f"lease {lease} could not be ended"


def check_room(count: int) -> None:
    """Raises RequestError TOO_MANY_REQUESTS when there are as many leases as there may be."""
    if count >= MAX_LEASES:
        raise RequestError(
            Reason.TOO_MANY_REQUESTS,
            f"{count} leases of this model have not ended; expected at most {MAX_LEASES}; nothing "
            "was changed; retry when one has ended, or write without",
            limit=MAX_LEASES,
        )


def lease_not_found(lease: int) -> RequestError:
    """The failure of a call that names a lease which does not exist."""
    return RequestError(
        Reason.LEASE_NOT_FOUND,
        f"no lease {lease}: it has ended, or the write at that revision came with none",
        lease=lease,
    )


def changed_by_end(
    ended: Mapping[str, Held],
    other: Mapping[str, Held],
    restored: Collection[str],
    at: int,
    *,
    keep: bool,
) -> dict[str, Held]:
    """What of another lease is different when one has ended; see `Leases.end`. By path."""
    changed: dict[str, Held] = {}
    for path, mine in ended.items():
        theirs = other.get(path)
        if theirs is None:
            continue
        if path in restored and theirs.own == mine.under:
            changed[path] = replace(theirs, own=at)
        elif theirs.under == mine.own and not keep and _both_whole(theirs, mine):
            under = _undone(replace(theirs.changed, previous=mine.changed.previous))
            changed[path] = replace(theirs, changed=under, under=mine.under)
    return changed


def _undone(changed: Changed) -> Changed:
    """What a lease keeps of a change: not the value, which the variable has or nobody needs."""
    return changed if changed.previous is None else replace(changed, value=changed.previous)


def _both_whole(one: Held, other: Held) -> bool:
    return one.changed.region is None and other.changed.region is None
