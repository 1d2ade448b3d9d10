"""Errors of requests that are wrong, or that name what is not there."""

from __future__ import annotations

from .base import VarserveError


class InvalidRequest(VarserveError, ValueError):
    """The request is wrong and will never succeed as it is."""

    reason = "REQUEST_MALFORMED"


class DtypeMismatch(InvalidRequest):
    """The dtype is not that of the variable or input."""

    reason = "DTYPE_MISMATCH"


class DtypeUnsupported(InvalidRequest):
    """The dtype is not one that the contract carries."""

    reason = "DTYPE_UNSUPPORTED"


class ShapeMismatch(InvalidRequest):
    """The shape does not fit the variable, region or input."""

    reason = "SHAPE_MISMATCH"


class RegionInvalid(InvalidRequest):
    """A region reaches outside its variable, or is not one."""

    reason = "REGION_INVALID"


class OperationUnsupported(InvalidRequest):
    """The dtype has no addition."""

    reason = "OPERATION_UNSUPPORTED"


class InputMismatch(InvalidRequest):
    """An input is missing, unknown or given twice."""

    reason = "INPUT_MISMATCH"


class OverloadMismatch(InvalidRequest):
    """No overload of the function fits these inputs, or more than one does."""

    reason = "OVERLOAD_MISMATCH"


class NameAmbiguous(InvalidRequest):
    """The name fits more than one variable; the message lists their paths."""

    reason = "NAME_AMBIGUOUS"


class ChecksumMismatch(InvalidRequest):
    """Bytes changed on the way, and again when they were sent once more."""

    reason = "CHECKSUM_MISMATCH"


class RequestIdReused(InvalidRequest):
    """The request_id was used before, for a different request."""

    reason = "REQUEST_ID_REUSED"


class CastUnsupported(InvalidRequest):
    """A value of the variable's dtype cannot be sent as the one that was asked for."""

    reason = "CAST_UNSUPPORTED"


class PatchUnsupported(InvalidRequest):
    """Only floating-point tensors inside a function can be patched."""

    reason = "PATCH_UNSUPPORTED"


class NotFound(VarserveError, KeyError):
    """The thing named is not there."""

    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """The service has no model of this name."""

    reason = "MODEL_NOT_FOUND"


class VariableNotFound(NotFound):
    """The model has no variable of this name or path."""

    reason = "VARIABLE_NOT_FOUND"


class FunctionNotFound(NotFound):
    """The model has no function of this name or path."""

    reason = "FUNCTION_NOT_FOUND"


class LeaseNotFound(NotFound):
    """The lease has ended, or there was none."""

    reason = "LEASE_NOT_FOUND"


class TensorNotFound(NotFound):
    """The function has no inner tensor of this name; the message has close ones."""

    reason = "TENSOR_NOT_FOUND"
