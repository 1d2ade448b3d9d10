"""A replica that is killed between staging a value and its commit: `stager.py ADDRESS`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np

from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal.postgres import PostgresState
from varserve_service.journal.postgres.appending import Turn
from varserve_service.logs import configure_logs


def main(address: str) -> None:
    from tests.postgres.large import LARGE, made

    def killed(turn: Turn, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    Turn.append = killed  # type: ignore[method-assign]
    live, _ = PostgresState(address).take_up(made, LiveModel)
    live.assign([Write("large", Operation.SET, np.ones(LARGE, np.float32))])


if __name__ == "__main__":
    configure_logs("error")
    main(sys.argv[1])
