"""Runs of real functions that nobody waits for any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.waiting import join, until
from varserve_service.core.cancellation import Cancellation
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel

Load = Callable[[str], LoadedModel]

BOUND = 20
"""Seconds: an ended loop takes milliseconds, but the machine may be busy."""


@pytest.mark.parametrize(
    "function", ["spin", "spin_in_a_branch", "spin_in_a_map", "spin_and_write", "wait_for_a_queue"]
)
def test_a_function_that_never_ends_ends_with_its_deadline(load: Load, function: str) -> None:
    """Loops, wherever they are, and operations that wait; nothing is changed."""
    live = LiveModel(load("endless"))
    began = time.monotonic()
    with pytest.raises(RequestError, match="the deadline passed while it ran") as caught:
        live.run(function, {}, {}, deadline=began + 0.5)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert time.monotonic() - began < BOUND
    assert live.header.revision == 0
    assert live.run("double", {"x": np.float32(2)}, {}).values["output_0"].numpy() == 4


def test_callers_that_go_free_every_thread(load: Load) -> None:
    """More endless runs than there are cores: other functions run as before when they are ended."""
    live = LiveModel(load("endless"))
    gone = Cancellation()

    def act() -> None:
        with pytest.raises(RequestError, match="went away"):
            live.run("spin", {}, {}, cancellation=gone)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(live._parts.runs._runs) == 8)
    gone.cancel()
    join(threads, BOUND)
    assert live.run("double", {"x": np.float32(2)}, {}).values["output_0"].numpy() == 4
