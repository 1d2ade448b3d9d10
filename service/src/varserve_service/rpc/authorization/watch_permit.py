"""Which variables a watch may show, when it begins and for as long as it lasts.

Knows the policy through the caller's permissions; knows nothing of streams.
"""

from __future__ import annotations

from typing import Any

from varserve_service.access.policy import Verb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.calls.permissions import CallerPermissions


class WatchPermit:
    """Of one watch; the request's patterns select among what the caller may watch."""

    def __init__(
        self, permissions: CallerPermissions | None, live: LiveModel, request: Any
    ) -> None:
        self._permissions = permissions
        self._live = live
        self._patterns = list(request.patterns)
        self._verbs = [Verb.WATCH]
        if request.values or request.previous_values:
            self._verbs.append(Verb.READ)
        self._selected: frozenset[str] | None = None

    def select(self) -> frozenset[str] | None:
        """Paths of the variables to watch; None for all, now and ever.

        Raises RequestError VARIABLE_NOT_FOUND for a pattern that matches no variable that the
        caller may watch, PERMISSION_DENIED where values are asked for of one that the caller may
        not read.
        """
        permissions, live = self._permissions, self._live
        among = None if permissions is None else permissions.variables(Verb.WATCH, live)
        self._selected = live.timeline.select(self._patterns, among)
        if permissions is not None:
            self._check(permissions)
        return self._selected

    @property
    def outdated(self) -> bool:
        """Whether the policy has changed since the watch was judged."""
        return self._permissions is not None and self._permissions.outdated

    def check(self) -> None:
        """Judge the watch by the policy that is in force now. From any thread.

        Raises RequestError PERMISSION_DENIED.
        """
        if self._permissions is not None:
            permissions = self._permissions.renewed()
            self._check(permissions)
            self._permissions = permissions

    def _check(self, permissions: CallerPermissions) -> None:
        assert self._selected is not None
        names = self._live.timeline.display_names
        for verb in self._verbs:
            for path in self._selected:
                if not permissions.allows_variable(verb, self._live, names[path]):
                    # By its name: the caller may watch it, or could until now.
                    thing = f"variable {names[path]!r} of model {self._live.name!r}"
                    raise permissions.denied(verb, f"{thing}, which it watches")
