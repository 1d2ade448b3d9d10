"""A variable's value moved to other memory that has the same bytes: no commit, the same value.

Knows the ports.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Variable

from .parts import Parts


def is_movable(parts: Parts, variable: Variable) -> bool:
    """It lives on the host, in memory that is only ever replaced as a whole."""
    on_host = parts.memory.of(variable.spec.device) is parts.memory.host
    return on_host and not variable.writes_in_place


def move(parts: Parts, variable: Variable, revision: int, array: np.ndarray[Any, Any]) -> None:
    """Let a variable's value live in `array` from now on, which has its elements at a revision.

    Does nothing if the variable has been written since, or there is no memory for it. Raises
    RequestError MODEL_NOT_READY.
    """
    path = variable.spec.path
    try:
        value = variable.stage(array)
        with parts.lock.exclusive():
            if parts.revisions.of(path) != revision:
                return
            variable.write(value)
            parts.history.moved(path, revision, value)
    except OutOfMemory:
        return
