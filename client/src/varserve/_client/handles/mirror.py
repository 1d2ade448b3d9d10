"""A local copy of variables that a watch keeps fresh, for readers in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from varserve._client import errors
from varserve._client.transport.drivers import Sync
from varserve._client.transport.forks import GATE, Renewable
from varserve._client.values.results import Event, Snapshot
from varserve.tensors import Array

from .base import OfThisProcess
from .watches import Watch


class Mirror(OfThisProcess, Mapping[str, Array], Renewable):
    """The values of some variables as they are now, by name, without a call for each read.

    A thread follows the commits, in a forked child as well. All values of `values_now` are of one
    revision; what it gives stays as it is, and is not to be written to. While the service does not
    answer the values stay those of `revision`; `error` says why.
    """

    def __init__(
        self,
        model: str,
        read: Callable[[], Snapshot],
        watch: Callable[[int], Watch[Sync]],
    ) -> None:
        """model: its name. read: the values now. watch: the commits after a revision."""
        self.model = model
        self._read_values = read
        self._watch_after = watch
        self._closed = False
        self.error: errors.VarserveError | None = None
        """Why the values are not followed any more at the moment; None when they are."""
        self._state: tuple[int, str, dict[str, Array]] = (0, "", {})
        self._changed = threading.Condition()
        self._read()
        self._begin()
        GATE.renew_in_child(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._watch: Watch[Sync] | None = None
        self._thread = threading.Thread(target=self._run, name="varserve-mirror", daemon=True)
        self._thread.start()

    def _after_fork(self) -> None:
        """This is a forked child: follow the commits with a thread of its own."""
        if not self._closed:
            self._begin()

    @property
    def revision(self) -> int:
        """The revision of the values."""
        return self._state[0]

    @property
    def epoch(self) -> str:
        """The life of the state that `revision` counts in."""
        return self._state[1]

    @property
    def values_now(self) -> Mapping[str, Array]:
        """All values at one revision; later commits do not change what was given."""
        return self._state[2]

    def wait_for(self, revision: int, timeout: float = 30.0) -> bool:
        """Wait until the values are of this revision or a later one. Whether they are."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self.revision >= revision or self._closed, timeout
            ) and (self.revision >= revision)

    def close(self) -> None:
        """Follow no more commits. Again: nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._watch is not None:
            self._watch.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    # Not as a Mapping's: arrays have no one answer.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Array:
        return self._state[2][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state[2])

    def __len__(self) -> int:
        return len(self._state[2])

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<varserve.Mirror of {self.model!r} at revision {self.revision}: {list(self)}>"

    def _run(self) -> None:
        while not self._closed:
            try:
                self._follow()
                self.error = None
            except errors.VarserveError as error:
                self.error = error
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, 1.0)
                if not self._closed:
                    self._read_again()

    def _follow(self) -> None:
        revision, _, _ = self._state
        watch = self._watch_after(revision)
        self._watch = watch
        if self._closed:
            watch.close()
        with watch:
            for event in watch:
                self.error = None
                self._apply(event)

    def _read_again(self) -> None:
        try:
            self._read()
        except errors.VarserveError as error:
            self.error = error

    def _read(self) -> None:
        snapshot = self._read_values()
        self._put(snapshot.revision, snapshot.epoch, dict(snapshot))

    def _apply(self, event: Event) -> None:
        values = dict(self._state[2])
        copied: set[str] = set()
        for change in event.changes:
            name = change.variable
            if change.value is None:
                # Not kept any more: what is there now is newer, and comes with its own revision.
                self._read()
                return
            if change.region is None:
                values[name] = change.value
                copied.discard(name)
                continue
            if name not in copied:
                values[name] = np.array(values[name])
                copied.add(name)
            region: Any = change.region
            values[name][region] = change.value
        self._put(event.revision, event.epoch, values)

    def _put(self, revision: int, epoch: str, values: dict[str, Array]) -> None:
        for value in values.values():
            value.flags.writeable = False
        with self._changed:
            self._state = (revision, epoch, values)
            self._changed.notify_all()
