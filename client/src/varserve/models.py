"""Handles of models, and transactions on them.

Owns `Model` and `Transaction`. Attributes never ask the service: they say what it last said, and
`refresh` asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import numpy.typing as npt

from . import errors, tensors
from .functions import Functions
from .handles import OfModel
from .known import part_bytes, part_of, prepared
from .operations import AssignOperation, Prepared, Write
from .regions import Index, Rows
from .results import Commit, Snapshot
from .specs import ModelState, TransferLimits
from .transport import Async, D_co, Op, Sync, operation
from .variables import Variables

Reads: TypeAlias = Iterable[str] | Mapping[str, Index | Rows | None]
"""Names or paths of variables; in a mapping, each with a region or None."""


class Model(OfModel[D_co]):
    """One served model: its variables and functions."""

    @property
    def name(self) -> str:
        """The name that it is served by."""
        return self._known.header.model

    @property
    def version(self) -> int:
        """The SavedModel's directory number; 0 for one loaded from a path of its own."""
        return self._known.header.version

    @property
    def epoch(self) -> str:
        """Random id of this life of the state. Revisions of different epochs do not compare."""
        return self._known.header.epoch

    @property
    def revision(self) -> int:
        """Commits since the epoch began, as far as this client has heard."""
        return self._known.header.revision

    @property
    def device(self) -> str:
        """Where functions run: `CPU:0`, `GPU:0`, ..."""
        return self._known.spec.summary.device

    @property
    def state(self) -> ModelState:
        """Where the model was in its life when last asked."""
        return self._known.spec.summary.state

    @property
    def limits(self) -> TransferLimits:
        """What the service accepts and sends, in bytes."""
        return self._known.spec.limits

    @property
    def variables(self) -> Variables[D_co]:
        """Its variables, by name or path."""
        return Variables(self._driver, self._known, self._defaults)

    @property
    def functions(self) -> Functions[D_co]:
        """Its functions, by name or path."""
        return Functions(self._driver, self._known, self._defaults)

    @operation
    def refresh(self, *, timeout: float | None = None) -> Op[None]:
        """Ask the service for everything anew; all handles of this model see it."""
        return self._known.refresh(self._budget(timeout))

    @operation
    def read(self, variables: Reads | None = None, *, timeout: float | None = None) -> Op[Snapshot]:
        """Several variables at one revision, of any size.

        variables: names or paths; in a mapping, each with a region (`numpy.s_[0:3]`,
            `Rows([2, 5])`) or None. None at all: every variable that has a value.
        """
        if variables is None:
            yield from self._known.refresh(self._budget(timeout))
            known = self._known.variables
            variables = [known.key(s.path) for s in known.by_path.values() if s.initialized]
        if isinstance(variables, str):
            raise errors.InvalidRequest(f"expected a list of names, found {variables!r}")
        wanted = variables if isinstance(variables, Mapping) else dict.fromkeys(variables)
        reads = {}
        size = 0
        for name, region in wanted.items():
            spec = self._known.variables.find(name)
            part = part_of(spec, region)
            reads[name] = (spec.path, part)
            size += part_bytes(spec, part) or spec.nbytes
        if not reads:
            raise errors.InvalidRequest("expected the name of at least one variable")
        return (yield from self._known.read_many(reads, self._budget(timeout, size)))

    def transaction(
        self,
        *,
        if_revision_match: int | Snapshot | Commit | None = None,
        timeout: float | None = None,
    ) -> Transaction[D_co]:
        """Several writes as one commit, made at the end of a `with` (`async with`) block.

        if_revision_match: only if the model is at this revision; a Snapshot or Commit also says in
            which epoch.
        """
        return Transaction(self, if_revision_match, timeout)

    def __repr__(self) -> str:
        known = self._known
        return (
            f"<varserve.Model {self.name!r} version {self.version} on {self.device}, {self.state}, "
            f"revision {self.revision}: {len(known.variables.by_path)} variables, "
            f"{len(known.functions.by_path)} functions>"
        )


class Transaction(OfModel[D_co]):
    """Collects writes and makes them one commit when its block ends; none when the block raises.

    Writes are checked when they are added, and not copied: leave the arrays alone until the end.
    """

    def __init__(
        self,
        model: Model[D_co],
        if_revision_match: int | Snapshot | Commit | None,
        timeout: float | None,
    ) -> None:
        super().__init__(model._driver, model._known, model._defaults)
        self.commit: Commit | None = None
        """What was committed; None before the end, and when there was nothing to commit."""
        self._timeout = timeout
        self._writes: list[Prepared] = []
        if if_revision_match is None or isinstance(if_revision_match, int):
            self._expected = self._conditions(if_revision_match)
        else:
            self._expected = self._conditions(if_revision_match.revision, if_revision_match.epoch)

    @property
    def revision(self) -> int | None:
        """The commit's, None before it is made."""
        return None if self.commit is None else self.commit.revision

    def __getitem__(self, variable: str) -> TransactionTarget:
        """`txn["a"].assign(x)`, `txn["a"][0:3].assign(x)`."""
        self._known.variables.find(variable)
        return TransactionTarget(self, variable)

    def assign(
        self, variable: str, value: npt.ArrayLike, *, if_revision_match: int | None = None
    ) -> None:
        """Set a variable. if_revision_match: the variable's own."""
        self._add(Write(variable, value, AssignOperation.SET, None, if_revision_match))

    def assign_add(
        self, variable: str, delta: npt.ArrayLike, *, if_revision_match: int | None = None
    ) -> None:
        """Add to a variable."""
        self._add(Write(variable, delta, AssignOperation.ADD, None, if_revision_match))

    def assign_sub(
        self, variable: str, delta: npt.ArrayLike, *, if_revision_match: int | None = None
    ) -> None:
        """Subtract from a variable."""
        self._add(Write(variable, delta, AssignOperation.SUB, None, if_revision_match))

    def _add(self, write: Write) -> None:
        if self.commit is not None:
            raise errors.InvalidRequest("the transaction has ended")
        self._writes.append(prepared(self._known.variables.find(write.variable), write))

    def _commit(self) -> Op[None]:
        if not self._writes:
            return
        size = sum(tensors.body_length(each.value) for each in self._writes)
        budget = self._budget(self._timeout, size)
        self.commit = yield from self._known.write_many(self._writes, budget, self._expected)
        self._writes.clear()

    def __enter__(self: Transaction[Sync]) -> Transaction[Sync]:
        self._blocking("with", "async with")
        return self

    def __exit__(
        self: Transaction[Sync],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._blocking("with", "async with").run(self._commit())

    async def __aenter__(self: Transaction[Async]) -> Transaction[Async]:
        return self

    async def __aexit__(
        self: Transaction[Async],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self._awaited("async with", "with").run(self._commit())


class TransactionTarget:
    """A variable, or a region of one, to be written by a transaction."""

    def __init__(
        self, transaction: Transaction[Any], variable: str, region: Index | Rows | None = None
    ) -> None:
        self._transaction = transaction
        self._variable = variable
        self._region = region

    def __getitem__(self, region: Index | Rows) -> TransactionTarget:
        if self._region is not None:
            raise errors.RegionInvalid("a region has no regions: index the variable once")
        return TransactionTarget(self._transaction, self._variable, region)

    __iter__ = None

    def assign(self, value: npt.ArrayLike) -> None:
        """Set it."""
        self._add(value, AssignOperation.SET)

    def assign_add(self, delta: npt.ArrayLike) -> None:
        """Add to it."""
        self._add(delta, AssignOperation.ADD)

    def assign_sub(self, delta: npt.ArrayLike) -> None:
        """Subtract from it."""
        self._add(delta, AssignOperation.SUB)

    def _add(self, value: npt.ArrayLike, operation: AssignOperation) -> None:
        self._transaction._add(Write(self._variable, value, operation, self._region))
