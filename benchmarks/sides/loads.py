"""varserve with a port for operators, one of whom loads and unloads a model again and again.

`python -m benchmarks.sides.loads MODELS` serves the SavedModels in a folder. Both addresses are one
here, with a comma between them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import varserve
from benchmarks.model import BENCH, NETWORK
from benchmarks.sides import ours


def serve(models: Path) -> None:
    command = [sys.executable, "-m", "varserve_service", "serve", "--log-level", "warning"]
    command += ["--port", "0", "--admin-port", "0"]
    for name in (BENCH, NETWORK):
        command += ["--model", f"{name}={models / name}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        admin, calls = (service.stdout.readline().split()[-1] for _ in range(2))
        print(f"ready on {calls},{admin}", flush=True)


class Client(ours.Client):
    """varserve's works, and an operator's."""

    def __init__(self, addresses: str) -> None:
        calls, self._admin = addresses.split(",")
        super().__init__(calls)

    @contextmanager
    def load(self) -> Iterator[Callable[[], None]]:
        """Unload the other model, and load it."""
        with varserve.connect_admin(self._admin) as admin:

            def act() -> None:
                admin.unload_model(NETWORK)
                admin.load_model(NETWORK)

            yield act


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
