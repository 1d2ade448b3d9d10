"""What a watch may show, when it begins and as long as it lasts.

Knows the policy through the caller's sight; knows nothing of streams.
"""

from __future__ import annotations

from typing import Any

from varserve_service.access.policy import Verb
from varserve_service.core.model.live_model import LiveModel

from .guard import CallerPermissions


class WatchPermit:
    """Of one watch; the request's patterns choose among what its caller may watch."""

    def __init__(self, sight: CallerPermissions | None, live: LiveModel, request: Any) -> None:
        self._sight = sight
        self._live = live
        self._patterns = list(request.patterns)
        self._needs = [Verb.WATCH]
        if request.values or request.previous_values:
            self._needs.append(Verb.READ)
        self._selected: frozenset[str] | None = None

    def select(self) -> frozenset[str] | None:
        """Paths of the variables to watch; None for all, now and ever.

        Raises RequestError VARIABLE_NOT_FOUND for a pattern that fits none that he may watch,
        PERMISSION_DENIED where values are asked for of one that he may not read.
        """
        sight, live = self._sight, self._live
        among = None if sight is None else sight.variables(Verb.WATCH, live)
        self._selected = live.timeline.select(self._patterns, among)
        if sight is not None:
            self._check(sight)
        return self._selected

    def check(self) -> None:
        """Raises RequestError PERMISSION_DENIED when the policy no longer allows the watch."""
        sight = self._sight
        if sight is not None and sight.outdated():
            sight = sight.renewed()
            self._check(sight)
            self._sight = sight

    def _check(self, sight: CallerPermissions) -> None:
        assert self._selected is not None
        for verb in self._needs:
            missing = self._selected - sight.variables(verb, self._live)
            if missing:
                # Named where he may know of it: he may watch it, or could until now.
                label = self._live.timeline.display_names[min(missing)]
                raise sight.denied(
                    verb, f"variable {label!r} of model {self._live.name!r}, which he watches"
                )
