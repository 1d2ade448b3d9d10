"""Changes of variables: as a caller gives them, and prepared to be sent.

Owns how a change is checked against what is known of its variable. Knows no calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy.typing as npt

from varserve import tensors
from varserve._client import errors, wording
from varserve.tensors import Array
from varserve.v1 import model_service_pb2 as pb

from .assign_operation import AssignOperation
from .regions import Index, Part, Rows, part_of, resolve
from .specs import VariableSpec

WIRE_OPERATIONS: dict[AssignOperation, pb.AssignOperation] = {
    each: pb.AssignOperation.Value(f"ASSIGN_OPERATION_{each.name}") for each in AssignOperation
}
"""The contract's number of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One change of one variable.

    value: of the variable's dtype and of the shape of the variable or region.
    region: None for the whole variable.
    if_revision_match: the write happens only if the variable's last write was at this revision.
    """

    variable: str
    value: npt.ArrayLike
    operation: AssignOperation | str = AssignOperation.SET
    region: Index | Rows | Part | None = None
    if_revision_match: int | None = None


def operation_of(given: AssignOperation | str) -> AssignOperation:
    """How a value changes a variable. Raises InvalidRequest."""
    try:
        return AssignOperation(given)
    except ValueError:
        raise errors.InvalidRequest(
            f"operation: expected set, add or sub, found {wording.shown(given)}"
        ) from None


class PreparedWrite(NamedTuple):
    """A change as it is sent: the value in the contract's dtype and in C order."""

    variable: str
    value: Array
    operation: AssignOperation
    part: Part
    if_revision_match: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the value in a body."""
        return tensors.body_length(self.value)


def prepare(write: Write, spec: VariableSpec | None = None) -> PreparedWrite:
    """A change, ready to be sent. The value is not copied unless it must be.

    With a spec the value is checked against it, and takes its dtype where it has none of its own.
    Raises DtypeMismatch, ShapeMismatch, OperationUnsupported, RegionInvalid.
    """
    operation = operation_of(write.operation)
    name = write.variable if spec is None else spec.name
    dtype = None if spec is None else tensors.dtype_name(spec.dtype)
    if operation is not AssignOperation.SET and dtype in (tensors.STRING, "bool"):
        raise errors.OperationUnsupported(
            f"variable {name!r}: {dtype} has no addition", metadata={"variable": name}
        )
    part = None if spec is None else part_of(spec, write.region)
    with errors.about(f"variable {name!r}", variable=name):
        part = part or resolve(write.region)
        value = part.fit(tensors.as_array(write.value, dtype))
    path = write.variable if spec is None else spec.path
    return PreparedWrite(path, value, operation, part, write.if_revision_match)


def writes_of(writes: Iterable[Write] | Mapping[str, npt.ArrayLike]) -> list[Write]:
    """Changes, of which a mapping gives whole values by name."""
    if isinstance(writes, Mapping):
        return [Write(name, value) for name, value in writes.items()]
    return list(writes)
