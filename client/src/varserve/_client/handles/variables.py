"""Handles of variables: `tf.Variable`'s own words over the wire.

Owns `Variable`, `Region` (a part of one, `variable[0:3]`) and the mapping that finds them.
Attributes never ask the service: they say what it last said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from varserve import tensors
from varserve._client import errors
from varserve._client.transport.calls import Op
from varserve._client.values.assign_operation import AssignOperation
from varserve._client.values.regions import Index, Part, Rows, index_text, part_of
from varserve._client.values.results import Commit
from varserve._client.values.specs import shape_text
from varserve.tensors import Array

from .base import D_co, operation
from .cache import part_bytes
from .of_models import ModelHandle
from .value import Value


class Variable(Value[D_co]):
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


class Region(Value[D_co]):
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

    # Not as a Mapping's: to compare all values takes calls, and arrays have no one answer.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

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
