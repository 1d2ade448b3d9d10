"""Handles of variables: `tf.Variable`'s own words over the wire.

Owns `Variable`, `Region` (a part of one, `variable[0:3]`) and the mapping that finds them.
Attributes never ask the service: they say what it last said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from varserve import tensors
from varserve._client import errors
from varserve._client.operations.reads import Read, SummaryOptions, cast_dtype
from varserve._client.transport.calls import Op
from varserve._client.values.regions import Index, Part, Rows, index_text, part_of
from varserve._client.values.results import Commit, Snapshot
from varserve._client.values.specs import PartialShape, VariableSpec, shape_text
from varserve._client.values.summaries import Summary
from varserve._client.values.writes import AssignOperation, Write, prepare
from varserve.tensors import Array

from .arithmetic import ArrayLike
from .base import D_co, ModelHandle, operation
from .cache import check_out, part_bytes
from .leases import Lease
from .updates import update


class _Value(ModelHandle[D_co], ArrayLike):
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


class Variable(_Value[D_co]):
    """One variable of a served model.

    `variable[index]` is a region of it: integers, slices with a positive step, `...`.
    """

    def __init__(self, owner: ModelHandle[D_co], path: str) -> None:
        super().__init__(owner._driver, owner._cache, owner._defaults)
        self._path = path

    @property
    def path(self) -> str:
        """Path in the model's object graph: unique, and the identity that lasts."""
        return self._path

    @property
    def trainable(self) -> bool:
        """As the model was built."""
        return self.spec.trainable

    @property
    def device(self) -> str:
        """Where the value lives: `CPU:0`, `GPU:0`, ..."""
        return self.spec.device

    @property
    def initialized(self) -> bool:
        """It has a value. A whole assign gives it one."""
        return self.spec.initialized

    @property
    def revision(self) -> int:
        """Revision of its last write, as far as this client has heard; 0: as loaded."""
        return self.spec.revision

    @property
    def nbytes(self) -> int:
        """Bytes of the value; 0 when uninitialized, and for strings."""
        return self.spec.nbytes

    def __getitem__(self, index: Index) -> Region[D_co]:
        if index is None:  # elsewhere the whole variable; numpy's new axis
            raise errors.RegionInvalid(f"variable {self.name!r}: expected an index, found None")
        return Region(self, part_of(self.spec, index), index)

    @operation
    def sparse_read(
        self,
        rows: npt.ArrayLike,
        *,
        dtype: npt.DTypeLike | None = None,
        timeout: float | None = None,
    ) -> Op[Array]:
        """Some rows, by their indices: shape [n, ...]. A row may be named twice.

        dtype: as of `numpy`.
        """
        return self._read(Rows(rows), dtype, timeout)

    @operation
    def scatter_update(
        self,
        rows: npt.ArrayLike,
        value: npt.ArrayLike,
        *,
        read_value: bool = False,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Set some rows, by their indices, each at most once. value: shape [n, ...]."""
        return self._change(
            AssignOperation.SET, value, Rows(rows), None, read_value, timeout, message
        )

    @operation
    def scatter_add(
        self,
        rows: npt.ArrayLike,
        delta: npt.ArrayLike,
        *,
        read_value: bool = False,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Add to some rows. delta: shape [n, ...]; a row that is named twice is added to twice."""
        return self._change(
            AssignOperation.ADD, delta, Rows(rows), None, read_value, timeout, message
        )

    @operation
    def scatter_sub(
        self,
        rows: npt.ArrayLike,
        delta: npt.ArrayLike,
        *,
        read_value: bool = False,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Subtract from some rows. As `scatter_add`."""
        return self._change(
            AssignOperation.SUB, delta, Rows(rows), None, read_value, timeout, message
        )

    def _repr_html_(self) -> str:
        from .showing import variable_html

        return variable_html(self)

    # An index makes a region: iterating would make one after the other, without end.
    __iter__ = None

    def __repr__(self) -> str:
        spec = self.spec
        state = f"revision {spec.revision}" if spec.initialized else "uninitialized"
        return (
            f"<varserve.Variable {spec.name!r} {tensors.dtype_name(spec.dtype)} "
            f"{shape_text(spec.shape)} on {spec.device}, {state}>"
        )


class Region(_Value[D_co]):
    """A part of a variable, to read and to change on its own."""

    def __init__(self, variable: Variable[D_co], part: Part | None, index: Index) -> None:
        super().__init__(variable._driver, variable._cache, variable._defaults)
        self.variable = variable
        self.index = index
        self._path = variable.path
        # For the sizes of this version of the model; None: not resolved yet.
        self._resolved_part = part
        self._resolved_for = None if part is None else variable.shape

    @property
    def _index(self) -> Index:
        return self.index

    @property
    def _part(self) -> Part:
        spec = self.spec
        if self._resolved_part is None or spec.shape != self._resolved_for:
            # In another version of the model: what counts from the end counts from its end.
            self._resolved_part = part_of(spec, self.index)
            self._resolved_for = spec.shape
        return self._resolved_part

    __iter__ = None

    def __reduce__(self) -> Any:
        return Region, (self.variable, None, self.index)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the value, None when only a read tells."""
        return part_bytes(self.spec, self._part)

    def __repr__(self) -> str:
        return (
            f"<varserve.Region {self.name!r}[{index_text(self.index)}] "
            f"{tensors.dtype_name(self.dtype)} {shape_text(self.shape)}>"
        )


class Variables(ModelHandle[D_co], Mapping[str, Variable[D_co]]):
    """A model's variables: iterates names, finds by name or path.

    Raises VariableNotFound, with the closest names, or NameAmbiguous.
    """

    def __getitem__(self, name: str) -> Variable[D_co]:
        return Variable(self, self._cache.variables.find(name).path)

    def __iter__(self) -> Iterator[str]:
        lookup = self._cache.variables
        return iter([lookup.key(spec) for spec in lookup.by_path.values()])

    def __len__(self) -> int:
        return len(self._cache.variables.by_path)

    def __contains__(self, name: object) -> bool:
        return name in self._cache.variables

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} variables:", *(f"  {each!r}" for each in self.values())])

    def _repr_html_(self) -> str:
        from .showing import variables_html

        return variables_html(self)
