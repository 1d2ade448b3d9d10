"""`python -m benchmarks.keep MODEL FOLDER (commits N | bytes N)`: a state directory to start with.

Either so many small commits, or one variable of so many bytes. In process, through the core and the
journal themselves: over the wire it would take minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.model import BENCH, ROW, rows, variable_name
from varserve_service import savedmodel
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import JournalOptions, StateDirectory

MEMORY = Path("/dev/shm")
"""Where a sync takes no time."""


def main(model: str, folder: str, what: str, amount: str) -> None:
    """Fill the state directory `folder`, which is not there yet."""
    placement = savedmodel.configure_devices("cpu", None)
    load = partial(savedmodel.load, BENCH, Path(model), placement=placement)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        states = StateDirectory(Path(made) / "state", JournalOptions())
        live, journal = states.take_up(load, LiveModel)
        if what == "commits":
            name = variable_name("float32", 4)
            for number in range(int(amount)):
                live.assign([Write(name, Operation.SET, np.full(1, number, np.float32))])
        else:
            shape = (rows("float32", int(amount)), ROW)
            name = variable_name("float32", int(amount))
            live.assign([Write(name, Operation.SET, np.ones(shape, np.float32))])
        journal.close()
        shutil.copytree(Path(made) / "state", folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
