"""Models beside files: loaded from, saved to, and compared with them. By hash first, then values.

Files are read and written off the event loop, tensor by tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from varserve._client.errors import AccessDenied, EpochMismatch, InvalidRequest, RevisionCompacted
from varserve._client.operations.reads import SummaryOptions
from varserve._client.stored import Stored, StoredTensor, choose, open_stored, values_of
from varserve._client.transport.calls import Op, Work
from varserve._client.values.differences import Differences, VariableDifference
from varserve._client.values.names import names_matching
from varserve._client.values.results import Snapshot
from varserve._client.values.specs import VariableSpec, shape_text
from varserve._client.values.summaries import Summaries, content_hash
from varserve.tensors import Array, dtype_name

from .cache import ModelCache
from .of_models import ModelHandle

_HASHES = SummaryOptions(0, None, True)
_HASHES_SUFFICE = (AccessDenied, RevisionCompacted)
"""Without the right to read, or when values are not kept, hashes alone are compared."""


def variables_of(cache: ModelCache) -> dict[str, VariableSpec]:
    """All variables of a model, by the name that each is shown by."""
    known = cache.variables
    return {known.key(spec): spec for spec in known.by_path.values()}


def selected(cache: ModelCache, patterns: Sequence[str]) -> list[str]:
    """Names of the variables that have a value and fit the patterns; none: all that have one.

    What is named without a pattern need not have one. Raises VariableNotFound.
    """
    known = cache.variables
    names = {known.key(s): s.path for s in known.by_path.values() if s.initialized}
    matching = names_matching(list(patterns) or ["*"], names) if names or patterns else []
    # One variable may be meant twice, by its name and its path.
    return list(dict.fromkeys(known.key(known.find(name)) for name in matching))


def read_file(
    cache: ModelCache,
    path: str | os.PathLike[str],
    patterns: Sequence[str],
    names: Mapping[str, str] | None,
    prefix: str,
    *,
    ignore_unknown: bool,
    cast: bool,
) -> Op[dict[str, Array]]:
    """What a file sets variables to, by their names. Raises InvalidRequest."""
    variables = variables_of(cache)

    def read() -> dict[str, Array]:
        stored = open_stored(path).renamed(names, prefix)
        chosen = choose(stored, variables, patterns, ignore_unknown=ignore_unknown)
        return values_of(chosen, variables, cast=cast)

    values: dict[str, Array] = yield Work(read)
    return values


def write_file(path: str | os.PathLike[str], snapshot: Snapshot) -> Op[None]:
    """Write a snapshot to a safetensors file, whole or not at all. Raises InvalidRequest."""
    from varserve._client.stored.safetensors_files import write_safetensors

    header = {f"varserve.{key}": str(value) for key, value in snapshot.header._asdict().items()}
    yield Work(lambda: write_safetensors(Path(path), snapshot, header))


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises InvalidRequest for a name that no file of values is saved under."""
    if not os.fspath(path).endswith(".safetensors"):
        raise InvalidRequest(f"{path}: expected a name that ends with .safetensors")


def differences_with(
    model: ModelHandle[Any],
    stored: Stored,
    names: Sequence[str],
    timeout: float | None,
    *,
    hashes_only: bool = False,
) -> Op[Differences]:
    """Compares variables by name with the tensors of a file."""
    matched = stored.match(variables_of(model._cache))
    summaries = yield from _summaries(model, names, None, timeout)
    compared: tuple[list[VariableDifference], dict[str, Array]] = yield Work(
        lambda: _compare(names, matched, summaries)
    )
    differences, unequal = compared
    details: dict[str, VariableDifference] = {}
    if unequal and not hashes_only:
        # At the revision of the summaries, also after later writes.
        with suppress(*_HASHES_SUFFICE):
            values = yield from _read(model, list(unequal), summaries.revision, timeout)
            details = {name: difference(name, values[name], unequal[name]) for name in unequal}
    return Differences(
        summaries.header,
        tuple(details.get(each.variable, each) for each in differences),
        len(names) - len(differences),
        tuple(stored.unmatched(matched)),
    )


def _compare(
    names: Sequence[str], matched: Mapping[str, StoredTensor], summaries: Summaries
) -> tuple[list[VariableDifference], dict[str, Array]]:
    """What differs by dtype, shape or hash, and the values of the file for the last."""
    differences: list[VariableDifference] = []
    unequal: dict[str, Array] = {}
    for name in names:
        live = summaries[name]
        here = _typed(live.dtype, live.shape)
        if name not in matched:
            differences.append(VariableDifference(name, "absent", here, ""))
            continue
        array = matched[name].load()
        there = _typed(array.dtype, array.shape)
        if array.dtype != live.dtype:
            differences.append(VariableDifference(name, "dtype", here, there))
        elif array.shape != live.shape:
            differences.append(VariableDifference(name, "shape", here, there))
        elif content_hash(array) != live.content_hash:
            differences.append(VariableDifference(name, "value", here, there))
            unequal[name] = array
    return differences, unequal


def differences_since(
    model: ModelHandle[Any],
    names: Sequence[str],
    revision: int,
    epoch: str,
    timeout: float | None,
    *,
    hashes_only: bool,
) -> Op[Differences]:
    """Compares variables by name with what they were at an earlier revision of an epoch."""
    now = yield from _summaries(model, names, None, timeout)
    if now.epoch != epoch:
        raise EpochMismatch(
            f"revision {revision} is of the epoch {epoch}, which is over: expected a revision of "
            f"{now.epoch}"
        )
    then = yield from _summaries(model, names, revision, timeout)
    unequal = [name for name in names if now[name].content_hash != then[name].content_hash]
    differences = [
        VariableDifference(
            name,
            "shape" if now[name].shape != then[name].shape else "value",
            _typed(now[name].dtype, now[name].shape),
            _typed(then[name].dtype, then[name].shape),
        )
        for name in unequal
    ]
    same_shape = [each.variable for each in differences if each.what == "value"]
    details: dict[str, VariableDifference] = {}
    if same_shape and not hashes_only:
        with suppress(*_HASHES_SUFFICE):
            live = yield from _read(model, same_shape, now.revision, timeout)
            past = yield from _read(model, same_shape, revision, timeout)
            details = {name: difference(name, live[name], past[name]) for name in same_shape}
    shown = tuple(details.get(each.variable, each) for each in differences)
    return Differences(now.header, shown, len(names) - len(differences))


def _summaries(
    model: ModelHandle[Any], names: Sequence[str], revision: int | None, timeout: float | None
) -> Op[Summaries]:
    reads, nbytes = model._reads(dict.fromkeys(names))
    budget = model._budget(timeout, nbytes)
    return model._cache.summarize(reads, budget, _HASHES, at_revision=revision)


def _read(
    model: ModelHandle[Any], names: Sequence[str], revision: int, timeout: float | None
) -> Op[Snapshot]:
    reads, nbytes = model._reads(dict.fromkeys(names))
    return model._cache.read_many(reads, model._budget(timeout, nbytes), at_revision=revision)


def difference(name: str, live: Array, other: Array) -> VariableDifference:
    """How two values of one dtype and shape differ, by their bytes, as hashes do.

    NaN is the same as itself, and -0.0 is not 0.0.
    """
    here, there = (_typed(each.dtype, each.shape) for each in (live, other))
    if live.dtype.kind == "O":
        changed = int(np.count_nonzero(live != other))
        return VariableDifference(name, "value", here, there, changed)
    size = live.dtype.itemsize
    rows = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (live, other)]
    unlike = np.any(rows[0].reshape(-1, size) != rows[1].reshape(-1, size), axis=1)
    a, b = (each.reshape(-1)[unlike] for each in (live, other))
    wide = np.complex128 if live.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(a.astype(wide) - b.astype(wide)))) if a.size else 0.0
    return VariableDifference(name, "value", here, there, int(unlike.sum()), largest)


def _typed(dtype: np.dtype[Any], shape: Any) -> str:
    return f"{dtype_name(dtype)} {shape_text(shape)}"
