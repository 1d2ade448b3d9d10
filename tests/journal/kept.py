"""Live models on fakes with a real journal on a real disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import FakeModel
from varserve_service.core.errors import JournalError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.messages import Read
from varserve_service.journal import JournalOptions, SqliteJournal, StateDirectory

Array = np.ndarray[Any, Any]


@contextmanager
def kept(
    path: Path,
    make: Callable[[], FakeModel],
    *,
    reset: bool = False,
    restored: bool = False,
    live: Callable[..., LiveModel] = LiveModel,
    **options: Any,
) -> Iterator[tuple[LiveModel, SqliteJournal]]:
    """A model with its state from a state directory, as a start of the service makes it."""
    directory = StateDirectory(path, JournalOptions(**options), reset=reset, restored=restored)
    try:
        model, journal = directory.take_up(make, live)
        try:
            yield model, journal
        finally:
            journal.close()
    finally:
        directory.close()


def value_of(live: LiveModel, name: str) -> Array:
    """What a variable holds."""
    (entry,) = live.read([Read(name)]).entries
    assert entry.value is not None
    return entry.value.numpy()


def refused(path: Path, make: Callable[[], FakeModel]) -> str:
    """The message with which a start refuses what was kept; fails when it starts."""
    try:
        with kept(path, make):
            pass
    except JournalError as error:
        return str(error)
    raise AssertionError("the state was taken up")


def named_by_rows(journal: SqliteJournal) -> set[str]:
    """Names of the payload files that the rows of a journal name."""
    found = set()
    with journal._database.reading() as connection:
        for table in ("commits", "base"):
            for (record,) in connection.execute(f"SELECT record FROM {table}"):
                found |= set(re.findall(r"[0-9a-f]{16}\.safetensors", record.decode()))
    return found
