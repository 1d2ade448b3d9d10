"""Whether a state belongs to the model that was loaded.

A state is changes to the values that a SavedModel's variables begin with. On another model it would
be a state that never existed, so it is refused, with the differences.
"""

from __future__ import annotations

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.loaded_model import LoadedModel

from .records import Record

_SHOWN = 5  # differences that a message names


def describe(loaded: LoadedModel) -> Record:
    """What a model must have in common with the model of a state."""
    return {
        "name": loaded.name,
        "begins_with": loaded.fingerprint,
        "variables": {
            variable.spec.path: {
                "name": variable.spec.name,
                "dtype": variable.spec.dtype,
                "shape": None if variable.spec.shape is None else list(variable.spec.shape),
                "begins_as": list(variable.shape()) if variable.is_initialized() else None,
            }
            for variable in loaded.variables
        },
    }


def check_compatible(kept: Record, loaded: Record) -> None:
    """Compare a state's model with the loaded one. Raises JournalError with the differences."""
    differences = _differences(kept["variables"], loaded["variables"])
    if not differences and kept["begins_with"] != loaded["begins_with"]:
        differences = ["its variables begin with other values"]
    if not differences:
        return
    shown = "; ".join(differences[:_SHOWN])
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise JournalError(f"the model is not the one that the state was written for: {shown}{more}")


def _differences(kept: Record, loaded: Record) -> list[str]:
    differences = []
    for path, before in kept.items():
        name = before["name"]
        if path not in loaded:
            differences.append(f"variable {name!r} is gone")
            continue
        now = loaded[path]
        if before["dtype"] != now["dtype"]:
            differences.append(
                f"variable {name!r}: expected dtype {before['dtype']}, found {now['dtype']}"
            )
            continue
        for shape in ("shape", "begins_as"):
            if before[shape] != now[shape]:
                differences.append(
                    f"variable {name!r}: expected shape {before[shape]}, found {now[shape]}"
                )
                break
    differences += [
        f"variable {now['name']!r} is new" for path, now in loaded.items() if path not in kept
    ]
    return differences
