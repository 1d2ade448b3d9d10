"""A value to read and to change: what a variable and a region of one have in common.

Attributes never ask the service: they say what it last said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from varserve._client import errors
from varserve._client.operations.reads import Read, SummaryOptions, cast_dtype
from varserve._client.transport.calls import Op
from varserve._client.values.assign_operation import AssignOperation
from varserve._client.values.regions import Index, Part, Rows, part_of
from varserve._client.values.results import Commit, Snapshot
from varserve._client.values.specs import PartialShape, VariableSpec
from varserve._client.values.summaries import Summary
from varserve._client.values.writes import Write, prepare
from varserve.tensors import Array

from .arithmetic import ArrayLike
from .base import D_co, operation
from .cache import check_out, part_bytes
from .leases import Lease
from .of_models import ModelHandle
from .updates import update


class Value(ModelHandle[D_co], ArrayLike):
    """What a variable and a region of one have in common: a value to read and to change."""

    _path: str

    @property
    def _part(self) -> Part | None:
        """None: the whole variable."""
        return None

    @property
    def _index(self) -> Index | None:
        """What selects the part; None: the whole variable."""
        return None

    @property
    def spec(self) -> VariableSpec:
        """All that the service last said of the variable. Raises VariableNotFound when the version
        that the model is now has it no more."""
        return self._cache.variables.at(self._path)

    @property
    def name(self) -> str:
        """The variable's TensorFlow name where it has one of its own, else its path."""
        return self.spec.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; object (of `bytes`) for strings."""
        return self.spec.dtype

    @property
    def shape(self) -> PartialShape:
        """A size for each dimension, None where unknown; None when the rank is unknown."""
        part = self._part
        return self.spec.shape if part is None else part.shown_shape

    @property
    def ndim(self) -> int | None:
        """The number of dimensions, None when unknown."""
        return None if self.shape is None else len(self.shape)

    def _resolved(self) -> Part:
        return part_of(self.spec, self._part)

    @operation
    def numpy(
        self,
        *,
        dtype: npt.DTypeLike | None = None,
        out: Array | None = None,
        copy: bool = True,
        at_revision: int | None = None,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Op[Array]:
        """The value, as an array of its own: `shape`, `dtype`.

        Any size; a large one takes the array and a few MiB.
        copy: False for an array that is read-only: where the service on this host hands memory over
        (`connect(lane=)`), it is the service's own memory, whatever the size, and stays what it is.
        dtype: what it travels as and comes as, where that is not its own: of float16, bfloat16,
        float32 and float64, each converts to each other, rounded to the nearest.
        out: an array of that dtype and shape, C-contiguous and writable, to take the value and be
        returned: reading again and again into memory that is there is several times as fast. When
        the call fails it holds anything.
        at_revision: as it was at that revision of the model, while the service keeps it.
        linearizable: not older than any write that completed before, at any replica of the service.
        timeout: seconds, all in all.
        Raises VariableUninitialized, RevisionCompacted, RevisionInFuture, CastUnsupported; of `out`
        InvalidRequest, DtypeMismatch, ShapeMismatch.
        """
        if out is not None and not copy:
            raise errors.InvalidRequest("expected copy=False or out, found both")
        return self._read(
            None,
            dtype,
            timeout,
            at_revision,
            out,
            linearizable=linearizable,
            mapped=not copy,
        )

    read_value = numpy

    @operation
    def summary(
        self,
        *,
        bins: int = 0,
        range: tuple[float, float] | None = None,
        content_hash: bool = True,
        at_revision: int | None = None,
        linearizable: bool = False,
        timeout: float | None = None,
    ) -> Op[Summary]:
        """Count, bounds, mean, deviation, norm, NaNs, a histogram and a hash, without the bytes.

        bins: of a histogram, at most 4096; 0 for none. range: its outer edges; None for the
            smallest and the largest element.
        content_hash: False saves the service reading every byte once more.
        at_revision: of the value as it was at that revision, while the service keeps it.
        linearizable: as `numpy`.
        Raises as `numpy`.
        """
        options = SummaryOptions(bins, range, content_hash)
        return self._summarized(options, at_revision, timeout, linearizable=linearizable)

    def _summarized(
        self,
        options: SummaryOptions,
        at_revision: int | None,
        timeout: float | None,
        *,
        linearizable: bool = False,
    ) -> Op[Summary]:
        yield from self._refreshed(timeout)
        part = self._resolved()
        summaries = yield from self._cache.summarize(
            {self._path: Read(self._path, part)},
            self._budget(timeout, part_bytes(self.spec, part)),
            options,
            at_revision=at_revision,
            linearizable=linearizable,
        )
        return summaries[self._path]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        driver = self._blocking("np.asarray", "await variable.numpy()")
        if copy is False:
            raise ValueError("the value comes over the network, which makes a copy")
        value: Array = driver.run(self._read())
        return value if dtype is None else value.astype(dtype, copy=False)

    @operation
    def assign(
        self,
        value: npt.ArrayLike,
        *,
        read_value: bool = False,
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Set the value, as one commit.

        value: of the dtype and shape of what is assigned; Python numbers and lists take the dtype.
        read_value: `Commit.value` is what the variable (or region) holds after this commit.
        if_revision_match: only if the variable's last write was at this revision.
        message: the reason, for the history.
        Raises DtypeMismatch, ShapeMismatch, RevisionMismatch, EpochMismatch.
        """
        return self._change(
            AssignOperation.SET, value, None, if_revision_match, read_value, timeout, message
        )

    @operation
    def assign_add(
        self,
        delta: npt.ArrayLike,
        *,
        read_value: bool = False,
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Add to the value, as one commit. As `assign`, and raises OperationUnsupported."""
        return self._change(
            AssignOperation.ADD, delta, None, if_revision_match, read_value, timeout, message
        )

    @operation
    def assign_sub(
        self,
        delta: npt.ArrayLike,
        *,
        read_value: bool = False,
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Subtract from the value, as one commit. As `assign`, and raises OperationUnsupported."""
        return self._change(
            AssignOperation.SUB, delta, None, if_revision_match, read_value, timeout, message
        )

    @operation
    def update(
        self,
        change: Callable[[Array], npt.ArrayLike],
        *,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Read, `change`, write; repeated when another caller wrote in between.

        `change` gets the value and gives the new one, maybe more than once. Raises RevisionMismatch
        when others were faster until the time was over.
        """
        yield from self._refreshed(timeout)
        path, part = self._path, self._resolved()
        budget = self._budget(timeout, 2 * (part_bytes(self.spec, part) or 0))

        def changed(snapshot: Snapshot) -> dict[str, npt.ArrayLike]:
            return {path: change(snapshot[path])}

        commit = yield from update(self._cache, {path: self._index}, changed, budget, message)
        assert commit is not None
        return commit

    @operation
    def plot(self, *, bins: int = 30, ax: Any = None, timeout: float | None = None) -> Op[Any]:
        """Draw how the elements are distributed, with matplotlib; the axes that it is drawn on.

        The service counts; the value does not travel. ax: axes to draw on; None: new ones. Raises
        ModuleNotFoundError where matplotlib is not installed.
        """
        from .showing import plotted

        return plotted(self, bins, ax, timeout)

    def lease(self, value: npt.ArrayLike, *, seconds: float, message: str = "") -> Lease[D_co]:
        """Set the value while a `with` (`async with`) block runs; then the old one comes back.

        seconds: until the service puts it back by itself when this program does not renew the
        lease, which happens in the background.
        """
        write = Write(self._path, value, AssignOperation.SET, self._part)
        return Lease(self, [prepare(write, self.spec)], seconds, message)

    def _read(
        self,
        rows: Rows | None = None,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
        at_revision: int | None = None,
        out: Array | None = None,
        *,
        linearizable: bool = False,
        again: bool = False,
        mapped: bool = False,
    ) -> Op[Array]:
        cache = self._cache
        if cache.stale:
            yield from self._refreshed(timeout)
        spec = cache.variables.at(self._path)
        part = part_of(spec, self._part if rows is None else rows)
        read = Read(cache.variables.key(spec), part, cast_dtype(dtype), out, mapped)
        if out is not None:
            check_out(spec, read)
        nbytes = part_bytes(spec, part, read.dtype)
        reading = yield from cache.read(
            spec,
            read,
            nbytes,
            self._budget(timeout, nbytes),
            at_revision=at_revision,
            linearizable=linearizable,
        )
        if cache.stale and part.message is not None and not again:
            # Of another epoch: the index was resolved with the sizes of the last one.
            return (
                yield from self._read(
                    rows,
                    dtype,
                    timeout,
                    at_revision,
                    out,
                    linearizable=linearizable,
                    again=True,
                    mapped=mapped,
                )
            )
        assert reading.value is not None
        return reading.value

    def _change(
        self,
        operation: AssignOperation,
        value: npt.ArrayLike,
        rows: Rows | None,
        revision: int | None,
        read_back: bool,
        timeout: float | None,
        message: str,
        *,
        again: bool = False,
    ) -> Op[Commit]:
        # A revision means something in its epoch only.
        epoch = "" if revision is None else self._cache.epoch_of(self._path)
        if self._cache.stale:
            yield from self._refreshed(timeout)
        region = self._part if rows is None else rows
        write = prepare(Write(self._path, value, operation, region, revision), self.spec)
        budget = self._budget(timeout, write.nbytes)
        if write.part.message is not None:
            # And so does an index: it was resolved with the sizes of this epoch.
            epoch = epoch or self._cache.header.epoch
        options = self._options(epoch=epoch, message=message, read_back=read_back)
        try:
            return (yield from self._cache.write([write], budget, options))
        except (errors.EpochMismatch, errors.RegionInvalid):
            if revision is not None or again or not epoch:
                raise
            yield from self._cache.refresh(budget)
            if self._cache.header.epoch == epoch:
                raise
        return (
            yield from self._change(
                operation, value, rows, None, read_back, timeout, message, again=True
            )
        )
