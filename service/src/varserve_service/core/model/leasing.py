"""The life of leases: granted with an assign, renewed, revoked, expired, ended when a model goes.

Knows what a lease holds (`commit/leases.py`) and how its end becomes a commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from varserve_service.core.change.changes import Change
from varserve_service.core.change.past import restored
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.commit.leases import Leases
from varserve_service.core.commit.proposal import ChangeProposal, Terms
from varserve_service.core.commit.shared_leases import SharedLeases, held_by, kept_held
from varserve_service.core.errors import RequestError
from varserve_service.core.holdings import Holding
from varserve_service.core.memory import MemoryBudget, ModelMemory
from varserve_service.core.ports.commits import (
    UNKNOWN_ORIGIN,
    CommitKind,
    CommitListener,
    Origin,
)
from varserve_service.core.ports.loaded_model import LoadedModel, Value, Variable, VariableSpec
from varserve_service.core.ports.messages import Answer, Conditions
from varserve_service.core.ports.shared_journal import LeaseChange

from .parts import Parts


class _GivingUp:
    """Ends a lease early. It lasts as long as the lease, and keeps nothing else of the write."""

    __slots__ = ("_leases", "revision")

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.revision = 0

    def __call__(self) -> None:
        self._leases.give_up(self.revision, "ended: memory was short")


class LeasedProposal(ChangeProposal):
    """An assign whose writes are reverted after some seconds, unless its lease is renewed."""

    made_once = True  # the lease is kept, too

    def __init__(
        self,
        terms: Terms,
        loaded: LoadedModel,
        changes: Callable[[], Sequence[Change]],
        read_back: Callable[[], Mapping[str, Value]],
        leases: Leases | SharedLeases,
        seconds: float,
        variables: Sequence[Variable],
        memory: ModelMemory,
    ) -> None:
        super().__init__(terms, CommitKind.ASSIGN, loaded, changes, read_back)
        self._leases = leases
        self._seconds = seconds
        self._variables = variables
        self._memory = memory
        self._holdings: list[Holding] = []
        self._giving_up: _GivingUp | None = None

    def make(self) -> None:
        self._leases.check_room()
        check_initialized(self._variables)  # No value cannot be put back.
        super().make()
        try:
            self._hold()
        except BaseException:
            self.undo()
            raise

    def leases(self) -> Sequence[LeaseChange]:
        assert self.commit is not None
        lease = self.commit.revision
        held = held_by(lease, self.changed, self.replaced_revisions)
        return (LeaseChange(lease, kept_held(held), self._seconds),)

    def undo(self) -> None:
        self._release()
        super().undo()

    def on_durable(self, revision: int) -> None:
        if self._giving_up is not None:
            self._giving_up.revision = revision
        self._leases.grant(
            revision, self._seconds, self.changed, self.replaced_revisions, self._holdings
        )

    def _hold(self) -> None:
        """Charge the subject for the values that the end of the lease would bring back."""
        if isinstance(self._leases, SharedLeases):
            return  # They are kept in the journal.
        self._giving_up = _GivingUp(self._leases)
        nbytes: Counter[MemoryBudget] = Counter()
        for changed in self.changed:
            if changed.previous is not None:
                nbytes[self._memory.of(changed.variable.device)] += changed.previous.nbytes
        for memory, kept in nbytes.items():
            subject = self.terms.origin.subject
            holding = memory.holdings.hold(subject, kept, "the lease", self._giving_up)
            self._holdings.append(holding)

    def _release(self) -> None:
        for holding in self._holdings:
            holding.release()


class _LeaseEnd(ChangeProposal):
    """Restores what a lease's write replaced, unless it was overwritten since; or keeps the write.

    `only_if_due`: renewed at the last moment, the lease goes on.
    """

    def __init__(
        self,
        parts: Parts,
        leases: Leases | SharedLeases,
        lease: int,
        terms: Terms,
        *,
        keep: bool,
        only_if_due: bool,
    ) -> None:
        super().__init__(terms, CommitKind.EXPIRE, parts.loaded, self._restored, needs_history=True)
        self._parts = parts
        self._leases = leases
        self._lease = lease
        self._keep = keep
        self._only_if_due = only_if_due
        self._goes_on = False

    def _restored(self) -> Sequence[Change]:
        self._goes_on = self._only_if_due and not self._leases.is_due(self._lease)
        if self._goes_on:
            return []
        held = self._leases.held(self._lease)
        if self._keep:
            return []
        revision_of, by_path = self._parts.revisions.of, self._parts.by_path
        untouched = [h.changed for h in held if revision_of(h.changed.variable.path) == h.own]
        return [restored(by_path[changed.variable.path], changed) for changed in untouched]

    def leases(self) -> Sequence[LeaseChange]:
        leases = self._leases
        if self._goes_on or not isinstance(leases, SharedLeases):
            return ()
        put_back = {changed.variable.path for changed in self.changed}
        at = self._parts.revisions.current
        others = leases.changed_by_end(self._lease, put_back, at, keep=self._keep)
        return (LeaseChange(self._lease, None, only_if_due=self._only_if_due), *others)

    def on_durable(self, revision: int) -> None:
        if not self._goes_on:
            put_back = {changed.variable.path for changed in self.changed}
            self._leases.end(self._lease, put_back, revision, keep=self._keep)


class Leasing:
    """The leases of one model. Every method may be called from any thread."""

    def __init__(self, parts: Parts, on_expiry: CommitListener | None) -> None:
        """`on_expiry` is called for each commit of a lease that expires."""
        self._parts = parts
        self._on_expiry = on_expiry
        model = parts.loaded.name
        self.table: Leases | SharedLeases = (
            Leases(self._expire, model)
            if parts.shared is None
            else SharedLeases(parts.shared.leases, parts.by_path, self._expire, model)
        )
        """What each lease holds."""

    @property
    def waits(self) -> bool:
        """Whether looking at leases waits for a journal."""
        return isinstance(self.table, SharedLeases)

    def variables(self, lease: int, epoch: str = "") -> Sequence[VariableSpec]:
        """The variables whose writes a lease holds. Raises LEASE_NOT_FOUND, EPOCH_MISMATCH."""
        self._parts.revisions.check(Conditions(epoch=epoch))
        return [held.changed.variable for held in self.table.held(lease)]

    def renew(self, lease: int, epoch: str = "") -> float:
        """Let a lease last for its seconds, which are returned, from now on.

        Raises RequestError LEASE_NOT_FOUND, EPOCH_MISMATCH.
        """
        self._parts.revisions.check(Conditions(epoch=epoch))
        return self.table.renew(lease)

    def revoke(
        self,
        lease: int,
        epoch: str = "",
        *,
        keep: bool = False,
        origin: Origin = UNKNOWN_ORIGIN,
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """End a lease now: revert its write, or keep it for good.

        Raises RequestError LEASE_NOT_FOUND, EPOCH_MISMATCH, with nothing changed.
        """
        origin = replace(origin, message=f"lease {lease} revoked")
        terms = Terms(None, Conditions(epoch=epoch), origin, deadline)
        return self._end(lease, terms, on_commit, keep=keep)

    def end_all(self) -> None:
        """Revert the writes of all leases, as far as possible; not where others go on with them."""
        for lease in self.table.revisions:
            with suppress(RequestError):
                origin = Origin(message=f"lease {lease} ended: unloading")
                self._end(lease, Terms(origin=origin), self._on_expiry)

    def _expire(self, lease: int) -> None:
        origin = Origin(message=f"lease {lease} {self.table.why(lease)}")
        self._end(lease, Terms(origin=origin), self._on_expiry, only_if_due=True)

    def _end(
        self,
        lease: int,
        terms: Terms,
        on_commit: CommitListener | None,
        *,
        keep: bool = False,
        only_if_due: bool = False,
    ) -> Answer:
        proposal = _LeaseEnd(
            self._parts, self.table, lease, terms, keep=keep, only_if_due=only_if_due
        )
        return self._parts.committer.commit(proposal, on_commit)
