"""The guard: whether a call is allowed, by what its request names.

Owns how names become the things that the policy knows, so that no other name of a thing gets around
it, and what a refused caller is told. Knows live models and the policy. It has no state, and a
decision changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from varserve_service.access.policy import KINDS, Kind, Verb
from varserve_service.core.commit.leases import lease_not_found
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, bare_name
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.rpc.calls.permissions import CallerPermissions

from .requirements import (
    RequireAll,
    RequireAny,
    RequireAnyModel,
    RequireInspect,
    RequireLease,
    Requirement,
    Requirements,
    RequireModel,
    RequireRun,
    RequireVariables,
)

_SHOWN = 200  # characters of a caller's name that a message repeats

_THING_VERBS = {kind: [verb for verb in Verb if kind in KINDS[verb]] for kind in Kind}


class Decision(NamedTuple):
    """A call is allowed: `model` is the live model that was judged, None where there is none.

    `writes`: it runs a function that writes variables.
    """

    model: LiveModel | None
    writes: bool


class Guard:
    """Decides about calls. May be used from any thread."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def decide(self, requirements: Requirements, permissions: CallerPermissions | None) -> Decision:
        """Whether a call is allowed.

        Raises RequestError PERMISSION_DENIED, and for what does not exist what the handler would
        raise. Without a policy (`permissions` is None) everything is allowed, and what does not
        exist is left to the handler.
        """
        if permissions is None:
            return Decision(None, self._runs_writing(requirements))
        model, writes = None, False
        for requirement in requirements.requirements:
            decision = self._decide(requirement, permissions)
            model = decision.model or model
            writes = writes or decision.writes
        return Decision(model, writes)

    def _runs_writing(self, requirements: Requirements) -> bool:
        try:
            return any(
                _written(self._models.find(requirement.model), requirement)
                for requirement in requirements.requirements
                if isinstance(requirement, RequireRun)
            )
        except RequestError:
            return False

    def _decide(self, requirement: Requirement, permissions: CallerPermissions) -> Decision:
        written: Sequence[VariableSpec] = ()
        match requirement:
            case RequireAnyModel(verb):
                if not permissions.policy.grants(permissions.subject, verb):
                    raise permissions.denied(verb, "any model")
                return Decision(None, False)
            case RequireModel(verb, name):
                return Decision(self._decide_model(permissions, requirement), False)
            case RequireVariables(verb, name, variables):
                live = self._model(permissions, verb, name)
                for variable in variables:
                    _check_variable(permissions, verb, live, variable)
            case RequireAll(verb, name, instead):
                live = self._model(permissions, verb, name)
                if not permissions.allows_paths(verb, live, live.timeline.display_names):
                    thing = f"every variable of model {_shown(name)}; {instead}"
                    raise permissions.denied(verb, thing, model=name[:_SHOWN])
            case RequireAny(verb, name):
                live = self._model(permissions, verb, name)
                _check_any(permissions, verb, live, name)
            case RequireLease(name, lease, epoch):
                live = self._model(permissions, Verb.ASSIGN, name)
                _check_any(permissions, Verb.ASSIGN, live, name)
                held = live.leases.variables(lease, epoch)
                if not all(_knows(permissions, live, spec) for spec in held):
                    raise lease_not_found(lease)  # as if it did not exist
                _check_all(permissions, live, held, f"lease {lease}")
            case RequireInspect(name, function):
                live = self._model(permissions, Verb.INSPECT, name)
                _check_function(permissions, Verb.INSPECT, live, function)
                _check_used(permissions, live, requirement)
            case RequireRun(name, function):
                live = self._model(permissions, Verb.RUN, name)
                _check_function(permissions, Verb.RUN, live, function)
                written = _written(live, requirement)
                _check_all(permissions, live, written, f"function {_shown(function)}")
        return Decision(live, bool(written))

    def _decide_model(
        self, permissions: CallerPermissions, requirement: RequireModel
    ) -> LiveModel | None:
        verb, name = requirement.verb, requirement.model
        try:
            live = self._models.find(name)
        except RequestError:
            live = None
        # By the caller's name for it where nothing is loaded: an admin may load it.
        listed, ask = (
            (bare_name(name), permissions.policy.decide)
            if live is None
            else (live.name, permissions.policy.allows)
        )
        if not ask(permissions.subject, verb, listed, Kind.MODEL):
            thing = f"{requirement.thing or 'model'} {_shown(name)}"
            raise permissions.denied(verb, thing, model=name[:_SHOWN])
        # Administration itself finds out what there is.
        return None if verb is Verb.ADMIN else self._model(permissions, verb, name)

    def _model(self, permissions: CallerPermissions, verb: Verb, name: str) -> LiveModel:
        """The model, for a caller that may do anything with it; others do not learn of it."""
        try:
            live = self._models.find(name)
        except RequestError as error:
            if not permissions.policy.would_know(permissions.subject, bare_name(name)):
                raise _model_denied(permissions, verb, name) from None
            if error.reason is not Reason.MODEL_NOT_FOUND:
                raise
            # Not the registry's own text, which lists all models.
            raise RequestError(
                Reason.MODEL_NOT_FOUND, f"no model {_shown(name)}", model=name[:_SHOWN]
            ) from None
        if not permissions.policy.knows(permissions.subject, live.name):
            raise _model_denied(permissions, verb, name)
        return live


def _model_denied(permissions: CallerPermissions, verb: Verb, name: str) -> RequestError:
    return permissions.denied(verb, f"anything of model {_shown(name)}", model=name[:_SHOWN])


def _check_variable(permissions: CallerPermissions, verb: Verb, live: LiveModel, name: str) -> None:
    try:
        # Similar names are not looked for: nobody would be told of them.
        label = live.timeline.display_names[live.variable(name, suggest=False).path]
    except RequestError as error:
        if error.reason is Reason.NAME_AMBIGUOUS and _lists_all_of(permissions, live, name):
            raise
        label = None
    _check_thing(permissions, verb, live, Kind.VARIABLE, name, label)


def _lists_all_of(permissions: CallerPermissions, live: LiveModel, name: str) -> bool:
    """Whether the caller may know of all variables of a name, which NAME_AMBIGUOUS lists."""
    return all(
        permissions.allows_variable(Verb.LIST, live, live.timeline.display_names[spec.path])
        for spec in live.specs
        if name in (spec.name, spec.path)
    )


def _check_function(permissions: CallerPermissions, verb: Verb, live: LiveModel, name: str) -> None:
    try:
        label = live.function(name, suggest=False).name
    except RequestError:
        label = None
    _check_thing(permissions, verb, live, Kind.FUNCTION, name, label)


def _check_thing(
    permissions: CallerPermissions,
    verb: Verb,
    live: LiveModel,
    kind: Kind,
    name: str,
    label: str | None,
) -> None:
    """Raises unless the caller has the verb on a thing.

    `label` is what the thing of this name is listed under, None where there is none. The refusal
    follows from the caller's permissions on names alone: a thing on which the caller has no verb
    looks like one that does not exist.
    """
    if label is not None:
        if permissions.may(verb, live, kind, label):
            return
        if any(permissions.may(other, live, kind, label) for other in _THING_VERBS[kind]):
            raise _thing_denied(permissions, verb, live, kind, name)
    policy, subject = permissions.policy, permissions.subject
    if any(policy.decide(subject, other, live.name, kind, name) for other in _THING_VERBS[kind]):
        reason = Reason.VARIABLE_NOT_FOUND if kind is Kind.VARIABLE else Reason.FUNCTION_NOT_FOUND
        metadata = {"model": live.name, str(kind): name[:_SHOWN]}
        raise RequestError(reason, f"model {live.name!r} has no {kind} {_shown(name)}", **metadata)
    raise _thing_denied(permissions, verb, live, kind, name)


def _thing_denied(
    permissions: CallerPermissions, verb: Verb, live: LiveModel, kind: Kind, name: str
) -> RequestError:
    metadata = {"model": live.name, str(kind): name[:_SHOWN]}
    return permissions.denied(verb, f"{kind} {_shown(name)} of model {live.name!r}", **metadata)


def _check_any(permissions: CallerPermissions, verb: Verb, live: LiveModel, name: str) -> None:
    labels = live.timeline.display_names.values()
    if not any(permissions.allows_variable(verb, live, label) for label in labels):
        thing = f"any variable of model {_shown(name)}"
        raise permissions.denied(verb, thing, model=name[:_SHOWN])


def _check_all(
    permissions: CallerPermissions, live: LiveModel, specs: Sequence[VariableSpec], writer: str
) -> None:
    if not permissions.allows_paths(Verb.ASSIGN, live, [spec.path for spec in specs]):
        # Without the variables' names, which the caller may not know.
        thing = f"every variable that {writer} of model {live.name!r} writes"
        raise permissions.denied(Verb.ASSIGN, thing, model=live.name)


def _check_used(
    permissions: CallerPermissions, live: LiveModel, requirement: RequireInspect
) -> None:
    if requirement.arguments is None:
        return
    spec = live.function(requirement.function, suggest=False)
    overload = spec.overloads[live.check_run(requirement.function, *requirement.arguments())]
    if not permissions.allows_paths(Verb.READ, live, (*overload.reads, *overload.writes)):
        # Without the variables' names, which the caller may not know.
        function = _shown(requirement.function)
        thing = f"every variable that function {function} of model {live.name!r} uses"
        raise permissions.denied(Verb.READ, thing, model=live.name)


def _knows(permissions: CallerPermissions, live: LiveModel, spec: VariableSpec) -> bool:
    label = live.timeline.display_names[spec.path]
    verbs = _THING_VERBS[Kind.VARIABLE]
    return any(permissions.allows_variable(verb, live, label) for verb in verbs)


def _written(live: LiveModel, requirement: RequireRun) -> Sequence[VariableSpec]:
    """What the run writes. Raises RequestError for arguments that fit no overload."""
    spec = live.function(requirement.function, suggest=False)
    if not any(overload.writes for overload in spec.overloads):
        return ()
    overload = spec.overloads[live.check_run(requirement.function, *requirement.arguments())]
    return [live.variable(path) for path in overload.writes]


def _shown(name: str) -> str:
    return repr(name[:_SHOWN])
