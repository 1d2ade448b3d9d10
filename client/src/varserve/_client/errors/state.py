"""Errors of a state that is not what the request needs."""

from __future__ import annotations

from .base import VarserveError


class Conflict(VarserveError):
    """The state moved since it was read. Read again, decide again."""

    reason = "ABORTED"


class RevisionMismatch(Conflict):
    """A revision that the request is conditional on has moved."""

    reason = "REVISION_MISMATCH"

    @property
    def current_revision(self) -> int | None:
        """The current revision; None when the service did not report it."""
        return self._revision("current_revision")


class EpochMismatch(Conflict):
    """The model's state has a new epoch since the revision in the request was read."""

    reason = "EPOCH_MISMATCH"


class FailedPrecondition(VarserveError):
    """The state is not what the request needs."""

    reason = "FAILED_PRECONDITION"


class VariableUninitialized(FailedPrecondition):
    """The variable has no value yet; a whole assign gives it one."""

    reason = "VARIABLE_UNINITIALIZED"


class AnswerNotKept(FailedPrecondition):
    """The request was done before, and its answer was too large to be kept."""

    reason = "ANSWER_NOT_KEPT"


class FunctionFailed(FailedPrecondition):
    """TensorFlow refused to run the function on these inputs or this state. Nothing changed."""

    reason = "FUNCTION_FAILED"


class CheckFailed(FailedPrecondition):
    """The check that a commit carries did not pass. Nothing changed, and no one read the values."""

    reason = "CHECK_FAILED"

    @property
    def outputs(self) -> dict[str, str]:
        """What the check gave, as text; empty where it failed."""
        return {
            key.removeprefix("output/"): text
            for key, text in self.metadata.items()
            if key.startswith("output/")
        }


class TensorNotRun(FailedPrecondition):
    """The inner tensor was not computed: its branch was not taken, or its loop had no iteration."""

    reason = "TENSOR_NOT_RUN"


class TensorInsideXla(FailedPrecondition):
    """The inner tensor is in a call that XLA runs as one. Ask with `open_xla`."""

    reason = "TENSOR_INSIDE_XLA"


class GradientUnavailable(FailedPrecondition):
    """There is no such gradient; the message says why."""

    reason = "GRADIENT_UNAVAILABLE"


class StateNotCopyable(FailedPrecondition):
    """The function changes state that is no variable, which no inspection can copy."""

    reason = "STATE_NOT_COPYABLE"


class InspectionUnsupported(FailedPrecondition):
    """The function is built in a way that cannot be looked into; the message says which."""

    reason = "INSPECTION_UNSUPPORTED"


class ModelLoadFailed(FailedPrecondition):
    """The SavedModel could not be loaded. What was served before goes on."""

    reason = "MODEL_LOAD_FAILED"


class ModelNotAllowed(FailedPrecondition):
    """The SavedModel, or an operation in it, is not one that the service's operator allows."""

    reason = "MODEL_NOT_ALLOWED"


class SaveExists(FailedPrecondition):
    """There is something of this name, and nothing is ever overwritten."""

    reason = "SAVE_EXISTS"


class SaveUnsupported(FailedPrecondition):
    """The model, or one of its variables, cannot be saved in this format."""

    reason = "SAVE_UNSUPPORTED"


class SaveFailed(FailedPrecondition):
    """The files could not be written, for example for lack of space. None are left behind."""

    reason = "SAVE_FAILED"


class NotConfigured(FailedPrecondition):
    """The service's operator has not configured what the call needs."""

    reason = "NOT_CONFIGURED"


class OutOfRange(VarserveError, LookupError):
    """A revision that is not available."""

    reason = "OUT_OF_RANGE"


class RevisionCompacted(OutOfRange):
    """The history does not reach back to this revision."""

    reason = "REVISION_COMPACTED"

    @property
    def oldest_revision(self) -> int | None:
        """The oldest revision in the history; None when the service did not report it."""
        return self._revision("oldest_revision")


class RevisionInFuture(OutOfRange):
    """The model has not come to this revision."""

    reason = "REVISION_IN_FUTURE"

    @property
    def current_revision(self) -> int | None:
        """The current revision; None when the service did not report it."""
        return self._revision("current_revision")
