"""Pushes that the training does not wait for: the newest values, one commit at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from varserve import Commit, Model, RevisionMismatch, VarserveError
from varserve.tensors import Array

_log = logging.getLogger("varserve.training")


class _Push(NamedTuple):
    values: Mapping[str, Array]
    message: str


class Pusher:
    """Pushes values to a model from a thread of its own.

    Values that come while a push is on its way replace those that wait: only the newest are pushed.
    A push that fails is logged and kept in `error`; the training goes on.
    """

    def __init__(self, model: Model, *, if_unchanged: bool = False) -> None:
        """if_unchanged: push only while nobody else writes to the model."""
        self._model = model
        self._expected: int | None = model.revision if if_unchanged else None
        self._changed = threading.Condition()
        self._waiting: _Push | None = None
        self._busy = False
        self._closed = False
        self.commit: Commit | None = None
        """The last commit."""
        self.pushed = 0
        """Commits that were made."""
        self.skipped = 0
        """Pushes that newer values replaced before they were sent."""
        self.error: VarserveError | None = None
        """Why the last push failed; None when it did not."""
        self._thread = threading.Thread(target=self._run, name="varserve-push", daemon=True)
        self._thread.start()

    def push(self, values: Mapping[str, Array], message: str = "") -> None:
        """Take values to push, and return at once. The arrays are copied."""
        taken = _Push({name: np.array(value) for name, value in values.items()}, message)
        with self._changed:
            self.skipped += self._waiting is not None
            self._waiting = taken
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until all that was taken is pushed. Whether it was, in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._busy or self._waiting), seconds)

    def close(self, seconds: float) -> None:
        """Push what waits, for at most so many seconds, and end the thread."""
        deadline = time.monotonic() + seconds
        if not self.wait(seconds):
            _log.warning("weights were not pushed within %s seconds", seconds)
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._waiting is None:
                    return
                push, self._waiting, self._busy = self._waiting, None, True
            try:
                self._commit(push)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _commit(self, push: _Push) -> None:
        try:
            with self._model.transaction(
                if_revision_match=self._expected, message=push.message
            ) as transaction:
                for name, value in push.values.items():
                    transaction.assign(name, value)
        except RevisionMismatch as error:
            _log.warning("weights are not pushed any more: somebody else wrote: %s", error)
            self.error = error
        except VarserveError as error:
            _log.warning("weights were not pushed: %s", error)
            self.error = error
        else:
            self.commit, self.error = transaction.commit, None
            self.pushed += 1
            if self._expected is not None and self.commit is not None:
                self._expected = self.commit.revision
