"""Revisions of one model and its variables, and the conditions that callers put on them.

The caller holds the model's lock: exclusive to move them, shared to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.core.ports.messages import Conditions, Header


class Revisions:
    """The epoch, the model's revision, and for each variable that of its last write."""

    def __init__(self, model: str, version: int, paths: Iterable[str], epoch: str) -> None:
        self._model = model
        self._version = version
        self.epoch = epoch
        self.current = 0
        self._written = dict.fromkeys(paths, 0)
        self._header = self.header_at(0)

    @property
    def header(self) -> Header:
        """The state as it is now. Needs no lock."""
        header = self._header
        if header.revision != self.current:
            header = self._header = self.header_at(self.current)
        return header

    def header_at(self, revision: int) -> Header:
        """The state at a revision."""
        return Header(self._model, self._version, self.epoch, revision)

    def of(self, path: str) -> int:
        """The revision at which a variable was written last; 0 for never."""
        return self._written[path]

    def move(self, paths: Iterable[str]) -> Mapping[str, int]:
        """Count one more commit, which wrote these variables; the revisions that this replaces."""
        replaced = {path: self._written[path] for path in paths}
        self.current += 1
        self._written.update(dict.fromkeys(replaced, self.current))
        return replaced

    def move_back(self, replaced: Mapping[str, int]) -> None:
        """Take back the last `move`, which returned `replaced`. Nothing replaced: nothing moved."""
        if replaced:
            self.current -= 1
            self._written.update(replaced)

    def restore(self, current: int, written: Mapping[str, int]) -> None:
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
