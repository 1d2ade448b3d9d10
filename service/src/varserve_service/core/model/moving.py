"""A variable's value moved to other memory that has the same bytes: no commit, the same value.

Knows the ports.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np

from varserve_service.core.errors import RequestError
from varserve_service.core.ports.loaded_model import Variable

from .parts import Parts

_PATIENCE = 0.005
"""Seconds that a move waits for the lock, and others for it: nobody needs it to happen now."""


def is_movable(parts: Parts, variable: Variable) -> bool:
    """It lives on the host, in memory that is only ever replaced as a whole."""
    on_host = parts.memory.of(variable.spec.device) is parts.memory.host
    return on_host and not variable.writes_in_place


def move(parts: Parts, variable: Variable, revision: int, array: np.ndarray[Any, Any]) -> None:
    """Let a variable's value live in `array` from now on, which has its elements at a revision.

    Does nothing if the variable has been written since, the model is busy, or there is no memory.
    """
    path = variable.spec.path
    with suppress(RequestError):
        value = variable.stage(array)
        with parts.lock.exclusive(time.monotonic() + _PATIENCE):
            if parts.revisions.of(path) == revision:
                variable.write(value)
                parts.history.moved(path, revision, value)
