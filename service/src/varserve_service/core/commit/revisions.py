"""Revisions of one model and its variables, and the conditions that callers put on them.

The caller holds the model's lock: exclusive to move, shared to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.core.ports.messages import Conditions


class Revisions:
    """The epoch, the model's revision, and for each variable that of its last write."""

    def __init__(self, model: str, paths: Iterable[str], epoch: str) -> None:
        self._model = model
        self.epoch = epoch
        self.current = 0
        self._written = dict.fromkeys(paths, 0)

    def of(self, path: str) -> int:
        """The revision at which a variable was written last; 0 for never."""
        return self._written[path]

    def move(self, paths: Iterable[str]) -> Callable[[], None]:
        """Count one more commit, which wrote these variables; the result takes it back."""
        before = {path: self._written[path] for path in paths}
        self.current += 1
        self._written.update(dict.fromkeys(before, self.current))

        def back() -> None:
            self.current -= 1
            self._written.update(before)

        return back

    def restore(self, current: int, written: dict[str, int]) -> None:
        """Go on from revisions that were kept."""
        self.current = current
        self._written.update(written)

    def check(self, conditions: Conditions) -> None:
        """Raises RequestError EPOCH_MISMATCH, REVISION_MISMATCH."""
        if conditions.epoch and conditions.epoch != self.epoch:
            raise RequestError(
                Reason.EPOCH_MISMATCH,
                f"model {self._model!r}: expected epoch {conditions.epoch[:64]!r}, found "
                f"{self.epoch!r}: its state began anew; read it again",
                model=self._model,
                current_epoch=self.epoch,
            )
        expected = conditions.model_revision
        if expected is not None and expected != self.current:
            raise RequestError(
                Reason.REVISION_MISMATCH,
                f"model {self._model!r}: expected revision {expected}, found {self.current}",
                model=self._model,
                current_revision=self.current,
            )

    def check_variable(self, spec: VariableSpec, expected: int | None) -> None:
        """Raises RequestError REVISION_MISMATCH."""
        current = self._written[spec.path]
        if expected is not None and expected != current:
            raise RequestError(
                Reason.REVISION_MISMATCH,
                f"variable {spec.name!r}: expected revision {expected}, found {current}",
                variable=spec.name,
                current_revision=current,
            )
