"""Whether the files of a state are still the ones that were opened.

A process keeps writing to a file that was deleted or replaced, and nobody ever reads it again. So
the names are looked up before each acknowledgement.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FileId = tuple[int, int]


class Presence:
    """The files and folders that a state needs for as long as it is open."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Takes each path as what it is now. Raises OSError."""
        self._ids = {path: file_id(path.stat()) for path in paths}

    def missing(self) -> list[Path]:
        """The paths that do not name the same file any more."""
        return [path for path, opened in self._ids.items() if not _is(path, opened)]


def _is(path: Path, opened: FileId) -> bool:
    try:
        return file_id(path.stat()) == opened
    except OSError as error:
        return not is_gone(error)


def file_id(stat: os.stat_result) -> FileId:
    """What tells a file from every other on this machine."""
    return stat.st_dev, stat.st_ino


def is_gone(error: OSError) -> bool:
    """Whether a look failed because there is no such file, and not because it could not be done."""
    return isinstance(error, FileNotFoundError | NotADirectoryError)
