"""What each RPC needs, by what its request names: the one table that access is decided from.

A method that is not in it is denied to everybody. Knows the contract's messages, and neither who
calls nor what he may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from varserve import frames
from varserve_service.access.policy import Verb
from varserve_service.core.model.registry import STABLE
from varserve_service.core.ports.loaded_model import Constant
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor

# Names are as the caller gave them.


@dataclass(frozen=True, slots=True)
class RequireModel:
    """The verb on the model itself."""

    verb: Verb
    model: str


@dataclass(frozen=True, slots=True)
class RequireVariables:
    """The verb on each of these variables."""

    verb: Verb
    model: str
    variables: Sequence[str]


@dataclass(frozen=True, slots=True)
class RequireAll:
    """The verb on every variable of the model; `instead` says what needs less."""

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
    """`run` on the function, and `assign` on all that the overload of the arguments writes."""

    model: str
    function: str
    arguments: Callable[[], Arguments]


Need: TypeAlias = (
    RequireModel | RequireVariables | RequireAll | RequireAny | RequireLease | RequireRun
)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a request needs, and under which id. `writes`: it changes something if it succeeds.

    `details` are what else of it is to be told, in the audit log's fields.
    """

    needs: Sequence[Need]
    writes: bool = False
    request_id: str = ""
    details: Mapping[str, str | int] = field(default_factory=dict)


def _list_models(request: Any) -> Requirements:
    return Requirements(())  # who is known may ask; the handler shows what he may see


def _get_model(request: Any) -> Requirements:
    return Requirements([RequireModel(Verb.LIST, request.model)])


def _read_variable(request: Any) -> Requirements:
    return Requirements([RequireVariables(Verb.READ, request.model, [request.variable])])


def _read_variables(request: Any) -> Requirements:
    return Requirements(
        [RequireVariables(Verb.READ, request.model, [r.variable for r in request.reads])]
    )


def _summarize(request: Any) -> Requirements:
    selections = request.selections
    needs = [
        RequireVariables(Verb.SUMMARIZE, request.model, [each.variable for each in selections])
    ]
    # The mean of one element is its value: by regions a whole variable could be read.
    parts = [each.variable for each in selections if each.HasField("region")]
    if parts:
        needs.append(RequireVariables(Verb.READ, request.model, parts))
    return Requirements(needs)


def _assign_variable(request: Any) -> Requirements:
    needs = [RequireVariables(Verb.ASSIGN, request.model, [request.variable])]
    if request.read_back:
        needs.append(RequireVariables(Verb.READ, request.model, [request.variable]))
    return Requirements(needs, True, request.request_id)


def _assign_variables(manifest: Any) -> Requirements:
    names = [entry.variable for entry in manifest.entries]
    return Requirements(
        [RequireVariables(Verb.ASSIGN, manifest.model, names)], True, manifest.request_id
    )


def _run_function(request: Any) -> Requirements:
    def arguments() -> Arguments:
        return translate.inputs(request.inputs), translate.constants(request.constants)

    needs = [RequireRun(request.model, request.function, arguments)]
    return Requirements(needs, request_id=request.request_id)


def _stream_run_function(manifest: Any) -> Requirements:
    def arguments() -> Arguments:
        inputs = {
            named.name: ClaimedTensor(f"input {named.name[:200]!r}", named.tensor).placeholder()
            for named in manifest.inputs
        }
        return inputs, translate.constants(manifest.constants)

    needs = [RequireRun(manifest.model, manifest.function, arguments)]
    return Requirements(needs, request_id=manifest.request_id)


def _watch(request: Any) -> Requirements:
    return Requirements([RequireAny(Verb.WATCH, request.model)])


def _revert(request: Any) -> Requirements:
    names = list(request.variables)
    need = (
        RequireVariables(Verb.ASSIGN, request.model, names)
        if names
        else RequireAll(Verb.ASSIGN, request.model, "name the variables to revert")
    )
    return Requirements([need], True, request.request_id)


def _lease(request: Any) -> Requirements:
    return Requirements([RequireLease(request.model, request.lease, request.epoch)])


def _end_lease(request: Any) -> Requirements:
    return Requirements([RequireLease(request.model, request.lease, request.epoch)], True)


def _load(request: Any) -> Requirements:
    version = {"version": request.version} if request.HasField("version") else {}
    needs = [RequireModel(Verb.ADMIN, request.model)]
    return Requirements(needs, True, details={"label": request.label or STABLE} | version)


def _unload(request: Any) -> Requirements:
    return Requirements(
        [RequireModel(Verb.ADMIN, request.model)], True, details={"label": request.label}
    )


def _save(request: Any) -> Requirements:
    name, version, _ = request.folder.partition("/")
    # In a repository it is a version of the model of that name.
    needs = [RequireModel(Verb.ADMIN, name)] if version else []
    needs.append(RequireModel(Verb.ADMIN, request.model))
    return Requirements(needs, True, details={"folder": request.folder})


def _list_versions(request: Any) -> Requirements:
    # Of all models: the handler shows what he may administer.
    return Requirements([RequireModel(Verb.ADMIN, request.model)] if request.model else [])


_MODELS = "varserve.v1.ModelService."
_ADMIN = "varserve.v1.AdminService."

REQUIREMENTS: Mapping[str, Callable[[Any], Requirements]] = {
    f"{_MODELS}ListModels": _list_models,
    f"{_MODELS}GetModel": _get_model,
    f"{_MODELS}ReadVariable": _read_variable,
    f"{_MODELS}ReadVariables": _read_variables,
    f"{_MODELS}SummarizeVariables": _summarize,
    f"{_MODELS}AssignVariable": _assign_variable,
    f"{_MODELS}AssignVariables": _assign_variables,
    f"{_MODELS}RunFunction": _run_function,
    f"{_MODELS}StreamRunFunction": _stream_run_function,
    f"{_MODELS}WatchVariables": _watch,
    f"{_MODELS}ListCommits": _watch,
    f"{_MODELS}RevertCommits": _revert,
    f"{_MODELS}RenewLease": _lease,
    f"{_MODELS}RevokeLease": _end_lease,
    f"{_ADMIN}LoadModel": _load,
    f"{_ADMIN}UnloadModel": _unload,
    f"{_ADMIN}SaveModel": _save,
    f"{_ADMIN}ListVersions": _list_versions,
}
"""By the method's full name. A call whose requests stream is told by its manifest."""

FIRST: Mapping[str, Callable[[bytes], Any]] = {
    f"{_MODELS}AssignVariables": frames.assign_variables_request,
    f"{_MODELS}StreamRunFunction": frames.stream_run_function_request,
}
"""What reads the messages of a call whose requests stream, as the handler does."""


def manifest_of(method: str, message: bytes | None) -> Any:
    """The manifest that must open a stream. Raises RequestError REQUEST_MALFORMED."""
    if message is None:
        raise translate.malformed("expected a manifest first, found the end of the stream")
    found = FIRST[method](message)
    if isinstance(found, frames.ChunkFrame) or not found.HasField("manifest"):
        raise translate.malformed("expected a manifest first, found another message")
    return found.manifest


def names_of(needs: Iterable[Need]) -> tuple[str, list[str], str]:
    """The model, the variables and the function that needs name, as the caller gave them."""
    model, variables, function = "", dict[str, None](), ""
    for need in needs:
        model = need.model
        if isinstance(need, RequireVariables):
            variables.update(dict.fromkeys(need.variables))
        elif isinstance(need, RequireRun):
            function = need.function
    return model, list(variables), function
