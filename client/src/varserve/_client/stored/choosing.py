"""Which variables a file sets, and to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from varserve._client.errors import InvalidRequest
from varserve._client.values.names import names_matching
from varserve._client.wording import listed, suggestion
from varserve.tensors import Array

from .stored_tensors import Stored, StoredTensor, Variables

_HINTED = 3  # names for which a close one is looked for


def choose(
    stored: Stored,
    variables: Variables,
    patterns: Sequence[str] = (),
    *,
    ignore_unknown: bool = False,
) -> dict[str, StoredTensor]:
    """The tensors to set variables to, by the variables' names; of those that fit a pattern.

    ignore_unknown: leave out tensors that no variable fits.
    Raises InvalidRequest that names what does not fit, and with what it could be meant.
    """
    matched = stored.match(variables)
    unknown = [] if stored.partial or patterns else stored.unmatched(matched)
    if unknown and not ignore_unknown:
        raise InvalidRequest(
            f"{stored.path}: no variable fits {len(unknown)} "
            f"{'tensor' if len(unknown) == 1 else 'tensors'} of it: "
            f"{_hinted(unknown, [*variables])}; rename them by names (--map) or strip_prefix "
            "(--strip-prefix), or leave them out with ignore_unknown (--ignore-unknown)"
        )
    if patterns:
        paths = {name: spec.path for name, spec in variables.items()}
        wanted = {paths[name] for name in names_matching(patterns, paths)}
        matched = {name: each for name, each in matched.items() if paths[name] in wanted}
    if not matched:
        raise InvalidRequest(
            f"{stored.path}: no tensor of it is a variable"
            f"{' that fits ' + ', '.join(patterns) if patterns else ''}: it has "
            f"{listed(stored.tensors) or 'none'}; the model has {listed(variables) or 'none'}"
        )
    return matched


def _hinted(unknown: Sequence[str], variables: Sequence[str]) -> str:
    """Names, the first with what may be meant."""
    if len(unknown) > _HINTED:
        return listed(unknown)
    return ", ".join(f"{key}{suggestion(key, variables).replace(';', ',', 1)}" for key in unknown)


def values_of(
    chosen: Mapping[str, StoredTensor], variables: Variables, *, cast: bool = False
) -> dict[str, Array]:
    """The values in a file, by the variables' names. cast: as the variables' dtypes."""
    values = {}
    for name, tensor in chosen.items():
        array = tensor.load()
        values[name] = _cast(array, variables[name].dtype) if cast else array
    return values


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if "O" in (array.dtype.kind, dtype.kind):
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype)
