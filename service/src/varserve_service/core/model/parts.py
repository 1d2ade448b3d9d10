"""The parts of a live model, which all that happens to it works with.

Puts them together, and brings back what a journal kept. Decides nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TypedDict

from varserve_service.core.commit.committer import Committer
from varserve_service.core.commit.following import Follower, FollowingThread
from varserve_service.core.commit.history import History
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.commit.replay import replay
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.commit.watchers import Watchers
from varserve_service.core.errors import Reason
from varserve_service.core.inspection.ports import DEFAULT_LIMITS, InspectionLimits
from varserve_service.core.memory import MemoryBudget, ModelMemory
from varserve_service.core.ports.loaded_model import Function, LoadedModel, Variable
from varserve_service.core.ports.messages import Answer
from varserve_service.core.ports.observer import UNOBSERVED, Observer
from varserve_service.core.ports.shared_journal import AnyJournal

from .input_bounds import BoundsByInput, FunctionBounds
from .naming import Directory
from .runs import RunsInProgress


class Options(TypedDict, total=False):
    """What a live model is given beside what was loaded. Left out or None: one of its own.

    With a `journal`, the model takes up what that kept. `host_memory` is what the process may take;
    without it nothing is refused beforehand. `inspection_limits` are those of one inspection,
    `input_bounds` those of functions by their name or path.
    """

    lock: ReadersWriterLock | None
    idempotency: IdempotencyCache[Answer] | None
    history: History | None
    watchers: Watchers | None
    journal: AnyJournal | None
    observer: Observer
    host_memory: MemoryBudget | None
    inspection_limits: InspectionLimits
    input_bounds: Mapping[str, BoundsByInput]


class Parts:
    """A loaded model, its lock, its revisions, and what keeps and makes its commits."""

    def __init__(self, loaded: LoadedModel, options: Options) -> None:
        """Raises JournalError; RequestError for bounds of what the model does not have."""
        self.loaded = loaded
        self.journal = options.get("journal")
        self.shared = None if self.journal is None else self.journal.shared
        self.observer = options.get("observer", UNOBSERVED)
        self.inspection_limits = options.get("inspection_limits", DEFAULT_LIMITS)
        self.lock = options.get("lock") or ReadersWriterLock(self.observer)
        self.memory = _memory_of(loaded, options.get("host_memory") or MemoryBudget("host"))
        history, watchers = options.get("history"), options.get("watchers")
        idempotency = options.get("idempotency")
        self.history = History() if history is None else history
        self.watchers = Watchers() if watchers is None else watchers
        self.variables: Directory[Variable] = Directory(
            "variable", loaded.variables, Reason.VARIABLE_NOT_FOUND, loaded.name
        )
        self.functions: Directory[Function] = Directory(
            "function", loaded.functions, Reason.FUNCTION_NOT_FOUND, loaded.name
        )
        self.input_bounds = FunctionBounds(options.get("input_bounds", {}), self.functions)
        self.runs = RunsInProgress()
        self.by_path = {variable.spec.path: variable for variable in loaded.variables}
        epoch = secrets.token_hex(8) if self.journal is None else self.journal.epoch
        self.revisions = Revisions(loaded.name, loaded.version, self.by_path, epoch)
        idempotency = IdempotencyCache() if idempotency is None else idempotency
        if self.journal is not None:
            replay(self.journal, self.by_path, self.revisions, self.history, idempotency, self.lock)
        self.committer = Committer(
            self.lock,
            self.revisions,
            idempotency,
            self.history,
            self.watchers,
            self.journal,
            self.memory,
            Follower(loaded, self.revisions, self.history, self.watchers, idempotency, self.lock),
            self.observer,
        )
        self.following: FollowingThread | None = None
        if self.shared is not None:
            self.following = FollowingThread(
                self.shared, lambda: self.committer.position, self.committer.follow
            )
            self.following.start()


def _memory_of(loaded: LoadedModel, host: MemoryBudget) -> ModelMemory:
    if loaded.device_memory() is None:
        return ModelMemory(host, host)
    return ModelMemory(host, MemoryBudget(loaded.device, loaded.device_memory))
