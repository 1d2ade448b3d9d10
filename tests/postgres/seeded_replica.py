"""A replica with one bug in it, for a test that must find it: `... -m MODULE serve FLAGS`.

Which bug is in the environment.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults.seeded_service import NO_BUG, VARIABLE, compare_with_a_stale_cache
from varserve_service.__main__ import main
from varserve_service.core.commit.freshness import Freshness
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres.appending import Appender
from varserve_service.journal.postgres.turns import Turn

__all__ = ["BUGS", "NO_BUG", "VARIABLE"]


def answer_before_the_commit() -> None:
    """The database is told later, and callers at once."""
    append, take_turn, commit = Turn.append, Appender._take_turn, Appender._commit
    writing: list[threading.Thread] = []

    def later(turn: Turn, entries: Sequence[Any], leases: Sequence[Any] = ()) -> Position:
        appender = turn._appender
        before, turn.ended = appender.last_append, True
        thread = threading.Thread(target=append, args=(turn, entries, leases))
        thread.start()
        writing.append(thread)
        # What the append is called is known before it is made: the replica goes on from it.
        until = time.monotonic() + 5
        while appender.last_append == before and time.monotonic() < until:
            time.sleep(0.0002)
        return Position(entries[-1].commit.revision, appender.last_append)

    def slowly(appender: Appender, *arguments: Any) -> list[str]:
        time.sleep(0.03)
        return commit(appender, *arguments)

    def taken(appender: Appender, *arguments: Any) -> Any:
        while writing:
            writing.pop().join(60)
        return take_turn(appender, *arguments)

    Appender._may_be_optimistic = lambda *_: False  # type: ignore[method-assign]
    Appender._commit = slowly  # type: ignore[method-assign]
    Turn.append = later  # type: ignore[method-assign]
    Appender._take_turn = taken  # type: ignore[method-assign]


def local_read_told_as_linearizable() -> None:
    """The database is not asked for the newest commit."""
    Freshness.wait_for_newest = (  # type: ignore[method-assign]
        lambda freshness, then: freshness.wait(0, then)
    )


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        answer_before_the_commit,
        compare_with_a_stale_cache,
        local_read_told_as_linearizable,
    )
}

if __name__ == "__main__":
    BUGS.get(os.environ.get(VARIABLE, NO_BUG), lambda: None)()
    main()
