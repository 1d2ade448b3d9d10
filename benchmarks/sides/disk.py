"""The disk alone: a file is appended to until its bytes are on the disk. A floor, not a peer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Client:
    """Works on a file of its own in the folder that stands for an address."""

    def __init__(self, address: str) -> None:
        self._folder = address

    @contextmanager
    def append(self, nbytes: int, keep: int = 64 * 2**20) -> Iterator[Callable[[], None]]:
        """So many bytes more, synced; from `keep` bytes on the file begins anew."""
        data = os.urandom(min(nbytes, 2**20)) * (nbytes // min(nbytes, 2**20))
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:

            def act() -> None:
                if file.tell() >= keep:
                    file.seek(0)
                    file.truncate()
                file.write(data)
                os.fdatasync(file.fileno())

            yield act
