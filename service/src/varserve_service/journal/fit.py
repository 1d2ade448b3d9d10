"""Whether a kept state is of the model that was loaded.

A state is changes to what a SavedModel's variables begin with. On another model it would be a
state that nobody ever had, so it is refused, with what differs.
"""

from __future__ import annotations

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.loaded_model import LoadedModel

from .records import Record

_SHOWN = 5  # differences that a message names


def describe(loaded: LoadedModel) -> Record:
    """What must stay as it is for a state to fit."""
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


def check_fit(state: Record, model: Record) -> None:
    """Compare what a state is of with the model. Raises JournalError, which names what differs."""
    differences = _differences(state["variables"], model["variables"])
    if not differences and state["begins_with"] != model["begins_with"]:
        differences = ["its variables begin with other values"]
    if not differences:
        return
    shown = "; ".join(differences[:_SHOWN])
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise JournalError(f"the model is not the one that the state was written for: {shown}{more}")


def _differences(state: Record, model: Record) -> list[str]:
    found = []
    for path, was in state.items():
        name = was["name"]
        if path not in model:
            found.append(f"variable {name!r} is gone")
            continue
        now = model[path]
        if was["dtype"] != now["dtype"]:
            found.append(f"variable {name!r}: expected dtype {was['dtype']}, found {now['dtype']}")
        elif (was["shape"], was["begins_as"]) != (now["shape"], now["begins_as"]):
            before = was["begins_as"] if was["shape"] == now["shape"] else was["shape"]
            after = now["begins_as"] if was["shape"] == now["shape"] else now["shape"]
            found.append(f"variable {name!r}: expected shape {before}, found {after}")
    found += [
        f"variable {now['name']!r} is new" for path, now in model.items() if path not in state
    ]
    return found
