"""Handles of models.

Attributes never ask the service: they say what it last said, and
`refresh` asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varserve import tensors
from varserve._client import errors, operations
from varserve._client.operations.reads import SummaryOptions, cast_dtype
from varserve._client.transport.calls import Op
from varserve._client.transport.retries import PATIENCE
from varserve._client.values.arguments import Given
from varserve._client.values.matching import Names, match
from varserve._client.values.names import names_matching
from varserve._client.values.regions import Reads, regions_of
from varserve._client.values.results import Commit, Commits, Snapshot, revision_of
from varserve._client.values.specs import ModelState, Omission, TransferLimits
from varserve._client.values.summaries import Summaries
from varserve._client.values.writes import Write, prepare

from .base import D_co, operation
from .files import ModelFiles
from .functions import Functions
from .leases import Lease
from .transactions import Transaction, assign_all
from .updates import update
from .variables import Variables
from .watches import Watch, watching

if TYPE_CHECKING:
    from varserve._client.transport.drivers import Sync
    from varserve.tensors import Array

    from .mirror import Mirror


class Model(ModelFiles[D_co]):
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

    # Not properties: IPython evaluates none, and would complete no name in `model.variables["`.
    @cached_property
    def variables(self) -> Variables[D_co]:
        """Its variables, by name or path."""
        return Variables(self._driver, self._cache, self._defaults)

    @cached_property
    def functions(self) -> Functions[D_co]:
        """Its functions, by name or path."""
        return Functions(self._driver, self._cache, self._defaults)

    @operation
    def refresh(self, *, timeout: float | None = None) -> Op[None]:
        """Ask the service for everything again; all handles of this model see it."""
        return self._cache.refresh(self._budget(timeout))

    def see(self, revision: int | Snapshot | Commit, epoch: str = "") -> None:
        """From now on read nothing older than this, which another client has seen.

        What this client has seen itself is remembered without it. Calls at a replica that is behind
        wait until it has caught up, within their timeout. epoch: of a plain number; "": the epoch
        that this handle knows. A revision of another epoch than the service's means nothing.
        """
        at, of = revision_of(revision, epoch or self._cache.header.epoch)
        assert at is not None
        seen = self._cache.header._replace(epoch=of, revision=at)
        self._defaults.seen.learn(self._cache.asked, seen)

    @operation
    def read(
        self,
        variables: Reads | None = None,
        *,
        dtype: npt.DTypeLike | None = None,
        copy: bool = True,
        at_revision: int | None = None,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Op[Snapshot]:
        """Several variables at one revision, of any size.

        variables: names or paths; in a mapping, each with a region (`numpy.s_[0:3]`,
            `Rows([2, 5])`) or None. None at all: every variable that has a value.
        dtype: what float values travel as and come as, of float16, bfloat16, float32 and float64;
            all others come as they are.
        copy: False for arrays that are read-only, of the service's own memory where it hands that
            over, as of `Variable.numpy`.
        at_revision: as they were at that revision, while the service keeps it.
        linearizable: not older than any write that completed before, at any replica of the service.
        """
        as_floats = cast_dtype(dtype)
        budget = self._budget(timeout)
        if variables is None:
            yield from self._cache.refresh(budget)
            known = self._cache.variables
            variables = [known.key(s) for s in known.by_path.values() if s.initialized]
        elif not variables:
            raise errors.InvalidRequest("expected the name of at least one variable")
        else:
            yield from self._cache.fresh(budget)
        reads, nbytes = self._reads(regions_of(variables), as_floats)
        if timeout is None:
            budget = self._budget(None, nbytes)
        if not copy:
            reads = {name: read._replace(mapped=True) for name, read in reads.items()}
        return (
            yield from self._cache.read_many(
                reads, budget, at_revision=at_revision, linearizable=linearizable
            )
        )

    def buffer(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> Array:
        """A writable array of zeros to fill and assign.

        Where the service on this host hands memory over, an `assign` of the whole array gives away
        its memory instead of copying it. The array can be used afterwards: what is written to it
        then is the caller's own, and a second `assign` of it copies.
        Raises InvalidRequest for a dtype that the contract does not carry as plain bytes.
        """
        from varserve._client.transport.buffers import shared_empty

        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        try:
            wanted = tensors.numpy_dtype(tensors.dtype_name(np.dtype(dtype)))
            return shared_empty(sizes, wanted)
        except (TypeError, ValueError) as error:
            raise errors.InvalidRequest(f"buffer: {error}") from None
        except OSError as error:
            raise errors.OutOfMemory(f"buffer: no memory: {error}") from None

    @operation
    def summaries(
        self,
        variables: str | Reads = "*",
        *,
        bins: int = 0,
        range: tuple[float, float] | None = None,
        content_hash: bool = True,
        at_revision: int | None = None,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Op[Summaries]:
        """Several variables in a few numbers each, at one revision; see `Variable.summary`.

        variables: names, paths or patterns of them (`*` for any characters); in a mapping, names or
            paths, each with a region or None.
        Raises as `read`, and MessageTooLarge for too many variables with too many bins.
        """
        yield from self._refreshed(timeout)
        known = self._cache.variables
        if not variables:
            raise errors.InvalidRequest("expected the name of at least one variable")
        if not isinstance(variables, Mapping):
            patterns = [variables] if isinstance(variables, str) else variables
            # What a pattern fits and has no value is left out; what is named must have one.
            names = {known.key(s): s.path for s in known.by_path.values() if s.initialized}
            variables = dict.fromkeys(names_matching(patterns, names))
        reads, nbytes = self._reads(variables)
        return (
            yield from self._cache.summarize(
                reads,
                self._budget(timeout, nbytes),
                SummaryOptions(bins, range, content_hash),
                at_revision=at_revision,
                linearizable=linearizable,
            )
        )

    def transaction(
        self,
        *,
        if_revision_match: int | Snapshot | Commit | None = None,
        check: Given | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Transaction[D_co]:
        """Several writes as one commit, made at the end of a `with` (`async with`) block.

        if_revision_match: only if the model is at this revision; a Snapshot or Commit also says in
            which epoch.
        check: a function with its inputs, `function.given(x=...)`: it runs with the new values
            before anybody sees them, and when it fails, or a boolean output of it is false, the
            block raises CheckFailed and nothing was changed.
        message: the reason, for the history.
        """
        return Transaction(self, if_revision_match, message, timeout, check)

    @operation
    def assign(
        self,
        values: Mapping[str, npt.ArrayLike],
        *,
        if_revision_match: int | Snapshot | Commit | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Set several variables, by name or path, as one commit; the rest as `transaction`."""
        return assign_all(self, values, if_revision_match, message, timeout)

    @operation
    def load_state_dict(
        self,
        state: Mapping[str, Any],
        *,
        names: Names | None = None,
        transform: Callable[[str, Any], Any] | None = None,
        strict: bool = True,
        if_revision_match: int | Snapshot | Commit | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Set variables to a PyTorch `state_dict()`, or to any arrays by name, as one commit.

        state: tensors or arrays by name.
        names: served names by those of the state, or a function that gives one, and None for what
            is not served; without it a weight is served under its own name.
        transform: makes of a name of the state and its tensor what is assigned; PyTorch has the
            kernel of a dense layer as [out, in], Keras as [in, out].
        strict: every weight of the state must be served; otherwise those that are not are left out.
        Raises InvalidRequest that names what does not match; nothing was changed.
        """
        values = {
            key: transform(key, value) if transform else value for key, value in state.items()
        }
        shapes = {key: tuple(value.shape) for key, value in values.items()}
        found = match(shapes, self.variables, names, strict=strict)
        assigned = {name: values[key] for key, name in found.items()}
        return assign_all(self, assigned, if_revision_match, message, timeout)

    def mirror(self: Model[Sync], patterns: str | Iterable[str] = "*") -> Mirror:
        """A local copy of variables that follows every commit, for readers in this process.

        patterns: of names or paths, as `summaries`. For use in a `with` block, or until `close`.
        Raises VariableNotFound.
        """
        from .mirror import Mirror

        listed = {name: each.path for name, each in self.variables.items() if each.initialized}
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        names = names_matching(wanted, listed)

        def read() -> Snapshot:
            self.refresh()
            return self.read(names)

        return Mirror(self.name, read, lambda revision: self.watch(names, after_revision=revision))

    @operation
    def update(
        self,
        variables: Reads,
        change: Callable[[Snapshot], Mapping[str, npt.ArrayLike] | None],
        *,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit | None]:
        """Read several values, `change` them, write them as one commit; repeated after a conflict.

        `change` gets the snapshot and gives the new values of some or all that it read, or nothing;
        it may be called more than once. What it read and did not write has not moved either when
        the commit is made. Raises RevisionMismatch when others were faster until the time was over.
        """
        regions = regions_of(variables)
        nbytes = 2 * self._reads(regions)[1]
        return update(self._cache, regions, change, self._budget(timeout, nbytes), message)

    def lease(
        self, values: Mapping[str, npt.ArrayLike], *, seconds: float, message: str = ""
    ) -> Lease[D_co]:
        """Set several variables while a `with` (`async with`) block runs; see `Variable.lease`."""
        writes = [
            prepare(Write(name, value), self._cache.variables.find(name))
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
        patience: seconds to keep trying while the service does not answer.
        Raises VariableNotFound, RevisionCompacted, RevisionInFuture, EpochMismatch.
        """
        revision, epoch = revision_of(after_revision, self._cache.header.epoch)
        return watching(
            self._driver,
            operations.watch_request(
                self._cache.asked, revision, epoch, patterns, values, previous
            ),
            self._cache.scope,
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
        scope = self._cache.scope(self._budget(timeout))
        commits = yield from operations.list_commits(scope, patterns, limit, before)
        self._cache.learn(commits.header)
        return commits

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
        to, epoch = revision_of(revision, self._cache.header.epoch)
        assert to is not None
        known = self._cache.variables
        commit = yield from operations.revert_commits(
            self._cache.scope(self._budget(timeout)),
            to,
            [known.key(known.find(name)) for name in regions_of(variables)],
            self._options(if_revision_match, epoch, message),
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

    def _repr_html_(self) -> str:
        from .showing import model_html

        return model_html(self)
