"""TensorFlow writes notes about itself to standard error while it is imported: they go nowhere.

Everything else that is written meanwhile is passed on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOISE = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on")


@contextmanager
def quiet_import() -> Iterator[None]:
    """Hold standard error back, and write what is no such note when this ends."""
    kept = os.dup(2)
    held = os.memfd_create("varserve-import")
    os.dup2(held, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with os.fdopen(held, "rb") as file:
            file.seek(0)
            lines = [line for line in file if not any(note in line for note in _NOISE)]
        if lines:
            os.write(2, b"".join(lines))
