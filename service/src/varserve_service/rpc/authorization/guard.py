"""Whether a call may be: before its handler runs, by what its request names.

Owns how names become the things that the policy knows, so that no other name of a thing gets around
it, and what a caller who may not is told. Knows live models and the policy; decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from varserve_service.access.policy import KINDS, Kind, Policy, Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, bare_name
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.core.ports.messages import Description
from varserve_service.rpc.entry.identity import Context, subject_of
from varserve_service.rpc.messages.bodies import not_silent

from .auditing import Auditing
from .requirements import (
    REQUIREMENTS,
    RequireAll,
    RequireAny,
    RequireLease,
    Requirements,
    RequireModel,
    RequireRun,
    RequireVariables,
    manifest_of,
)

_SHOWN = 200  # characters of a caller's name that a message repeats

_THING_VERBS = {kind: [verb for verb in Verb if kind in KINDS[verb]] for kind in Kind}


@dataclass(frozen=True, slots=True)
class CallerPermissions:
    """What one caller may, by the policy as it was when his call began."""

    policy: Policy
    subject: str
    current: Callable[[], Policy]

    def lists(self, model: str) -> bool:
        """Whether he may know of a model."""
        return self.policy.allows(self.subject, Verb.LIST, model, Kind.MODEL)

    def administers(self, model: str) -> bool:
        """Whether he may load, unload and save a model, be it there or not."""
        return self.policy.decide(self.subject, Verb.ADMIN, model, Kind.MODEL)

    def variables(self, verb: Verb, live: LiveModel) -> frozenset[str]:
        """Paths of the variables that he may do this with."""
        labels = live.timeline.display_names
        return frozenset(
            path for path, label in labels.items() if self.may(verb, live, Kind.VARIABLE, label)
        )

    def functions(self, live: LiveModel, names: Iterable[str]) -> frozenset[str]:
        """Those of the functions that he may know of."""
        return frozenset(name for name in names if self.may(Verb.LIST, live, Kind.FUNCTION, name))

    def may(self, verb: Verb, live: LiveModel, kind: Kind, name: str) -> bool:
        """Whether he may, by the name that the thing is listed under."""
        return self.policy.allows(self.subject, verb, live.name, kind, name)

    def outdated(self) -> bool:
        """Whether the policy has changed since."""
        return self.current() is not self.policy

    def renewed(self) -> CallerPermissions:
        """What he may by now."""
        return sight(self.current, self.subject)

    def denied(self, verb: Verb, what: str, **metadata: object) -> RequestError:
        """He may not do this with what he named."""
        who = repr(self.subject) if self.subject else "a caller without a name"
        return RequestError(Reason.PERMISSION_DENIED, f"{who} may not {verb} {what}", **metadata)


def shown(found: Description, live: LiveModel, seen: CallerPermissions | None) -> Description:
    """What a caller may know of a description."""
    if seen is None:
        return found
    paths = seen.variables(Verb.LIST, live)
    names = seen.functions(live, [spec.name for spec in found.functions])
    variables = tuple(each for each in found.variables if each.spec.path in paths)
    functions = tuple(each for each in found.functions if each.name in names)
    # A policy has no word for what is not served: only a caller who sees all the rest is told.
    everything = (len(variables), len(functions)) == (len(found.variables), len(found.functions))
    omissions = found.omissions if everything else ()
    return replace(found, variables=variables, functions=functions, omissions=omissions)


def sight(current: Callable[[], Policy], subject: str) -> CallerPermissions:
    """What a subject may now."""
    return CallerPermissions(current(), subject, current)


# A call's own: gRPC has a task for each.
_sight: ContextVar[CallerPermissions | None] = ContextVar("sight", default=None)
_decided: ContextVar[LiveModel | None] = ContextVar("decided", default=None)


def check_decided(live: LiveModel) -> None:
    """Raises RequestError MODEL_NOT_READY when the call was let in to another version of the model.

    What a name means, and so what the caller may, may not be the same in this one.
    """
    decided = _decided.get()
    if decided is not None and decided is not live:
        raise RequestError(
            Reason.MODEL_NOT_READY,
            f"model {live.name!r} was replaced at this moment; try again",
            model=live.name,
        )


def sight_of(context: Context) -> CallerPermissions | None:
    """What the caller may, for handlers that show some of what there is; None: there is no policy.

    To be asked on the event loop, in the task that answers the call.
    """
    return _sight.get()


class Guard:
    """Stands before every handler."""

    def __init__(
        self,
        models: Models,
        policy: Callable[[], Policy] | None = None,
        auditing: Auditing | None = None,
        upload_silence: float = 60.0,
    ) -> None:
        """`policy` gives the one that holds now. Without it everybody may do everything.

        `upload_silence`: seconds that a stream's manifest is waited for.
        """
        self._models = models
        self._policy = policy
        self._auditing = auditing
        self._upload_silence = upload_silence

    def around(self, method: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        """The handler of a method (its descriptor), or what answers only those who may call it.

        It is the handler itself where there is neither a policy nor an audit log.
        """
        derive = REQUIREMENTS.get(method.full_name)
        if derive is None:
            return _refuse(method.full_name)
        if self._policy is None and self._auditing is None:
            return call
        if method.client_streaming:

            async def handle_stream(requests: AsyncIterator[bytes], context: Context) -> Any:
                messages = aiter(requests)
                async with not_silent(self._upload_silence):
                    first = await anext(messages, None)
                asked = derive(manifest_of(method.full_name, first))
                assert first is not None
                return await self._handle(method, asked, call, _again(first, messages), context)

            return handle_stream
        read = GetMessageClass(method.input_type).FromString

        async def handle(data: bytes, context: Context) -> Any:
            return await self._handle(method, derive(read(data)), call, data, context)

        return handle

    async def _handle(
        self,
        method: Any,
        asked: Requirements,
        call: Callable[..., Any],
        request: Any,
        context: Context,
    ) -> Any:
        subject = subject_of(context)
        seen = None if self._policy is None else sight(self._policy, subject)
        _sight.set(seen)
        auditing = self._auditing
        if auditing is None:
            if seen is not None:
                self.check(asked, seen)
            return await call(request, context)
        with auditing.recording(method.name, asked, subject, context) as record:
            writes = self.check(asked, seen) or asked.writes
            if not writes:
                return await call(request, context)
            record.writes = True
            await auditing.ready()
            try:
                answer = await call(request, context)
            except asyncio.CancelledError:
                auditing.cut_off(record)
                raise
            await auditing.done(record, answer)
            return answer

    def check(self, asked: Requirements, seen: CallerPermissions | None) -> bool:
        """Whether it is a function's run that writes.

        Raises RequestError PERMISSION_DENIED, and as the handler would of what is not there.
        Without a policy (`seen` is None) raises nothing: the handler finds the same.
        """
        if seen is None:
            try:
                return any(_written(self._models.find(n.model), n) for n in _runs(asked))
            except RequestError:
                return False
        writes = False
        for need in asked.needs:
            match need:
                case RequireModel():
                    self._model_need(seen, need)
                case RequireVariables():
                    live = self._model(seen, need.verb, need.model)
                    # Once each: a message has room for the same name half a million times.
                    for name in dict.fromkeys(need.variables):
                        _variable(seen, need.verb, live, name)
                case RequireAll():
                    live = self._model(seen, need.verb, need.model)
                    if len(seen.variables(need.verb, live)) < len(live.timeline.display_names):
                        what = f"every variable of model {_shown(need.model)}; {need.instead}"
                        raise seen.denied(need.verb, what, model=need.model[:_SHOWN])
                case RequireAny():
                    live = self._model(seen, need.verb, need.model)
                    _some(seen, need.verb, live, need.model)
                case RequireLease():
                    live = self._model(seen, Verb.ASSIGN, need.model)
                    _some(seen, Verb.ASSIGN, live, need.model)
                    _all(
                        seen,
                        live,
                        live.leases.variables(need.lease, need.epoch),
                        f"lease {need.lease}",
                    )
                case RequireRun():
                    live = self._model(seen, Verb.RUN, need.model)
                    _function(seen, live, need.function)
                    written = _written(live, need)
                    _all(seen, live, written, f"function {_shown(need.function)}")
                    writes = writes or bool(written)
        return writes

    def _model_need(self, seen: CallerPermissions, need: RequireModel) -> None:
        # By the name that was said where nothing is loaded: an admin may load it.
        live = self._found(need.model)
        name = bare_name(need.model) if live is None else live.name
        ask = seen.policy.decide if live is None else seen.policy.allows
        if not ask(seen.subject, need.verb, name, Kind.MODEL):
            raise seen.denied(need.verb, f"model {_shown(need.model)}", model=need.model[:_SHOWN])
        if need.verb is not Verb.ADMIN:
            self._model(seen, need.verb, need.model)

    def _found(self, said: str) -> LiveModel | None:
        try:
            return self._models.find(said)
        except RequestError:
            return None

    def _model(self, seen: CallerPermissions, verb: Verb, said: str) -> LiveModel:
        """The model, for who may do anything at all with it; others are not told of it."""
        try:
            live = self._models.find(said)
        except RequestError as error:
            if not seen.policy.would_know(seen.subject, bare_name(said)):
                raise _model_denied(seen, verb, said) from None
            if error.reason is not Reason.MODEL_NOT_FOUND:
                raise
            # Not as the registry says it: that lists the models that there are.
            raise RequestError(
                Reason.MODEL_NOT_FOUND, f"no model {_shown(said)}", model=said[:_SHOWN]
            ) from None
        if not seen.policy.knows(seen.subject, live.name):
            raise _model_denied(seen, verb, said)
        _decided.set(live)
        return live


def _model_denied(seen: CallerPermissions, verb: Verb, said: str) -> RequestError:
    return seen.denied(verb, f"anything of model {_shown(said)}", model=said[:_SHOWN])


def _variable(seen: CallerPermissions, verb: Verb, live: LiveModel, said: str) -> None:
    try:
        # On the event loop: close names, which nobody would be told of, are not worth the time.
        label = live.timeline.display_names[live.variable(said, suggest=False).path]
    except RequestError as error:
        if error.reason is Reason.NAME_AMBIGUOUS and _lists_all_of(seen, live, said):
            raise
        label = None
    _decide(seen, verb, live, Kind.VARIABLE, said, label)


def _lists_all_of(seen: CallerPermissions, live: LiveModel, said: str) -> bool:
    """Whether he may know of all variables of a name, as the refusal of one that fits two tells."""
    return all(
        seen.may(Verb.LIST, live, Kind.VARIABLE, live.timeline.display_names[spec.path])
        for spec in live.specs
        if said in (spec.name, spec.path)
    )


def _function(seen: CallerPermissions, live: LiveModel, said: str) -> None:
    try:
        name = live.function(said, suggest=False).name
    except RequestError:
        name = None
    _decide(seen, Verb.RUN, live, Kind.FUNCTION, said, name)


def _decide(
    seen: CallerPermissions, verb: Verb, live: LiveModel, kind: Kind, said: str, name: str | None
) -> None:
    """Raises unless he may. `name` is what the thing that he said is listed under, None for none.

    What he is told follows from what he may with names alone: a thing that he may do nothing with
    is as one that is not there.
    """
    if name is not None:
        if seen.may(verb, live, kind, name):
            return
        if any(seen.may(each, live, kind, name) for each in _THING_VERBS[kind]):
            raise _denied(seen, verb, live, kind, said)
    policy, subject = seen.policy, seen.subject
    if any(policy.decide(subject, each, live.name, kind, said) for each in _THING_VERBS[kind]):
        reason = Reason.VARIABLE_NOT_FOUND if kind is Kind.VARIABLE else Reason.FUNCTION_NOT_FOUND
        metadata = {"model": live.name, str(kind): said[:_SHOWN]}
        raise RequestError(reason, f"model {live.name!r} has no {kind} {_shown(said)}", **metadata)
    raise _denied(seen, verb, live, kind, said)


def _denied(
    seen: CallerPermissions, verb: Verb, live: LiveModel, kind: Kind, said: str
) -> RequestError:
    metadata = {"model": live.name, str(kind): said[:_SHOWN]}
    return seen.denied(verb, f"{kind} {_shown(said)} of model {live.name!r}", **metadata)


def _some(seen: CallerPermissions, verb: Verb, live: LiveModel, said: str) -> None:
    if not seen.variables(verb, live):
        raise seen.denied(verb, f"any variable of model {_shown(said)}", model=said[:_SHOWN])


def _all(
    seen: CallerPermissions, live: LiveModel, specs: Sequence[VariableSpec], whose: str
) -> None:
    labels = live.timeline.display_names
    if not all(seen.may(Verb.ASSIGN, live, Kind.VARIABLE, labels[spec.path]) for spec in specs):
        # Without their names, which he may not know.
        what = f"every variable that {whose} of model {live.name!r} writes"
        raise seen.denied(Verb.ASSIGN, what, model=live.name)


def _runs(asked: Requirements) -> Sequence[RequireRun]:
    return [need for need in asked.needs if isinstance(need, RequireRun)]


def _written(live: LiveModel, need: RequireRun) -> Sequence[VariableSpec]:
    """What the run writes. Raises RequestError for arguments that mean no overload."""
    spec = live.function(need.function, suggest=False)
    if not any(overload.writes for overload in spec.overloads):
        return ()
    overload = spec.overloads[live.check_run(need.function, *need.arguments())]
    return [live.variable(path) for path in overload.writes]


def _refuse(method: str) -> Callable[..., Any]:
    async def refuse(request: Any, context: Context) -> Any:
        raise RequestError(
            Reason.PERMISSION_DENIED, f"nobody may call {method}: what it needs is not listed"
        )

    return refuse


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for message in rest:
        yield message


def _shown(name: str) -> str:
    return repr(name[:_SHOWN])
