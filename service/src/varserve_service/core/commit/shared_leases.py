"""Leases where several processes share a state: kept in the journal, and ended by whoever is first.

A lease is kept with the commit that it came with, and its end with the commit that puts back what
it held. Each process looks for leases whose time is over, by the journal's clock; the first that
finds one ends it. Knows the port of a shared journal.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from varserve_service.core.arrays.patches import Elements
from varserve_service.core.errors import (
    JournalClosed,
    JournalError,
    Reason,
    RequestError,
    StateStoreUnavailable,
)
from varserve_service.core.ports.commits import Changed
from varserve_service.core.ports.loaded_model import Variable
from varserve_service.core.ports.shared_journal import KeptHeld, KeptLeases, LeaseChange
from varserve_service.core.threads import ModelThread

from .leases import Held, changed_by_end, check_room, lease_not_found, log_failure, not_ended

_LOOK_SECONDS = 1.0
"""Between two looks, where nobody here knows of a lease that ends sooner."""
_TOGETHER_SECONDS = 0.02
"""By so much all processes look at different times."""


class SharedLeases:
    """The leases of one model in all processes. What `Leases` says of each method holds here."""

    def __init__(
        self,
        kept: KeptLeases,
        variables: Mapping[str, Variable],
        expire: Callable[[int], object],
        model: str,
    ) -> None:
        """`variables` by path. `expire` is called on a thread with a lease that seems due.

        `model`: its name, for the log.
        """
        self._kept = kept
        self._model = model
        self._told: dict[str, str] = {}
        self._variables = variables
        self._expire = expire
        self._changed = threading.Condition()
        self._granted = False
        self._closed = False
        ModelThread(self._look, "varserve-leases").start()

    revisions: Sequence[int] = ()
    """Those that end with this process: none."""

    def check_room(self) -> None:
        """As `Leases.check_room`."""
        check_room(self._kept.count())

    def grant(
        self,
        revision: int,
        seconds: float,
        changed: Sequence[Changed],
        under: Mapping[str, int],
        holdings: Sequence[object] = (),
    ) -> None:
        """It is kept already: look when it ends."""
        with self._changed:
            self._granted = True
            self._changed.notify()

    def renew(self, revision: int) -> float:
        """As `Leases.renew`. Raises StateStoreUnavailable, too."""
        seconds = self._kept.renew(revision)
        if seconds is None:
            raise lease_not_found(revision)
        return seconds

    def give_up(self, revision: int, why: str) -> None:
        """Nobody's memory is kept by it."""

    def why(self, revision: int) -> str:
        """As `Leases.why`."""
        return "expired"

    def is_due(self, revision: int) -> bool:
        """As `Leases.is_due`."""
        return self._kept.is_due(revision)

    def held(self, revision: int) -> Sequence[Held]:
        """As `Leases.held`."""
        held = self._kept.held(revision)
        if held is None:
            raise lease_not_found(revision)
        return [self._held(each) for each in held]

    def changed_by_end(
        self, revision: int, restored: Collection[str], at: int, *, keep: bool
    ) -> list[LeaseChange]:
        """What becomes of other leases when one ends; see `Leases.end`."""
        ended = {held.changed.variable.path: held for held in self.held(revision)}
        changes = []
        for lease, kept in self._kept.beside(revision).items():
            other = {each.path: self._held(each) for each in kept}
            changed = changed_by_end(ended, other, restored, at, keep=keep)
            if changed:
                changes.append(LeaseChange(lease, kept_held((other | changed).values())))
        return changes

    def end(self, revision: int, restored: Collection[str], at: int, *, keep: bool) -> None:
        """It has been kept already."""

    def clear(self) -> None:
        """This process looks after leases no more; the others do."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _held(self, kept: KeptHeld) -> Held:
        variable = self._variables.get(kept.path)
        if variable is None or isinstance(kept.part, Elements):
            raise JournalError(f"a lease holds {kept.path!r}, which this model does not have")
        previous = variable.stage(kept.previous)
        changed = Changed(variable.spec, kept.part, previous, previous)
        return Held(changed, kept.own, kept.under)

    def _look(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                if not self._granted and not self._closed:
                    self._changed.wait(pause)
                self._granted = False
                if self._closed:
                    return
            pause = _LOOK_SECONDS
            try:
                due, soon = self._kept.due()
                ends = {not_ended(lease): lease for lease in due}
                self._told = {what: why for what, why in self._told.items() if what in ends}
                for what, lease in ends.items():
                    self._end(what, lease)
            except JournalClosed:
                return
            except Exception as error:
                self._tell("its leases could not be looked after", error)
                continue
            if soon is not None:
                pause = min(pause, max(0.0, soon) + _TOGETHER_SECONDS * random.random())

    def _end(self, what: str, lease: int) -> None:
        """Let one expire. One that cannot is still there, and others look, too."""
        try:
            self._expire(lease)
        except StateStoreUnavailable:
            raise  # so would the next one be
        except Exception as error:
            faster = isinstance(error, RequestError) and error.reason is Reason.LEASE_NOT_FOUND
            if not faster:  # than this process was another one
                self._tell(what, error)

    def _tell(self, what: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if why != self._told.get(what):  # it is tried every second
            self._told[what] = why
            log_failure(self._model, what, why)


def held_by(lease: int, changed: Sequence[Changed], under: Mapping[str, int]) -> list[Held]:
    """What a lease on the commit of this revision holds, over the writes `under`."""
    return [Held(each, lease, under[each.variable.path]) for each in changed]


def kept_held(held: Collection[Held]) -> tuple[KeptHeld, ...]:
    """The same, as a journal keeps it."""
    kept = []
    for each in held:
        previous = each.changed.previous
        assert previous is not None  # no value cannot be put back, so there is no such lease
        variable, region = each.changed.variable, each.changed.region
        kept.append(KeptHeld(variable.path, each.own, each.under, region, previous.numpy()))
    return tuple(kept)
