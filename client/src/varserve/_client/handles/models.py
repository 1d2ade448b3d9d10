"""Handles of models, and transactions on them.

Owns `Model` and `Transaction`. Attributes never ask the service: they say what it last said, and
`refresh` asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import numpy.typing as npt

from varserve import tensors
from varserve._client import errors
from varserve._client.handles.base import ModelHandle
from varserve._client.handles.cache import FLOATS, part_bytes, part_of, prepared, sent_as
from varserve._client.handles.functions import Functions
from varserve._client.handles.leases import Lease
from varserve._client.handles.updates import update
from varserve._client.handles.variables import Variables
from varserve._client.handles.watches import PATIENCE, Watch, watching
from varserve._client.operations import history
from varserve._client.operations.calls import AssignOperation, Prepared, Write
from varserve._client.operations.summaries import Summaries, fitting, histogram_spec
from varserve._client.transport.drivers import Async, D_co, Op, Sync, operation
from varserve._client.values.regions import Index, Rows
from varserve._client.values.results import Commit, Commits, Snapshot
from varserve._client.values.specs import ModelState, Omission, TransferLimits

Reads: TypeAlias = Iterable[str] | Mapping[str, Index | Rows | None]
"""Names or paths of variables; in a mapping, each with a region or None."""


class Model(ModelHandle[D_co]):
    """One served model: its variables and functions."""

    @property
    def name(self) -> str:
        """The name that it is served by, without the label that it was asked for with."""
        return self._cache.header.model

    @property
    def version(self) -> int:
        """The SavedModel's directory number; 0 for one loaded from a path of its own."""
        return self._cache.header.version

    @property
    def epoch(self) -> str:
        """Random id of this life of the state. Revisions of different epochs do not compare."""
        return self._cache.header.epoch

    @property
    def revision(self) -> int:
        """Commits since the epoch began, as far as this client has heard."""
        return self._cache.header.revision

    @property
    def device(self) -> str:
        """Where functions run: `CPU:0`, `GPU:0`, ..."""
        return self._cache.spec.summary.device

    @property
    def state(self) -> ModelState:
        """Where the model was in its life when last asked."""
        return self._cache.spec.summary.state

    @property
    def omissions(self) -> tuple[Omission, ...]:
        """What the SavedModel has beside its variables and functions, and why it is not served."""
        return self._cache.spec.omissions

    @property
    def limits(self) -> TransferLimits:
        """What the service accepts and sends, in bytes."""
        return self._cache.spec.limits

    @property
    def variables(self) -> Variables[D_co]:
        """Its variables, by name or path."""
        return Variables(self._driver, self._cache, self._defaults)

    @property
    def functions(self) -> Functions[D_co]:
        """Its functions, by name or path."""
        return Functions(self._driver, self._cache, self._defaults)

    @operation
    def refresh(self, *, timeout: float | None = None) -> Op[None]:
        """Ask the service for everything anew; all handles of this model see it."""
        return self._cache.refresh(self._budget(timeout))

    @operation
    def read(
        self,
        variables: Reads | None = None,
        *,
        dtype: npt.DTypeLike | None = None,
        at_revision: int | None = None,
        timeout: float | None = None,
    ) -> Op[Snapshot]:
        """Several variables at one revision, of any size.

        variables: names or paths; in a mapping, each with a region (`numpy.s_[0:3]`,
            `Rows([2, 5])`) or None. None at all: every variable that has a value.
        dtype: what float values travel as and come as, of float16, bfloat16, float32 and float64;
            all others come as they are.
        at_revision: as they were at that revision, while the service keeps it.
        """
        as_floats = sent_as(dtype)
        budget = self._budget(timeout)
        if variables is None:
            yield from self._cache.refresh(budget)
            known = self._cache.variables
            variables = [known.key(s.path) for s in known.by_path.values() if s.initialized]
        else:
            yield from self._cache.fresh(budget)
        wanted = _regions(variables)
        reads = {}
        dtypes = {}
        size = 0
        for name, region in wanted.items():
            spec = self._cache.variables.find(name)
            part = part_of(spec, region)
            reads[name] = (spec.path, part)
            if as_floats is not None and tensors.dtype_name(spec.dtype) in FLOATS:
                dtypes[name] = as_floats
            size += part_bytes(spec, part, dtypes.get(name)) or spec.nbytes
        if not reads:
            raise errors.InvalidRequest("expected the name of at least one variable")
        if timeout is None:
            budget = self._budget(None, size)
        return (
            yield from self._cache.read_many(reads, budget, at_revision=at_revision, dtypes=dtypes)
        )

    @operation
    def summaries(
        self,
        variables: str | Reads = "*",
        *,
        bins: int = 0,
        range: tuple[float, float] | None = None,
        content_hash: bool = True,
        at_revision: int | None = None,
        timeout: float | None = None,
    ) -> Op[Summaries]:
        """Several variables in a few numbers each, at one revision; see `Variable.summary`.

        variables: names, paths or patterns of them (`*` for any characters); in a mapping, names or
            paths, each with a region or None.
        Raises as `read`, and MessageTooLarge for too many variables with too many bins.
        """
        yield from self._renewed(timeout)
        known = self._cache.variables
        if isinstance(variables, Mapping):
            wanted = variables
        else:
            patterns = [variables] if isinstance(variables, str) else variables
            # What a pattern fits and has no value is left out; what is named must have one.
            names = {known.key(s.path): s.path for s in known.by_path.values() if s.initialized}
            wanted = dict.fromkeys(fitting(patterns, names))
        reads = {}
        size = 0
        for name, region in wanted.items():
            spec = known.find(name)
            part = part_of(spec, region)
            reads[name] = (spec.path, part)
            size += part_bytes(spec, part) or spec.nbytes
        if not reads:
            raise errors.InvalidRequest("expected the name of at least one variable")
        return (
            yield from self._cache.summarize(
                reads,
                self._budget(timeout, size),
                histogram_spec(bins, range),
                content_hash=content_hash,
                at_revision=at_revision,
            )
        )

    def transaction(
        self,
        *,
        if_revision_match: int | Snapshot | Commit | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Transaction[D_co]:
        """Several writes as one commit, made at the end of a `with` (`async with`) block.

        if_revision_match: only if the model is at this revision; a Snapshot or Commit also says in
            which epoch.
        message: why, for who reads the history.
        """
        return Transaction(self, if_revision_match, message, timeout)

    @operation
    def update(
        self,
        variables: Reads,
        change: Callable[[Snapshot], Mapping[str, npt.ArrayLike] | None],
        *,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit | None]:
        """Read several values, `change` them, write them as one commit; anew when somebody wrote.

        `change` gets the snapshot and gives the new values of some or all that it read, or nothing;
        it may be called more than once. What it read and did not write has not moved either when
        the commit is made. Raises RevisionMismatch when others were faster until the time was over.
        """
        wanted = _regions(variables)
        size = 0
        for name, region in wanted.items():
            spec = self._cache.variables.find(name)
            size += part_bytes(spec, part_of(spec, region)) or spec.nbytes
        return update(self._cache, wanted, change, self._budget(timeout, 2 * size), message)

    def lease(
        self, values: Mapping[str, npt.ArrayLike], *, seconds: float, message: str = ""
    ) -> Lease[D_co]:
        """Set several variables while a `with` (`async with`) block runs; see `Variable.lease`."""
        writes = [
            prepared(self._cache.variables.find(name), Write(name, value))
            for name, value in values.items()
        ]
        return Lease(self, writes, seconds, message)

    @operation
    def watch(
        self,
        patterns: str | Iterable[str] = (),
        *,
        after_revision: int | Snapshot | Commit | None = None,
        values: bool = True,
        previous: bool = False,
        timeout: float | None = None,
        patience: float = PATIENCE,
    ) -> Op[Watch[D_co]]:
        """Follow the commits of the variables that fit a pattern, from now on or a revision on.

        patterns: of names or paths, `*` for any characters; none: all variables.
        after_revision: the first event is the first commit after it. A Snapshot or Commit also says
            in which epoch.
        values, previous: what commits left, and what was there before them.
        timeout: seconds that the watch lasts; None: until it is closed.
        patience: seconds to go on trying while nobody answers.
        Raises VariableNotFound, RevisionCompacted, RevisionInFuture, EpochMismatch.
        """
        revision, epoch = _revision_of(after_revision, self._cache.header.epoch)
        return watching(
            self._driver,
            history.watch_request(self._cache.asked, revision, epoch, patterns, values, previous),
            self.limits.chunk_bytes,
            self._defaults,
            timeout,
            patience,
        )

    @operation
    def commits(
        self,
        patterns: str | Iterable[str] = (),
        *,
        limit: int = 100,
        before: int | None = None,
        timeout: float | None = None,
    ) -> Op[Commits]:
        """The last commits, the newest first: who made them, when, why, and what they changed.

        patterns: only those that changed a variable that fits one. limit: at most 1000. before:
        only those before this revision.
        """
        found = yield from history.list_commits(
            self._cache.asked,
            limit,
            before,
            history.patterns_of(patterns),
            self._budget(timeout),
        )
        self._cache.learn(found.header)
        return found

    @operation
    def revert(
        self,
        revision: int | Snapshot | Commit,
        variables: Iterable[str] = (),
        *,
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Give variables the values that they had at a revision, as one new commit.

        variables: names or paths; none: all that were written since.
        if_revision_match: only if the model is at this revision.
        Raises RevisionCompacted, RevisionInFuture, EpochMismatch, VariableUninitialized.
        """
        to, epoch = _revision_of(revision, self._cache.header.epoch)
        assert to is not None
        names = [self._cache.variables.find(name).path for name in _regions(variables)]
        commit = yield from history.revert_commits(
            self._cache.asked,
            to,
            [self._cache.variables.key(path) for path in names],
            self._budget(timeout),
            self._conditions(if_revision_match, epoch, message),
        )
        self._cache.learn(commit.header)
        return commit

    def __repr__(self) -> str:
        known = self._cache
        return (
            f"<varserve.Model {self.name!r} version {self.version} on {self.device}, {self.state}, "
            f"revision {self.revision}: {len(known.variables.by_path)} variables, "
            f"{len(known.functions.by_path)} functions>"
        )


def _regions(variables: Reads) -> Mapping[str, Index | Rows | None]:
    """Each name with its region."""
    if isinstance(variables, str):
        raise errors.InvalidRequest(f"expected a list of names, found {variables!r}")
    return variables if isinstance(variables, Mapping) else dict.fromkeys(variables)


def _revision_of(of: int | Snapshot | Commit | None, epoch: str = "") -> tuple[int | None, str]:
    """The revision, and the epoch that it counts in; `epoch` where only a number is given."""
    return (of.revision, of.epoch) if isinstance(of, (Snapshot, Commit)) else (of, epoch)


class Transaction(ModelHandle[D_co]):
    """Collects writes and makes them one commit when its block ends; none when the block raises.

    Writes are checked when they are added, and not copied: leave the arrays alone until the end.
    """

    def __init__(
        self,
        model: Model[D_co],
        if_revision_match: int | Snapshot | Commit | None,
        message: str,
        timeout: float | None,
    ) -> None:
        super().__init__(model._driver, model._cache, model._defaults)
        self.commit: Commit | None = None
        """What was committed; None before the end, and when there was nothing to commit."""
        self._timeout = timeout
        self._writes: list[Prepared] = []
        self._expected = self._conditions(*_revision_of(if_revision_match), message)

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
        change = prepared(self._cache.variables.find(write.variable), write)
        self._writes.append(change)
        if write.if_revision_match is not None:
            # A revision means something in its epoch only; one that is over is one too many.
            epoch = self._cache.epoch_of(change.variable)
            if not self._expected.epoch or epoch != self._cache.header.epoch:
                self._expected = self._expected._replace(epoch=epoch)

    def _commit(self) -> Op[None]:
        writes, self._writes = self._writes, []
        if not writes:
            return
        size = sum(tensors.body_length(each.value) for each in writes)
        budget = self._budget(self._timeout, size)
        self.commit = yield from self._cache.write_many(writes, budget, self._expected)

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
