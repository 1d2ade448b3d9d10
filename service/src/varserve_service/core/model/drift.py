"""Whether the values here are those of the other processes that share the state.

Commits are followed to the last bit, so all processes have equal values at a revision, unless
memory or a device failed, or a function wrote what no commit has. Now and then all of them hash all
variables at one revision. One whose hashes are not those of most ends, and builds its state anew.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from varserve_service.core.commit.freshness import Freshness
from varserve_service.core.errors import JournalClosed, JournalError, RequestError
from varserve_service.core.ports.loaded_model import Variable
from varserve_service.core.ports.messages import Read
from varserve_service.core.ports.shared_journal import SharedJournal
from varserve_service.core.threads import ModelThread
from varserve_service.core.values.summaries import hash_of

from .timeline import Timeline

_WAIT_SECONDS = 30.0
"""For the revision that the others look at."""
_SHOWN = 5

Hashes = Mapping[str, str]


class DriftCheck:
    """A thread that hashes all variables when the others do, and compares."""

    def __init__(
        self,
        timeline: Timeline,
        variables: Sequence[Variable],
        freshness: Freshness,
        journal: SharedJournal,
    ) -> None:
        self._timeline = timeline
        self._variables = variables
        self._freshness = freshness
        self._journal = journal
        self._closed = threading.Event()
        self._reported: tuple[int, int, Hashes] | None = None
        if journal.check_seconds > 0:
            ModelThread(self._run, "varserve-drift").start()

    def close(self) -> None:
        """End the thread, soon."""
        self._closed.set()

    def _run(self) -> None:
        # Several looks in a period, so that all processes take part in a round.
        pause = min(5.0, self._journal.check_seconds / 4)
        while not self._closed.wait(pause):
            try:
                self._take_part()
                self._compare()
            except JournalClosed:
                return
            except RequestError:
                pass  # the database is away, or the revision is not kept any more: the next time
            except JournalError as error:
                if not self._closed.is_set():
                    self._journal.give_up(error)
                return

    def _take_part(self) -> None:
        present = self._journal.check_round()
        if present is None or not self._has(present[1]):
            return
        number, revision = present
        paths = [v.spec.path for v in self._variables if v.is_initialized()]
        snapshot = self._timeline.read([Read(path) for path in paths], revision)
        hashes = {
            path: hash_of(entry.value).hex()
            for path, entry in zip(paths, snapshot.entries, strict=True)
            if entry.value is not None
        }
        self._journal.report(number, hashes)
        self._reported = number, revision, hashes

    def _has(self, revision: int) -> bool:
        """Wait until this process has a revision. Whether it has."""
        told = threading.Event()
        waiter = self._freshness.wait(revision, lambda _: told.set())
        try:
            return told.wait(_WAIT_SECONDS) and self._freshness.revision >= revision
        finally:
            self._freshness.leave(waiter)

    def _compare(self) -> None:
        """Raises JournalError when most others agree on other values."""
        if self._reported is None:
            return
        number, revision, mine = self._reported
        reports = self._journal.reports(number)
        counted = Counter(tuple(sorted(report.items())) for report in reports)
        if not counted:
            return
        most, count = counted.most_common(1)[0]
        others = dict(most)
        if 2 * count <= len(reports) or others == mine:
            return
        differing = [path for path in mine if others.get(path) != mine[path]]
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise JournalError(
            f"at revision {revision} the values of {', '.join(differing[:_SHOWN])}{more} are not "
            f"those of {count} of {len(reports)} replicas: this replica builds its state anew"
        )
