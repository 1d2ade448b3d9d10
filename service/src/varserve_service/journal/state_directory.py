"""The folder that an operator names: one server at a time, a journal for each version of a model.

Owns the lock, and how a state that is not wanted any more is moved aside.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.loaded_model import LoadedModel

from .disk import log, make_folder, sync_folder
from .fit import describe
from .journal import SqliteJournal, begin_new_epoch
from .options import JournalOptions

Live = TypeVar("Live")


class StateDirectory:
    """A state directory that belongs to this process until it ends."""

    def __init__(
        self,
        path: Path,
        options: JournalOptions | None = None,
        *,
        reset: bool = False,
        restored: bool = False,
    ) -> None:
        """`reset`: a state that is refused is moved aside, and its model begins anew.

        `restored`: the directory is an older copy. Every state in it goes on in a new epoch, also
        of versions that are loaded later: clients may know later revisions of the epoch before.

        Raises JournalError when another server has the directory, OSError when it cannot be made.
        """
        self._path = path
        self._options = options or JournalOptions()
        self._reset = reset
        make_folder(path.absolute())
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise JournalError(
                f"state directory {path} is in use by another server (process {holder}); "
                "each server needs one of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        if restored:
            for log_file in sorted((path / "models").glob("*/*/log.sqlite3")):
                begin_new_epoch(log_file.parent)

    def take_up(
        self, load: Callable[[], LoadedModel], make: Callable[..., Live]
    ) -> tuple[Live, SqliteJournal]:
        """A live model, by `make(load(), journal=...)`, with what was kept of it.

        Raises JournalError, with the way on, when that is damaged or of another model.
        """
        loaded = load()
        try:
            return self._try(loaded, make)
        except JournalError as error:
            folder = self.folder(loaded.name, loaded.version)
            if not self._reset:
                raise JournalError(
                    f"model {loaded.name!r}: the state in {folder} is refused: {error}. Give back "
                    "what it expects, or start once with --state-reset, which moves it aside and "
                    "begins anew"
                ) from error
            self._move_aside(loaded.name, loaded.version, error)
        # Loaded once more: some of what was kept may be in its variables.
        del loaded
        return self._try(load(), make)

    def _try(self, loaded: LoadedModel, make: Callable[..., Live]) -> tuple[Live, SqliteJournal]:
        journal = SqliteJournal(
            self.folder(loaded.name, loaded.version), describe(loaded), self._options
        )
        try:
            return make(loaded, journal=journal), journal
        except BaseException:
            journal.close()
            raise

    def folder(self, model: str, version: int) -> Path:
        """Where the state of a model's version is. Each version has its own, and keeps it."""
        return self._path / "models" / model / str(version)

    def _move_aside(self, model: str, version: int, error: JournalError) -> None:
        folder = self.folder(model, version)
        aside = self._path / "aside" / f"{model}-{version}-{time.time_ns()}"
        make_folder(aside.parent.absolute())
        folder.rename(aside)
        sync_folder(folder.parent)
        sync_folder(aside.parent)
        log.warning("state moved aside", model=model, reason=str(error), aside=str(aside))

    def close(self) -> None:
        """Give the directory up."""
        # To close it alone is not enough while a child that was just forked has it, too.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)
