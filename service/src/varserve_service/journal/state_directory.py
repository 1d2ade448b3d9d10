"""The folder that an operator names: one server at a time, a journal for each version of a model.

Owns the lock, and how a state that is refused is moved aside.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, TypeVar

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import Journal
from varserve_service.core.ports.loaded_model import LoadedModel

from .compatibility import describe
from .disk import NO_ROOM, log, make_folder, sync_folder
from .failures import StateUnavailable, told_apart
from .journal import SqliteJournal, begin_new_epoch
from .options import JournalOptions

Live = TypeVar("Live")
Made = TypeVar("Made", covariant=True)


class MakeLive(Protocol[Made]):
    """Makes a live model of a loaded one and its journal."""

    def __call__(self, loaded: LoadedModel, /, *, journal: Journal) -> Made: ...


_PID_WIDTH = 20


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
        """`reset`: a state that is refused is moved aside, and its model begins a new one.

        `restored`: the directory is an older copy. Every state in it continues in a new epoch, also
        of versions that are loaded later: clients may know later revisions of the epoch before.

        Raises JournalError when another server has the directory, StateUnavailable when it cannot
        be made or opened.
        """
        self._path = path
        self._options = options or JournalOptions()
        self._reset = reset
        with told_apart(path), ExitStack() as opened:
            make_folder(path.absolute())
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            opened.callback(os.close, self._lock)
            self._take_lock()
            if restored:
                for log_file in sorted((path / "models").glob("*/*/log.sqlite3")):
                    begin_new_epoch(log_file.parent)
            opened.pop_all()

    @property
    def _lock_path(self) -> Path:
        return self._path / "lock"

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, _PID_WIDTH, 0).decode(errors="replace").strip()
            raise JournalError(
                f"state directory {self._path} is in use by another server (process "
                f"{holder or 'unknown'}); each server needs one of its own"
            ) from None
        try:
            os.pwrite(self._lock, f"{os.getpid():<{_PID_WIDTH - 1}}\n".encode(), 0)
        except OSError as error:
            # The number only tells another server who has the directory.
            if error.errno not in NO_ROOM:
                raise

    def take_up(
        self, load: Callable[[], LoadedModel], make: MakeLive[Live]
    ) -> tuple[Live, SqliteJournal]:
        """A live model, by `make(load(), journal=...)`, with the state that was kept of it.

        Raises JournalError, with the way on, when the state is damaged or of another model, and
        StateUnavailable when it cannot be read now.
        """
        loaded = load()
        folder = self.folder(loaded.name, loaded.version)
        try:
            return self._try(loaded, make)
        except StateUnavailable as error:
            raise StateUnavailable(
                f"model {loaded.name!r}: {error}. The state is as it was"
            ) from error
        except JournalError as error:
            if not self._reset:
                raise JournalError(
                    f"model {loaded.name!r}: the state in {folder} is refused: {error}. Give back "
                    "what it expects, or start once with --state-reset, which moves it aside and "
                    "begins a new one"
                ) from error
            self._move_aside(loaded.name, loaded.version, error)
        # Loaded again: parts of the refused state may be in its variables.
        del loaded
        return self._try(load(), make)

    def _try(self, loaded: LoadedModel, make: MakeLive[Live]) -> tuple[Live, SqliteJournal]:
        journal = SqliteJournal(
            self.folder(loaded.name, loaded.version),
            describe(loaded),
            self._options,
            needs=(self._lock_path,),
        )
        try:
            return make(loaded, journal=journal), journal
        except BaseException:
            journal.close()
            raise

    def folder(self, model: str, version: int) -> Path:
        """The folder with the state of a model's version."""
        return self._path / "models" / model / str(version)

    def _move_aside(self, model: str, version: int, error: JournalError) -> None:
        folder = self.folder(model, version)
        aside = self._path / "aside" / f"{model}-{version}-{time.time_ns()}"
        with told_apart(folder):
            make_folder(aside.parent.absolute())
            folder.rename(aside)
            # Before the old name goes for good, which happens when the new state's folder is made.
            sync_folder(aside.parent)
        log.warning("state moved aside", model=model, reason=str(error), aside=str(aside))

    def close(self) -> None:
        """Release the directory."""
        # To close the descriptor is not enough while a child that was just forked has it, too.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)
