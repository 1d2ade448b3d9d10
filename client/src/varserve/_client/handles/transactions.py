"""Transactions: several writes as one commit."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy.typing as npt

from varserve._client import errors
from varserve._client.transport.calls import Op
from varserve._client.transport.drivers import Async, Sync
from varserve._client.values.arguments import Given
from varserve._client.values.assign_operation import AssignOperation
from varserve._client.values.regions import Index, Rows
from varserve._client.values.results import Commit, Snapshot, revision_of
from varserve._client.values.writes import PreparedWrite, Write, prepare

from .base import D_co, Handle
from .of_models import ModelHandle


class Transaction(ModelHandle[D_co]):
    """Collects writes and makes them one commit when its block ends; none when the block raises.

    Writes are checked when they are added, and not copied: leave the arrays alone until the end.
    """

    __reduce__ = Handle.__reduce__

    def __init__(
        self,
        model: ModelHandle[D_co],
        if_revision_match: int | Snapshot | Commit | None,
        message: str,
        timeout: float | None,
        check: Given | None = None,
    ) -> None:
        super().__init__(model._driver, model._cache, model._defaults)
        self.commit: Commit | None = None
        """What was committed; None before the end, and when there was nothing to commit."""
        self._timeout = timeout
        self._writes: list[PreparedWrite] = []
        self._expected = self._options(*revision_of(if_revision_match), message, check=check)

    @property
    def revision(self) -> int | None:
        """The commit's, None before it is made."""
        return None if self.commit is None else self.commit.revision

    def __getitem__(self, variable: str) -> TransactionTarget:
        """`txn["a"].assign(x)`, `txn["a"][0:3].assign(x)`."""
        self._cache.variables.find(variable)
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
        change = prepare(write, self._cache.variables.find(write.variable))
        self._writes.append(change)
        if write.if_revision_match is not None:
            # A revision means something in its epoch only; one that is over is one too many.
            epoch = self._cache.epoch_of(change.variable)
            if not self._expected.if_epoch_match or epoch != self._cache.header.epoch:
                self._expected = self._expected._replace(if_epoch_match=epoch)

    def _commit(self) -> Op[None]:
        writes, self._writes = self._writes, []
        if not writes:
            return
        budget = self._budget(self._timeout, sum(each.nbytes for each in writes))
        self.commit = yield from self._cache.write(writes, budget, self._expected)

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
        self._writes.clear()

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
        self._writes.clear()


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
        if region is None:
            raise errors.RegionInvalid(f"{self._variable!r}: expected an index, found None")
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


def assign_all(
    model: ModelHandle[Any],
    values: Mapping[str, npt.ArrayLike],
    if_revision_match: int | Snapshot | Commit | None,
    message: str,
    timeout: float | None,
    check: Given | None = None,
) -> Op[Commit]:
    """Set several variables, by name or path, as one commit."""
    if not values:
        raise errors.InvalidRequest("expected at least one variable to assign, found none")
    transaction = Transaction(model, if_revision_match, message, timeout, check)
    for name, value in values.items():
        transaction.assign(name, value)
    yield from transaction._commit()
    assert transaction.commit is not None
    return transaction.commit
