"""Runs in progress: an abandoned run is ended, or counted if it cannot be ended.

Knows the ports; nothing of locks and commits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from varserve_service.core.cancellation import DEADLINES, Cancellation
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import StagedRun, Value

_OVERDUE_SECONDS = 1.0
"""A run that goes on for so long after it was to end cannot be ended, as far as we know."""


class _Run:
    """One run in progress. `end` may be called from any thread."""

    __slots__ = ("asked_at", "function", "problem", "staged")

    def __init__(self, function: str, staged: StagedRun) -> None:
        self.function = function
        self.staged = staged
        self.asked_at: float | None = None
        self.problem = ""

    def end_late(self) -> None:
        """Its deadline has passed."""
        self._end("the deadline passed while it ran")

    def end_unheard(self) -> None:
        """Its caller has gone."""
        self._end("its caller went away while it ran")

    def ended(self) -> RequestError:
        """The error of a run that was ended."""
        return RequestError(
            Reason.DEADLINE_EXCEEDED,
            f"function {self.function!r}: {self.problem}; it was ended, and changed no variable",
            function=self.function,
        )

    def _end(self, problem: str) -> None:
        if self.asked_at is None:
            self.problem, self.asked_at = problem, time.monotonic()
            self.staged.cancel()


class RunsInProgress:
    """The runs of one model. May be used from any thread."""

    def __init__(self) -> None:
        # Without a lock: each of these is one step of the interpreter.
        self._runs: set[_Run] = set()

    def run(
        self,
        function: str,
        staged: StagedRun,
        deadline: float | None,
        cancellation: Cancellation | None,
    ) -> Mapping[str, Value]:
        """Run what was staged; its outputs by name.

        Raises RequestError DEADLINE_EXCEEDED when it was ended, and what running raises.
        """
        run = _Run(function, staged)
        self._runs.add(run)
        end_late, end_unheard = run.end_late, run.end_unheard
        if deadline is not None:
            DEADLINES.add(end_late, deadline)
        if cancellation is not None:
            cancellation.add(end_unheard)
        try:
            if run.asked_at is not None:  # It need not begin.
                raise run.ended()
            return staged()
        except RequestError as error:
            if run.asked_at is None:
                raise
            raise run.ended() from error
        finally:
            if deadline is not None:
                DEADLINES.remove(end_late)
            if cancellation is not None:
                cancellation.remove(end_unheard)
            self._runs.discard(run)

    @property
    def overdue(self) -> Mapping[str, int]:
        """By function, the runs that go on though they were to end. Never waits long."""
        before = time.monotonic() - _OVERDUE_SECONDS
        return Counter(
            run.function
            for run in list(self._runs)
            if run.asked_at is not None and run.asked_at <= before
        )
