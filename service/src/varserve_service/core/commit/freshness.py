"""How recent the state is here, and who waits for it to be more so.

Several processes may share a state, and each follows the others a little later. Knows the port of a
shared journal; knows nothing of what is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from varserve_service.core.errors import RequestError, StateStoreUnavailable
from varserve_service.core.ports.journal import Position
from varserve_service.core.ports.shared_journal import SharedJournal
from varserve_service.core.threads import started

from .revisions import Revisions

Then: TypeAlias = Callable[[RequestError | None], None]
"""Told from any thread, once: the state is recent enough, or why it is not known to be."""


class Waiter:
    """A caller that waits: for a revision, or for one that is still to be found out."""

    __slots__ = ("left", "revision", "then")

    def __init__(self, revision: int, then: Then) -> None:
        self.revision = revision
        self.then = then
        self.left = False


class Freshness:
    """Lets callers wait for a revision, or for the newest one of all processes."""

    def __init__(
        self,
        revisions: Revisions,
        shared: SharedJournal | None,
        position: Callable[[], Position],
    ) -> None:
        """`position`: the last commit that is durable, where the journal is shared."""
        self._revisions = revisions
        self._shared = shared
        self._position = position
        self._changed = threading.Condition()
        self._waiting: set[Waiter] = set()
        self._asking: list[Waiter] = []
        self._thread: threading.Thread | None = None
        self._closed: RequestError | None = None

    @property
    def revision(self) -> int:
        """The last commit that every later read sees. Needs no lock.

        One that is being made is not counted: it may be undone, and another process's commit take
        its revision.
        """
        return self._revisions.current if self._shared is None else self._position().revision

    def wait(self, revision: int, then: Then) -> Waiter:
        """Call `then` when there is such a revision; at once, where there is."""
        waiter = Waiter(revision, then)
        with self._changed:
            closed = self._closed
            if closed is None:
                self._waiting.add(waiter)
        if closed is not None:
            then(closed)
        # It may have come meanwhile, when nobody waited yet.
        self.moved()
        return waiter

    def wait_for_newest(self, then: Then) -> Waiter:
        """Call `then` when every commit is here that was acknowledged before, by any process.

        All who ask while the journal is asked share the next question.
        """
        if self._shared is None:
            return self.wait(0, then)
        waiter = Waiter(0, then)
        with self._changed:
            closed = self._closed
            if closed is None:
                self._asking.append(waiter)
                if self._thread is None:
                    thread = threading.Thread(target=self._ask, name="varserve-newest", daemon=True)
                    self._thread = thread if started(thread) else None
                if self._thread is None:
                    self._asking.remove(waiter)
                    closed = StateStoreUnavailable(
                        "the system gives no thread to ask for the newest commit; try again"
                    )
                self._changed.notify()
        if closed is not None:
            then(closed)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no more."""
        with self._changed:
            waiter.left = True
            self._waiting.discard(waiter)

    def moved(self) -> None:
        """There are new commits. Costs nothing while nobody waits."""
        if not self._waiting:
            return
        revision = self.revision
        with self._changed:
            reached = [waiter for waiter in self._waiting if waiter.revision <= revision]
            self._waiting.difference_update(reached)
        for waiter in reached:
            waiter.then(None)

    def _ask(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asking or self._closed is not None)
                if self._closed is not None:
                    return
                asking, self._asking = self._asking, []
            newest = self._newest()
            if isinstance(newest, RequestError):
                for waiter in asking:
                    waiter.then(newest)
                continue
            with self._changed:
                if self._closed is None:
                    for waiter in asking:
                        waiter.revision = newest.revision
                    self._waiting.update(waiter for waiter in asking if not waiter.left)
                    asking = []
                closed = self._closed
            for waiter in asking:  # it was closed meanwhile
                waiter.then(closed)
            self.moved()

    def _newest(self) -> Position | RequestError:
        shared = self._shared
        assert shared is not None
        try:
            return shared.newest(self._position())
        except RequestError as error:
            return error
        except Exception as error:
            shared.give_up(error)
            return StateStoreUnavailable(
                "this replica cannot go on from its state; ask another one"
            )

    def close(self, why: RequestError) -> None:
        """Tell all who wait that it is over."""
        with self._changed:
            self._closed = why
            told = [*self._waiting, *self._asking]
            self._waiting.clear()
            self._asking.clear()
            self._changed.notify()
        for waiter in told:
            waiter.then(why)
