"""The newest commit, asked of the database itself, whatever became of the connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.postgres.server import Server, running
from tests.postgres.test_journal import Start, add, make
from varserve_service.core.errors import JournalClosed, JournalError, StateStoreUnavailable
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import probing
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.probing import Prober

KEY = ("fake", 1)


@pytest.fixture
def live(database: str, replica: Start) -> LiveModel:
    live, _ = replica(database, make)
    add(live)
    return live


@pytest.fixture
def prober(database: str, live: LiveModel) -> Iterator[Prober]:
    prober = Prober(Connector(database), KEY, live.header.epoch)
    yield prober
    prober.close()


def position(live: LiveModel) -> Position:
    return live._parts.committer.position


def test_the_newest_is_told(live: LiveModel, prober: Prober) -> None:
    """Whichever commit of the log is known already."""
    first = position(live)
    assert prober.newest(first) == first
    add(live)
    for known in (first, position(live)):
        assert prober.newest(known) == position(live)
    assert position(live).revision == 2


def test_a_fork_is_told(live: LiveModel, prober: Prober) -> None:
    """A commit that the database does not have, or that it has another one for."""
    for known in (replace(position(live), append="another"), Position(7, "lost")):
        with pytest.raises(JournalError):
            prober.newest(known)
    assert prober.newest(position(live)) == position(live)


def test_a_state_that_began_anew(database: str, live: LiveModel) -> None:
    """Of another epoch, or of a model that is not there."""
    for key, epoch in ((KEY, "another"), (("absent", 1), live.header.epoch)):
        prober = Prober(Connector(database), key, epoch)
        with pytest.raises(JournalError, match="removed or began anew"):
            prober.newest(position(live))
        prober.close()


def test_a_connection_that_ended_while_nobody_used_it(
    server: Server, live: LiveModel, prober: Prober
) -> None:
    """It is made again, and the caller does not notice."""
    assert prober.newest(position(live)) == position(live)
    connection = prober._open
    assert connection is not None
    server.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 30000)")
    assert prober.newest(position(live)) == position(live)
    assert prober._open is not connection


def test_a_wait_for_standbys_that_was_ended(live: LiveModel, prober: Prober) -> None:
    """The answer may be of a primary that was replaced: it does not count."""
    assert prober.newest(position(live)) == position(live)
    assert prober._open is not None
    prober._open.execute(
        "CREATE FUNCTION pg_temp.warn() RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'canceling the wait for synchronous replication'; END $$"
    )
    prober._open.execute("SELECT pg_temp.warn()")
    assert prober._notices == ["canceling the wait for synchronous replication"]
    assert prober.newest(position(live)) == position(live)  # that was before the question


def test_a_wait_for_standbys_that_ends_with_the_question(
    live: LiveModel, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no answer, and the connection is given up."""
    assert prober.newest(position(live)) == position(live)
    assert prober._open is not None
    prober._open.execute(
        "CREATE FUNCTION pg_temp.warn() RETURNS text LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'canceling the wait'; RETURN ''; END $$"
    )
    monkeypatch.setattr(
        probing,
        "_PROBE",
        probing._PROBE.replace("pg_logical_emit_message(true, 'varserve', '')", "pg_temp.warn()"),
    )
    with pytest.raises(StateStoreUnavailable, match="cannot be asked for the newest"):
        prober.newest(position(live))
    monkeypatch.undo()
    assert prober._open is None
    assert prober.newest(position(live)) == position(live)


def test_a_database_that_is_away() -> None:
    """The caller is told to ask again, or to read what is here; after a close it is the end."""
    with running() as server:
        address = server.address
    prober = Prober(Connector(address), KEY, "epoch")
    with pytest.raises(StateStoreUnavailable, match="cannot be asked for the newest"):
        prober.newest(Position(0))
    prober.close()
    with pytest.raises(JournalClosed):
        prober.newest(Position(0))


def test_a_question_after_the_close(live: LiveModel, prober: Prober) -> None:
    """Its connection is closed again."""
    prober.close()
    assert prober.newest(position(live)) == position(live)
    assert prober._open is None
