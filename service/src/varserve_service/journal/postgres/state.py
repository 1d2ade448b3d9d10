"""The database that an operator names: a journal for each version of a model, in all replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import psycopg

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.core.ports.shared_journal import SharedJournal
from varserve_service.journal.compatibility import describe
from varserve_service.journal.failures import StateUnavailable
from varserve_service.journal.options import JournalOptions

from .connection import Connector, log_durability
from .journal import PostgresJournal
from .labels import LabelRows
from .schema import prepare

Live = TypeVar("Live")
Made = TypeVar("Made", covariant=True)


class MakeLive(Protocol[Made]):
    """Makes a live model of a loaded one and its journal."""

    def __call__(self, loaded: LoadedModel, /, *, journal: SharedJournal) -> Made: ...


class PostgresState:
    """The states in a database."""

    def __init__(self, address: str, options: JournalOptions | None = None) -> None:
        """`address`: `postgresql://...`, as libpq takes it.

        Raises StateUnavailable when the database cannot be reached, JournalError when its tables
        are of another version of the service.
        """
        try:
            self._connector = Connector(address)
        except psycopg.ProgrammingError as error:
            raise JournalError(f"the address of the database cannot be read: {error}") from error
        self._options = options or JournalOptions()
        self.labels = LabelRows(self._connector)
        """What labels mean in all replicas."""
        try:
            with self._connector.connect() as connection:
                prepare(connection)
                log_durability(self._connector.name, connection)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def take_up(
        self, load: Callable[[], LoadedModel], make: MakeLive[Live]
    ) -> tuple[Live, PostgresJournal]:
        """A live model, by `make(load(), journal=...)`, with the state that is in the database.

        Raises JournalError when the state is damaged or of another model, StateUnavailable.
        """
        loaded = load()
        try:
            journal = PostgresJournal(
                self._connector, loaded.name, loaded.version, describe(loaded), self._options
            )
            try:
                return make(loaded, journal=journal), journal
            except BaseException:
                journal.close()
                raise
        except psycopg.Error as error:
            raise self._unavailable(error) from error
        except JournalError as error:
            raise JournalError(
                f"model {loaded.name!r}: the state in {self._connector.name} is refused: {error}"
            ) from error

    def _unavailable(self, error: psycopg.Error) -> StateUnavailable:
        said = " ".join(str(error).split())
        return StateUnavailable(f"{self._connector.name} cannot be used: {said}")

    def close(self) -> None:
        """Nothing is held but by the journals."""
