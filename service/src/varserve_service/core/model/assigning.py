"""An assign, from the caller's writes to its commit.

What can be done without the exclusive lock is done before: values are staged, changes worked out,
and large ones written to disk. Owns no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from varserve_service.core.change.changes import Change
from varserve_service.core.change.plan import Plan
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.partwise import PartwiseValue, read_by_parts
from varserve_service.core.commit.proposal import ChangeProposal, Terms
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import is_budgeted
from varserve_service.core.ports.commits import CommitKind, CommitListener
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Answer, Read

from .checking import Check, Overtaken, PlanCheck
from .leasing import LeasedProposal, Leasing
from .parts import Parts
from .reading import Reading

_MOST_CHECKS = 16
"""Times that a commit is checked, because others wrote what its check had looked at."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What is read after a write and before anybody else can write, and its bytes at the most."""

    read: Read
    max_bytes: int | None = None


class Assigning:
    """Makes assigns."""

    def __init__(self, parts: Parts, reading: Reading, leases: Leasing) -> None:
        self._parts = parts
        self._reading = reading
        self._leases = leases

    def assign(
        self,
        writes: Sequence[tuple[Write, Variable]],
        terms: Terms,
        *,
        lease_seconds: float | None,
        read_back: ReadBack | None,
        on_commit: CommitListener | None,
        check: Check | None = None,
    ) -> Answer:
        """Make writes, which have been checked against their variables' specs, one commit.

        With a `check`, only if that passes. Raises RequestError CHECK_FAILED, and REVISION_MISMATCH
        when others write what it looks at as often as it is run.
        """
        plan = Plan(writes, self._by_parts)
        for _ in range(_MOST_CHECKS):
            try:
                return self._attempt(
                    plan, writes, terms, lease_seconds, read_back, on_commit, check
                )
            except Overtaken:
                continue
        raise RequestError(
            Reason.REVISION_MISMATCH,
            f"variables that the check looks at were written by others {_MOST_CHECKS} times while "
            "it ran; nothing was changed; try again",
            current_revision=self._parts.revisions.current,
        )

    def _by_parts(self, variable: Variable) -> PartwiseValue:
        return read_by_parts(variable, self._parts.lock, self._parts.history, (), None)

    def _attempt(
        self,
        plan: Plan,
        writes: Sequence[tuple[Write, Variable]],
        terms: Terms,
        lease_seconds: float | None,
        read_back: ReadBack | None,
        on_commit: CommitListener | None,
        check: Check | None,
    ) -> Answer:
        """Raises Overtaken when the check has to be run again."""
        committer = self._parts.committer
        with ExitStack() as reserved:
            try:
                self._prepare(plan, reserved, terms.deadline)
            except RequestError:
                # What cannot be done now may have been done before.
                with self._parts.lock.shared(terms.deadline):
                    answer = committer.answered(terms.request)
                if answer is None:
                    raise
                return answer
            checked = None
            if check is not None:
                with self._parts.lock.shared(terms.deadline):
                    answer = committer.answered(terms.request)
                if answer is not None:  # A request that was done before is not checked again.
                    return answer
                checked = PlanCheck(self._parts, check, plan)
                checked.run(terms.deadline)
            proposal = self._proposal(plan, writes, terms, lease_seconds, read_back, checked)
            proposal.staged = reserved.enter_context(committer.staged(plan.values, terms))
            return committer.commit(proposal, on_commit)

    def _prepare(self, plan: Plan, reserved: ExitStack, deadline: float | None) -> None:
        """Work a plan out; `reserved` holds what carrying it out will take."""
        parts = self._parts
        with ExitStack() as meanwhile:
            if is_budgeted(plan.nbytes):
                self._reserve(plan, reserved, meanwhile)
            plan.stage()
            if plan.reads_first:
                with parts.lock.shared(deadline):
                    plan.capture(parts.revisions.of)
            plan.work_out()
        with ExitStack() as meanwhile:
            for part in plan.parts:
                if part.own_bytes:
                    memory = parts.memory.of(part.variable.spec.device)
                    meanwhile.enter_context(memory.reserve(part.own_bytes, "the write"))
            plan.own()
        if not parts.memory.is_host:
            kept = [(change.variable, change.value.nbytes) for change in plan.changes]
            reserved.enter_context(parts.committer.room_to_keep(kept, "the write"))

    def _reserve(self, plan: Plan, reserved: ExitStack, meanwhile: ExitStack) -> None:
        """Reserve what a plan takes: until its commit, and until it is worked out."""
        host, device = self._parts.memory.host, self._parts.memory.device
        for memory in {host, device}:
            own = [
                part
                for part in plan.parts
                if self._parts.memory.of(part.variable.spec.device) is memory
            ]
            costs = [part.cost for part in own]
            replaced = sum(cost.replaced for cost in costs)
            reserved.enter_context(memory.reserve(replaced, "what the write replaces"))
            taken = sum(cost.taken for cost in costs)
            if memory is not host:  # Staging copies the values there.
                taken += sum(part.value_bytes for part in own)
                brought = sum(cost.brought for cost in costs)
                meanwhile.enter_context(host.reserve(brought, "the write"))
            meanwhile.enter_context(memory.reserve(taken, "the write"))

    def _proposal(
        self,
        plan: Plan,
        writes: Sequence[tuple[Write, Variable]],
        terms: Terms,
        lease_seconds: float | None,
        read_back: ReadBack | None,
        checked: PlanCheck | None,
    ) -> ChangeProposal:
        revisions, loaded = self._parts.revisions, self._parts.loaded

        def changes() -> Sequence[Change]:
            for write, variable in writes:
                revisions.check_variable(variable.spec, write.if_revision_match)
            if checked is not None:
                checked.still_holds()
            return plan.current_changes(revisions.of)

        def values() -> Mapping[str, Value]:
            if read_back is None:
                return {}
            variable = self._parts.variables.find(read_back.read.variable)
            return self._reading.back(variable, read_back.read, read_back.max_bytes)

        if lease_seconds is None:
            return ChangeProposal(
                terms, CommitKind.ASSIGN, loaded, changes, values, forget=plan.forget
            )
        return LeasedProposal(
            terms,
            loaded,
            changes,
            values,
            self._leases.table,
            lease_seconds,
            plan.variables,
            self._parts.memory,
        )
