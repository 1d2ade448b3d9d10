"""The models of one service: their versions, the states of these, and what names resolve to.

A version is served while a label points to it. A bare model name resolves to the label `stable`.
Knows live models; knows nothing of how they are loaded or called.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import ModelState

from .live_model import LiveModel
from .naming import MAX_NAME_SHOWN

STABLE = "stable"
"""The label that a model's name without a label resolves to."""

LABEL_PATTERN = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def bare_name(name: str) -> str:
    """The model's own name in `NAME`, `NAME@LABEL` or `NAME@VERSION`."""
    return name.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Status:
    """One version of a model. `error` says why it is FAILED; it is for the operator."""

    name: str
    version: int
    state: ModelState
    live: LiveModel | None = None
    labels: tuple[str, ...] = ()
    error: str = ""


class Models:
    """Versions of models by name, and what names and labels resolve to.

    May be read from any thread at any time. Every change replaces the tables as a whole, so a name
    resolves to one version or the next, and never to none in between.
    """

    def __init__(self, models: Iterable[LiveModel] = ()) -> None:
        self._changing = threading.Lock()
        self._statuses: dict[tuple[str, int], Status] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._by_name: dict[str, LiveModel] = {}
        for live in models:
            self.serve(live)

    @property
    def statuses(self) -> Sequence[Status]:
        """All versions, sorted by name and version."""
        found = self._statuses
        return [found[key] for key in sorted(found)]

    @property
    def sorted(self) -> Sequence[LiveModel]:
        """All models that are served, sorted by name and version."""
        return [
            status.live
            for status in self.statuses
            if status.live is not None and status.state is ModelState.READY
        ]

    def versions(self, name: str) -> Sequence[Status]:
        """What is known of one model, sorted by version."""
        return [status for status in self.statuses if status.name == name]

    def labels(self, name: str) -> Mapping[str, int]:
        """The version of each of a model's labels."""
        return self._labels.get(name, {})

    def status(self, live: LiveModel) -> Status:
        """The state of a live model."""
        found = self._statuses.get((live.name, live.version))
        if found is not None and found.live is live:
            return found
        return Status(live.name, live.version, ModelState.UNLOADING, live)

    def names(self, name: str) -> list[str]:
        """The names that resolve to a model: `NAME`, and `NAME@LABEL` for each label."""
        labels = sorted(self.labels(name))
        return [name] * (STABLE in labels) + [f"{name}@{label}" for label in labels]

    def find(self, name: str) -> LiveModel:
        """The version that `NAME`, `NAME@LABEL` or `NAME@VERSION` resolves to.

        Raises RequestError MODEL_NOT_FOUND, MODEL_NOT_READY.
        """
        live = self._by_name.get(name)
        if live is None:
            raise self._not_found(name)
        return live

    def resolve(self, name: str) -> LiveModel | None:
        """What a name resolves to; None if nothing."""
        return self._by_name.get(name)

    def _not_found(self, name: str) -> RequestError:
        shown, own = name[:MAX_NAME_SHOWN], bare_name(name)
        known = self.versions(own)
        served = [status for status in known if status.state is ModelState.READY]
        if known and not served:
            state = max(known, key=lambda status: status.state is ModelState.LOADING).state
            return RequestError(
                Reason.MODEL_NOT_READY,
                f"model {shown!r} is {state.value}; retry when it is ready",
                model=shown,
            )
        expected = [*self.names(own), *(f"{own}@{status.version}" for status in served)]
        if not expected:
            expected = sorted({status.name for status in self.statuses})
        return RequestError(
            Reason.MODEL_NOT_FOUND,
            f"no model {shown!r}; expected one of: {', '.join(expected) or '(none is loaded)'}",
            model=shown,
        )

    # Changes.

    def note(self, name: str, version: int, state: ModelState, error: str = "") -> None:
        """A version that cannot be reached is LOADING or FAILED."""
        with self._changing:
            self._put(Status(name, version, state, error=error))

    def forget(self, name: str, version: int, only: LiveModel | Status | None = None) -> None:
        """Remove a version that no label points to.

        `only`: if it is still this one, or as it was; what has come in its place stays.
        """
        with self._changing:
            status = self._statuses.get((name, version))
            if status is not None and (only is None or only is status or only is status.live):
                self._statuses = {k: v for k, v in self._statuses.items() if v is not status}

    def serve(self, live: LiveModel, label: str = STABLE) -> list[LiveModel]:
        """Let a label point to a live model from now on.

        Returns the live models that no label points to now: no name resolves to them, and they are
        UNLOADING until they are forgotten.
        """
        with self._changing:
            self._put(Status(live.name, live.version, ModelState.READY, live))
            labels = self._labels.get(live.name, {}) | {label: live.version}
            return self._relabel(live.name, labels)

    def withdraw(self, name: str, label: str | None = None) -> list[LiveModel]:
        """Take a label away, or all labels of a model. Returns what `serve` does."""
        with self._changing:
            labels = self._labels.get(name, {})
            return self._relabel(name, {k: v for k, v in labels.items() if label not in (k, None)})

    def _put(self, status: Status) -> None:
        self._statuses = self._statuses | {(status.name, status.version): status}

    def _relabel(self, name: str, labels: dict[str, int]) -> list[LiveModel]:
        ended = []
        by_name = {key: live for key, live in self._by_name.items() if bare_name(key) != name}
        for status in self.versions(name):
            own = tuple(sorted(label for label, at in labels.items() if at == status.version))
            live, state = status.live, status.state
            if live is None:
                continue
            if state is ModelState.READY and not own:
                ended.append(live)
                state = ModelState.UNLOADING
            self._put(replace(status, state=state, labels=own))
            if own:
                by_name |= {f"{name}@{key}": live for key in (status.version, *own)}
                if STABLE in own:
                    by_name[name] = live
        self._labels = self._labels | {name: labels}
        self._by_name = by_name
        return ended
