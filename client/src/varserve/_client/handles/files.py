"""A model's variables to and from files, as methods of its handle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from varserve._client.errors import InvalidRequest
from varserve._client.transport.calls import Op, Work
from varserve._client.values.arguments import Given
from varserve._client.values.results import Commit, Snapshot, revision_of

from .base import D_co, operation
from .of_models import ModelHandle
from .transactions import assign_all

if TYPE_CHECKING:
    from varserve._client.stored import Stored
    from varserve._client.values.differences import Differences


class ModelFiles(ModelHandle[D_co]):
    """What a model has of files: `load`, `save` and `diff`."""

    @operation
    def load(
        self,
        path: str | os.PathLike[str],
        patterns: str | Sequence[str] = (),
        *,
        names: Mapping[str, str] | None = None,
        strip_prefix: str = "",
        ignore_unknown: bool = False,
        cast: bool = False,
        if_revision_match: int | Snapshot | Commit | None = None,
        check: Given | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Commit]:
        """Set all variables that a file has, or those that fit a pattern, as one commit.

        path: .safetensors, .npz, Keras' .keras, .weights.h5 and .h5, a SavedModel's folder or a
            checkpoint's prefix; neither TensorFlow nor Keras is needed. Keras' files need h5py,
            safetensors its package: `pip install "varserve[files]"`.
        names: names of variables by the file's own. strip_prefix: left out of the file's names.
        ignore_unknown: leave out what the model has no variable for.
        cast: make the file's tensors of the variables' dtypes.
        The rest as `transaction`. Raises InvalidRequest that names what does not fit, ShapeMismatch
        and DtypeMismatch; nothing was changed.
        """
        files = _operations()
        yield from self._refreshed(timeout)
        values = yield from files.read_file(
            self._cache,
            path,
            _listed(patterns),
            names,
            strip_prefix,
            ignore_unknown=ignore_unknown,
            cast=cast,
        )
        return (yield from assign_all(self, values, if_revision_match, message, timeout, check))

    @operation
    def save(
        self,
        path: str | os.PathLike[str],
        patterns: str | Sequence[str] = (),
        *,
        at_revision: int | None = None,
        timeout: float | None = None,
    ) -> Op[Snapshot]:
        """Write all variables, or those that fit a pattern, to a .safetensors file, and give them.

        All are of one revision. The file is there whole or not at all. Dtypes that safetensors
        lacks are written as bytes, which `load` reads.
        """
        files = _operations()
        files.check_target(path)
        yield from self._refreshed(timeout)
        names = self._with_value(_listed(patterns))
        reads, nbytes = self._reads(dict.fromkeys(names))
        budget = self._budget(timeout, nbytes)
        snapshot = yield from self._cache.read_many(reads, budget, at_revision=at_revision)
        yield from files.write_file(path, snapshot)
        return snapshot

    @operation
    def diff(
        self,
        other: str | os.PathLike[str] | int | Snapshot | Commit,
        patterns: str | Sequence[str] = (),
        *,
        names: Mapping[str, str] | None = None,
        strip_prefix: str = "",
        hashes_only: bool = False,
        timeout: float | None = None,
    ) -> Op[Differences]:
        """What differs from a file, as `load` takes it, or from an earlier revision.

        Hashes are compared first, and only values that differ are read; hashes_only: none is.
        names, strip_prefix: as `load`. Raises RevisionCompacted, EpochMismatch.
        """
        files = _operations()
        yield from self._refreshed(timeout)
        wanted = self._with_value(_listed(patterns))
        if isinstance(other, (int, Snapshot, Commit)):
            revision, epoch = revision_of(other, self._cache.header.epoch)
            assert revision is not None
            since: Differences = yield from files.differences_since(
                self, wanted, revision, epoch, timeout, hashes_only=hashes_only
            )
            return since
        path = other
        stored = yield Work(lambda: files.open_stored(path).renamed(names, strip_prefix))
        compared: Differences = yield from files.differences_with(
            self, stored, wanted, timeout, hashes_only=hashes_only
        )
        return compared

    @operation
    def _diff_stored(
        self, stored: Stored, names: Sequence[str], *, timeout: float | None
    ) -> Op[Differences]:
        """What differs between variables and a file that is open."""
        return _operations().differences_with(self, stored, names, timeout)  # type: ignore[no-any-return]

    def _with_value(self, patterns: Sequence[str]) -> list[str]:
        names: list[str] = _operations().selected(self._cache, patterns)
        if not names:
            raise InvalidRequest(f"model {self._cache.asked!r} has no variable with a value")
        return names


def _operations() -> Any:
    from . import file_operations  # for these methods alone

    return file_operations


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns
