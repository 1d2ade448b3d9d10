"""What one caller may do, by the policy as it was when the call began.

Knows the policy and live models; knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from varserve_service.access.policy import Kind, Policy, Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.messages import Description


@dataclass(frozen=True, slots=True)
class CallerPermissions:
    """The permissions of one subject. `current` gives the policy that is in force now."""

    policy: Policy
    subject: str
    current: Callable[[], Policy]

    @classmethod
    def of(cls, current: Callable[[], Policy], subject: str) -> CallerPermissions:
        """The permissions of a subject by the policy that is in force now."""
        return cls(current(), subject, current)

    def lists(self, model: str) -> bool:
        """Whether the caller may know of a model."""
        return self.policy.allows(self.subject, Verb.LIST, model, Kind.MODEL)

    def administers(self, model: str) -> bool:
        """Whether the caller may load, unload and save a model, whether it exists or not."""
        return self.policy.decide(self.subject, Verb.ADMIN, model, Kind.MODEL)

    def variables(self, verb: Verb, live: LiveModel) -> frozenset[str]:
        """Paths of the variables on which the caller has a verb."""
        labels = live.timeline.display_names
        return frozenset(
            path for path, label in labels.items() if self.allows_variable(verb, live, label)
        )

    def functions(self, live: LiveModel, names: Iterable[str]) -> frozenset[str]:
        """Those of the functions that the caller may know of."""
        return frozenset(name for name in names if self.may(Verb.LIST, live, Kind.FUNCTION, name))

    def may(self, verb: Verb, live: LiveModel, kind: Kind, name: str) -> bool:
        """Whether the caller has a verb on a thing, by the name that the thing is listed under."""
        return self.policy.allows(self.subject, verb, live.name, kind, name)

    def allows_variable(self, verb: Verb, live: LiveModel, label: str) -> bool:
        """Whether the caller has a verb on a variable, by its label."""
        return self.policy.allows(self.subject, verb, live.name, Kind.VARIABLE, label)

    def allows_paths(self, verb: Verb, live: LiveModel, paths: Iterable[str]) -> bool:
        """Whether the caller has a verb on every one of these variables."""
        labels = live.timeline.display_names
        return all(self.allows_variable(verb, live, labels[path]) for path in paths)

    def visible(self, description: Description, live: LiveModel) -> Description:
        """The part of a model's description that the caller may know of."""
        paths = self.variables(Verb.LIST, live)
        names = self.functions(live, [spec.name for spec in description.functions])
        variables = tuple(v for v in description.variables if v.spec.path in paths)
        functions = tuple(f for f in description.functions if f.name in names)
        # A policy has no word for what is not served: only a caller that sees all the rest is told.
        everything = (len(variables), len(functions)) == (
            len(description.variables),
            len(description.functions),
        )
        omissions = description.omissions if everything else ()
        return replace(description, variables=variables, functions=functions, omissions=omissions)

    @property
    def outdated(self) -> bool:
        """Whether the policy has changed since."""
        return self.current() is not self.policy

    def renewed(self) -> CallerPermissions:
        """The permissions by the policy that is in force now."""
        return CallerPermissions.of(self.current, self.subject)

    def denied(self, verb: Verb, thing: str, **metadata: object) -> RequestError:
        """The refusal of a verb on what the caller named."""
        caller = repr(self.subject) if self.subject else "a caller without a name"
        return RequestError(
            Reason.PERMISSION_DENIED, f"{caller} may not {verb} {thing}", **metadata
        )
