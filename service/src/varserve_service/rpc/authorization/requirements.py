"""What a request requires of its caller, derived from what it names.

One function for each request type; the table of methods (`rpc/methods.py`) says which is used
where. Names are as the caller gave them. Knows the contract's messages; knows neither callers nor
policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from varserve_service.access.policy import Verb
from varserve_service.core.model.registry import STABLE
from varserve_service.core.ports.loaded_model import Constant
from varserve_service.rpc.messages import translate


@dataclass(frozen=True, slots=True)
class RequireModel:
    """The verb on the model itself. `thing`: what was named, where that is not a model."""

    verb: Verb
    model: str
    thing: str = ""


@dataclass(frozen=True, slots=True)
class RequireAnyModel:
    """The verb on at least one thing of any model; the handler shows no others."""

    verb: Verb


@dataclass(frozen=True, slots=True)
class RequireVariables:
    """The verb on each of these variables."""

    verb: Verb
    model: str
    variables: Sequence[str]


@dataclass(frozen=True, slots=True)
class RequireAll:
    """The verb on every variable of the model; `instead` says what requires less."""

    verb: Verb
    model: str
    instead: str


@dataclass(frozen=True, slots=True)
class RequireAny:
    """The verb on at least one variable of the model; the handler shows no others."""

    verb: Verb
    model: str


@dataclass(frozen=True, slots=True)
class RequireLease:
    """`assign` on every variable that the lease holds."""

    model: str
    lease: int
    epoch: str


Arguments: TypeAlias = tuple[Mapping[str, np.ndarray[Any, Any]], Mapping[str, Constant]]


@dataclass(frozen=True, slots=True)
class RequireRun:
    """`run` on the function, and `assign` on every variable that the chosen overload writes.

    Of the `arguments` only dtypes, shapes and constants are looked at.
    """

    model: str
    function: str
    arguments: Callable[[], Arguments]


@dataclass(frozen=True, slots=True)
class RequireInspect:
    """`inspect` on the function, and `read` on every variable that the chosen overload uses.

    Of the `arguments` only dtypes, shapes and constants are looked at. None: nothing is run.
    """

    model: str
    function: str
    arguments: Callable[[], Arguments] | None = None


Requirement: TypeAlias = (
    RequireModel
    | RequireAnyModel
    | RequireVariables
    | RequireAll
    | RequireAny
    | RequireLease
    | RequireRun
    | RequireInspect
)


@dataclass(frozen=True, slots=True)
class Requirements:
    """All requirements of one request. `writes`: it changes something if it succeeds.

    `request_id` and `details` are recorded in the audit log.
    """

    requirements: Sequence[Requirement]
    writes: bool = False
    request_id: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def walks_model(self) -> bool:
        """Whether to decide takes a look at all variables of a model."""
        return any(isinstance(each, RequireAny | RequireAll) for each in self.requirements)

    @property
    def waits(self) -> bool:
        """Whether to decide may wait for where the state is kept."""
        return any(isinstance(each, RequireLease) for each in self.requirements)

    def names(self) -> tuple[str, list[str], str]:
        """The model, the variables and the function that the request names."""
        model, variables, function = "", dict[str, None](), ""
        for requirement in self.requirements:
            if isinstance(requirement, RequireAnyModel):
                continue
            model = requirement.model
            if isinstance(requirement, RequireVariables):
                variables.update(dict.fromkeys(requirement.variables))
            elif isinstance(requirement, RequireRun | RequireInspect):
                function = requirement.function
        return model, list(variables), function


def list_models(request: Any) -> Requirements:
    """ListModels: the handler lists what the caller may know of."""
    return Requirements([RequireAnyModel(Verb.LIST)])


def get_model(request: Any) -> Requirements:
    """GetModel."""
    return Requirements([RequireModel(Verb.LIST, request.model)])


def read_variable(request: Any) -> Requirements:
    """ReadVariable."""
    return Requirements([RequireVariables(Verb.READ, request.model, [request.variable])])


def read_variables(request: Any) -> Requirements:
    """ReadVariables."""
    names = _variables_of(request.reads)
    return Requirements([RequireVariables(Verb.READ, request.model, names)])


def summarize_variables(request: Any) -> Requirements:
    """SummarizeVariables. Summaries of parts, and by chosen edges, can single out elements."""
    requirements = [
        RequireVariables(Verb.SUMMARIZE, request.model, _variables_of(request.selections))
    ]
    edges = request.histogram.HasField("low") or request.histogram.HasField("high")
    revealed = [s.variable for s in request.selections if edges or s.HasField("region")]
    if revealed:
        requirements.append(RequireVariables(Verb.READ, request.model, revealed))
    return Requirements(requirements)


def assign_variable(request: Any) -> Requirements:
    """AssignVariable; to read the value back is a read."""
    requirements = [RequireVariables(Verb.ASSIGN, request.model, [request.variable])]
    if request.read_back:
        requirements.append(RequireVariables(Verb.READ, request.model, [request.variable]))
    return Requirements([*requirements, *_check(request)], True, request.request_id)


def assign_variables(manifest: Any) -> Requirements:
    """AssignVariables, by its manifest."""
    names = _variables_of(manifest.entries)
    requirements = [RequireVariables(Verb.ASSIGN, manifest.model, names)]
    check = _check(manifest, manifest.check_inputs)
    return Requirements([*requirements, *check], True, manifest.request_id)


def _check(request: Any, further: Iterable[Any] = ()) -> list[Requirement]:
    """What the check of a commit requires: its outputs are told when it does not pass."""
    if not request.HasField("check"):
        return []
    check = request.check

    def arguments() -> Arguments:
        inputs = translate.input_outlines(check.inputs)
        inputs |= {named.name: translate.outline(named.tensor) for named in further}
        return inputs, translate.constants(check.constants)

    return [RequireInspect(request.model, check.function, arguments)]


def run_function(request: Any) -> Requirements:
    """RunFunction."""

    def arguments() -> Arguments:
        return translate.input_outlines(request.inputs), translate.constants(request.constants)

    return _run(request, arguments)


def stream_run_function(manifest: Any) -> Requirements:
    """StreamRunFunction, by its manifest."""

    def arguments() -> Arguments:
        inputs = {named.name: translate.outline(named.tensor) for named in manifest.inputs}
        return inputs, translate.constants(manifest.constants)

    return _run(manifest, arguments)


def _run(request: Any, arguments: Callable[[], Arguments]) -> Requirements:
    requirements: list[Requirement] = [RequireRun(request.model, request.function, arguments)]
    if request.messages:  # They tell what the function computes.
        requirements.append(RequireInspect(request.model, request.function, arguments))
    return Requirements(requirements, request_id=request.request_id)


def list_tensors(request: Any) -> Requirements:
    """ListTensors: of variables, the handler names those that the caller may know of."""
    return Requirements([RequireInspect(request.model, request.function)])


def inspect_function(manifest: Any) -> Requirements:
    """InspectFunction, by its manifest. What a value is assumed for, the function uses: `read`."""

    def arguments() -> Arguments:
        inputs = {named.name: translate.outline(named.tensor) for named in manifest.inputs}
        return inputs, translate.constants(manifest.constants)

    requirements: list[Requirement] = [RequireInspect(manifest.model, manifest.function, arguments)]
    if manifest.assume:
        names = list(dict.fromkeys(assumed.name for assumed in manifest.assume))
        requirements.append(RequireVariables(Verb.READ, manifest.model, names))
    return Requirements(requirements)


def session(request: None) -> Requirements:
    """Session and WatchSession: a caller that is who it says it is; each of its calls is judged."""
    return Requirements([])


def watch(request: Any) -> Requirements:
    """WatchVariables and ListCommits: the handler shows what the caller may watch."""
    return Requirements([RequireAny(Verb.WATCH, request.model)])


def revert_commits(request: Any) -> Requirements:
    """RevertCommits."""
    names = list(request.variables)
    requirement = (
        RequireVariables(Verb.ASSIGN, request.model, names)
        if names
        else RequireAll(Verb.ASSIGN, request.model, "name the variables to revert")
    )
    return Requirements([requirement], True, request.request_id)


def renew_lease(request: Any) -> Requirements:
    """RenewLease."""
    return Requirements([RequireLease(request.model, request.lease, request.epoch)])


def revoke_lease(request: Any) -> Requirements:
    """RevokeLease."""
    return Requirements([RequireLease(request.model, request.lease, request.epoch)], True)


def load_model(request: Any) -> Requirements:
    """LoadModel."""
    version = {"version": request.version} if request.HasField("version") else {}
    requirements = [RequireModel(Verb.ADMIN, request.model)]
    return Requirements(requirements, True, details={"label": request.label or STABLE} | version)


def unload_model(request: Any) -> Requirements:
    """UnloadModel."""
    requirements = [RequireModel(Verb.ADMIN, request.model)]
    return Requirements(requirements, True, details={"label": request.label})


def save_model(request: Any) -> Requirements:
    """SaveModel. The folder's name is judged like a model's: a repository would serve it as one."""
    name = request.folder.partition("/")[0]
    requirements = [
        RequireModel(Verb.ADMIN, name, "a folder named like model"),
        RequireModel(Verb.ADMIN, request.model),
    ]
    return Requirements(requirements, True, details={"folder": request.folder})


def list_versions(request: Any) -> Requirements:
    """ListVersions; of all models, the handler lists those that the caller administers."""
    if request.model:
        return Requirements([RequireModel(Verb.ADMIN, request.model)])
    return Requirements([RequireAnyModel(Verb.ADMIN)])


def _variables_of(selections: Iterable[Any]) -> list[str]:
    """The variables that are named, each once: a message has room for half a million names."""
    return list(dict.fromkeys(selection.variable for selection in selections))
