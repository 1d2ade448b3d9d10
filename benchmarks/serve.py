"""A peer's server in a process of its own: `python -m benchmarks.serve SIDE`."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    importlib.import_module(f"benchmarks.sides.{sys.argv[1]}").serve()
