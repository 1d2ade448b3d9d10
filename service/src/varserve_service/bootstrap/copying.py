"""`varserve-service state copy`: every state of one home into another, verified by hashes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptState
from varserve_service.journal import JournalOptions, StateDirectory
from varserve_service.journal.copying import answered, digest, fill_folder, open_folder
from varserve_service.journal.records import Record

_SCHEMES = ("postgresql://", "postgres://")


class _Folder:
    """A state directory. No service has it meanwhile."""

    def __init__(self, path: str, *, new: bool) -> None:
        if not new and not Path(path, "models").is_dir():
            raise JournalError(f"{path} is no state directory: expected a folder `models` in it")
        self._directory = StateDirectory(Path(path))
        self._models = Path(path) / "models"
        self.name = path

    def states(self) -> list[tuple[str, int]]:
        logs = sorted(self._models.glob("*/*/log.sqlite3"))
        return [(log.parents[1].name, int(log.parent.name)) for log in logs]

    def open(self, model: str, version: int) -> tuple[Record, KeptState]:
        return open_folder(self._directory.folder(model, version), JournalOptions())

    def fill(self, model: str, version: int, described: Record, source: KeptState) -> None:
        folder = self._directory.folder(model, version)
        fill_folder(folder, described, source, JournalOptions())

    def close(self) -> None:
        self._directory.close()


class _Database:
    """A PostgreSQL database."""

    name = "the database"

    def __init__(self, address: str) -> None:
        # Imported when it is needed: psycopg is an extra.
        from varserve_service.journal.postgres.copying import CopyingDatabase

        self._database = CopyingDatabase(address, JournalOptions())

    def states(self) -> list[tuple[str, int]]:
        return [(model, version) for model, version, _ in self._database.states()]

    def open(self, model: str, version: int) -> tuple[Record, KeptState]:
        (described,) = (d for m, v, d in self._database.states() if (m, v) == (model, version))
        return described, self._database.open(model, version, described)

    def fill(self, model: str, version: int, described: Record, source: KeptState) -> None:
        self._database.fill(model, version, described, source)

    def close(self) -> None:
        """Nothing is held."""


def copy_states(source: str, target: str) -> Iterator[str]:
    """Copy every state; yields a line for each that was copied and read again.

    `source` and `target`: a state directory, or `postgresql://...`. Raises JournalError when there
    is nothing to copy, the target has a state of the model, or a copy is not what was copied;
    StateUnavailable.
    """
    with closing(_home(source, new=False)) as here, closing(_home(target, new=True)) as there:
        states = here.states()
        if not states:
            raise JournalError(f"{here.name} has no state to copy")
        for model, version in states:
            described, kept = here.open(model, version)
            with closing(kept):
                answers = answered(kept)
                expected = digest(kept, answers)
                there.fill(model, version, described, kept)
                last = kept.position.revision
            _, copied = there.open(model, version)
            with closing(copied):
                found = digest(copied, answers)
            if found != expected:
                raise JournalError(
                    f"model {model!r}, version {version}: the copy has hash {found}, expected "
                    f"{expected}: do not use it"
                )
            yield f"{model} version {version}: revision {last}, sha256 {expected[:16]}"


def _home(given: str, *, new: bool) -> _Folder | _Database:
    return _Database(given) if given.startswith(_SCHEMES) else _Folder(given, new=new)
