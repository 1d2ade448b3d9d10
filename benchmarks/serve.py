"""A peer's server in a process of its own: `python -m benchmarks.serve SIDE`.

Says `ready on HOST:PORT` in one line of standard output; all else goes to standard error, also what
a library or a child prints.
"""

from __future__ import annotations

import importlib
import os
import sys


def main(side: str) -> None:
    """Serve until the process is ended."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def ready(address: str) -> None:
        print(f"ready on {address}", file=said, flush=True)

    importlib.import_module(f"benchmarks.sides.{side}").serve(ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
