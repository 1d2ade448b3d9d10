"""One description for each RPC: how its request is built, its answer read, when it may be repeated.

Owns the wire form of the calls and the retries. The drivers run them; the handles and the client's
flat methods put them together. Values come prepared (contract dtype, C order) and parts resolved.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.message_factory import GetMessageClass

from varserve import frames, tensors
from varserve._client import errors
from varserve._client.operations.requests import build
from varserve._client.transport.bodies import BodyDownload, upload
from varserve._client.transport.drivers import Budget, Call, Method, Op, Sleep
from varserve._client.values import specs
from varserve._client.values.regions import Index, Part, Rows
from varserve._client.values.results import Commit, Outputs, Reading, Snapshot
from varserve._client.values.specs import Constant, ModelSpec, ModelSummary
from varserve.tensors import Array
from varserve.v1 import model_pb2, model_service_pb2, tensor_pb2
from varserve.v1 import model_service_pb2 as pb

_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


def method(name: str, read: Callable[[bytes], Any] | None = None) -> Method:
    found = _SERVICE.methods_by_name[name]
    return Method(
        f"/{_SERVICE.full_name}/{name}",
        read or GetMessageClass(found.output_type).FromString,
        found.client_streaming,
        found.server_streaming,
    )


LIST_MODELS = method("ListModels")
GET_MODEL = method("GetModel")
READ_VARIABLE = method("ReadVariable")
READ_VARIABLES = method("ReadVariables", frames.read_variables_response)
ASSIGN_VARIABLE = method("AssignVariable")
ASSIGN_VARIABLES = method("AssignVariables")
RUN_FUNCTION = method("RunFunction")
STREAM_RUN_FUNCTION = method("StreamRunFunction", frames.stream_run_function_response)
CHECK_HEALTH = Method("/grpc.health.v1.Health/Check", bytes)


# ---- attempts ----

_FIRST_DELAY = 0.05
_LAST_DELAY = 2.0
# The service gave these answers itself, so nothing was changed and any call may come again.
_COME_AGAIN = {"MODEL_NOT_READY", "SHUTTING_DOWN", "TOO_MANY_REQUESTS"}


def attempt(call: Call, *, repeatable: bool = True) -> Op[Any]:
    """The call, again after a failure that may pass, with growing, random delays in between.

    `repeatable`: the call may arrive twice, because it changes nothing or carries a request_id.
    """
    budget = call.budget
    refused = uncertain = False
    for count in itertools.count():
        try:
            answer = yield call
            # A service that was only out of reach has not been loaded by whoever tried.
            budget.throttle.succeeded(repeated=refused)
            return answer
        except errors.VarserveError as error:
            delay = _delay(error, count)
            refused = isinstance(error, errors.TooManyRequests)
            if (
                count >= budget.retries
                or delay >= budget.remaining()
                or not _may_pass(error, count, repeatable)
                or (refused and not budget.throttle.take())
            ):
                # What the service says of the last attempt is nothing of one that it got before.
                error.from_service = error.from_service and not uncertain
                raise
            uncertain |= not error.from_service or isinstance(error, errors.AuditLogUnavailable)
        yield Sleep(delay)
    return None  # pragma: no cover


def _delay(error: errors.VarserveError, count: int) -> float:
    delay: float = min(_LAST_DELAY, _FIRST_DELAY * 2**count) * random.uniform(0.5, 1.5)
    if isinstance(error, errors.TooManyRequests) and error.retry_after is not None:
        # Not all at the same moment, and none before it.
        delay = max(delay, error.retry_after * random.uniform(1.0, 1.5))
    return delay


def _may_pass(error: errors.VarserveError, count: int, repeatable: bool) -> bool:
    if error.reason == "CHECKSUM_MISMATCH":
        return count == 0 and repeatable
    if isinstance(error, errors.AuditLogUnavailable):
        return repeatable  # it may have been done
    if error.from_service:
        return error.reason in _COME_AGAIN
    return repeatable and isinstance(error, errors.Unavailable)


def new_request_id() -> str:
    """An id for one logical write, the same in all of its attempts."""
    return os.urandom(16).hex()


# ---- models ----


def list_models(budget: Budget) -> Op[list[ModelSummary]]:
    """ListModels."""
    reply = yield from attempt(Call(LIST_MODELS, pb.ListModelsRequest(), budget))
    return [specs.summary(each) for each in reply.models]


def get_model(model: str, budget: Budget) -> Op[ModelSpec]:
    """GetModel."""
    reply = yield from attempt(Call(GET_MODEL, build(pb.GetModelRequest, model=model), budget))
    return specs.model(reply)


# ---- reads ----

Dtype: TypeAlias = np.dtype[Any]


def _wire(dtype: Dtype | None) -> tensor_pb2.DataType:
    if dtype is None:
        return tensor_pb2.DATA_TYPE_UNSPECIFIED
    return tensors.wire_dtype(tensors.dtype_name(dtype))


def read_variable(
    model: str,
    variable: str,
    part: Part,
    budget: Budget,
    *,
    if_newer_than: int | None = None,
    at_revision: int | None = None,
    epoch: str = "",
    dtype: Dtype | None = None,
) -> Op[Reading]:
    """ReadVariable."""
    request = build(
        pb.ReadVariableRequest,
        model=model,
        variable=variable,
        region=part.message,
        if_newer_than=if_newer_than,
        at_revision=at_revision,
        epoch=epoch,
        dtype=_wire(dtype),
    )
    reply = yield from attempt(Call(READ_VARIABLE, request, budget))
    value = tensors.from_tensor(reply.value) if reply.HasField("value") else None
    return Reading(
        header=specs.header(reply.header),
        variable_revision=reply.variable_revision,
        value=None if value is None else part.show(value),
    )


def read_variables(
    model: str,
    reads: Mapping[str, tuple[str, Part]],
    chunk_bytes: int,
    budget: Budget,
    *,
    at_revision: int | None = None,
    epoch: str = "",
    dtypes: Mapping[str, Dtype | None] | None = None,
    into: Mapping[str, Array] | None = None,
) -> Op[Snapshot]:
    """ReadVariables. `reads`: what each value is called in the snapshot, the variable, its part.

    `dtypes`: those that values are to travel as, and `into`: arrays that take values, by what these
    are called.
    """
    request = build(
        pb.ReadVariablesRequest,
        model=model,
        reads=[
            build(
                pb.ReadSelection,
                variable=variable,
                region=part.message,
                dtype=_wire((dtypes or {}).get(key)),
            )
            for key, (variable, part) in reads.items()
        ],
        at_revision=at_revision,
        epoch=epoch,
    )
    receive = partial(
        BodyDownload,
        lambda found: [each.tensor for each in found.entries],
        chunk_bytes,
        len(reads),
        [(into or {}).get(key) for key in reads],
    )
    manifest, arrays = yield from attempt(Call(READ_VARIABLES, request, budget, receive))
    return Snapshot(
        header=specs.header(manifest.header),
        values={
            key: part.show(array)
            for (key, (_, part)), array in zip(reads.items(), arrays, strict=True)
        },
        revisions={
            key: entry.variable_revision for key, entry in zip(reads, manifest.entries, strict=True)
        },
    )


# ---- writes ----


class AssignOperation(StrEnum):
    """How a value changes a variable. ADD and SUB are for numbers only."""

    SET = "set"
    ADD = "add"
    SUB = "sub"

    @property
    def wire(self) -> pb.AssignOperation:
        """The contract's number."""
        number: pb.AssignOperation = pb.AssignOperation.Value(f"ASSIGN_OPERATION_{self.name}")
        return number


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One change of one variable.

    value: of the variable's dtype and of the shape of the variable or region.
    region: None for the whole variable.
    if_revision_match: the write happens only if the variable's last write was at this revision.
    """

    variable: str
    value: npt.ArrayLike
    operation: AssignOperation | str = AssignOperation.SET
    region: Index | Rows | Part | None = None
    if_revision_match: int | None = None


def operation_of(given: AssignOperation | str) -> AssignOperation:
    """How a value changes a variable. Raises InvalidRequest."""
    try:
        return AssignOperation(given)
    except ValueError:
        found = errors.shown(given)
        raise errors.InvalidRequest(f"operation: expected set, add or sub, found {found}") from None


class Prepared(NamedTuple):
    """A write as it travels."""

    variable: str
    value: Array
    operation: AssignOperation
    part: Part
    if_revision_match: int | None


class Conditions(NamedTuple):
    """What a write or run is conditional on, the id that makes it happen once, and its reason."""

    request_id: str = ""
    revision: int | None = None
    """The model's."""
    epoch: str = ""
    message: str = ""

    def fields(self) -> dict[str, Any]:
        """The request's fields."""
        return {
            "request_id": self.request_id,
            "if_model_revision_match": self.revision,
            "if_epoch_match": self.epoch,
            "message": self.message,
        }


def assign_variable(
    model: str,
    write: Prepared,
    budget: Budget,
    conditions: Conditions,
    *,
    read_back: bool = False,
    lease_seconds: float = 0,
) -> Op[Commit]:
    """AssignVariable."""
    request = build(
        pb.AssignVariableRequest,
        model=model,
        variable=write.variable,
        operation=write.operation.wire,
        region=write.part.message,
        value=tensors.to_tensor(write.value),
        if_revision_match=write.if_revision_match,
        read_back=read_back,
        lease_seconds=lease_seconds,
        **conditions.fields(),
    )
    call = Call(ASSIGN_VARIABLE, request, budget)
    reply = yield from attempt(call, repeatable=bool(conditions.request_id))
    value = tensors.from_tensor(reply.value) if reply.HasField("value") else None
    return Commit(specs.header(reply.header), None if value is None else write.part.show(value))


def assign_variables(
    model: str,
    writes: Sequence[Prepared],
    chunk_bytes: int,
    budget: Budget,
    conditions: Conditions,
    *,
    lease_seconds: float = 0,
) -> Op[Commit]:
    """AssignVariables."""
    manifest = build(
        pb.AssignManifest,
        model=model,
        entries=[
            build(
                pb.AssignEntry,
                variable=each.variable,
                operation=each.operation.wire,
                region=each.part.message,
                tensor=tensors.to_header(each.value),
                if_revision_match=each.if_revision_match,
            )
            for each in writes
        ],
        lease_seconds=lease_seconds,
        **conditions.fields(),
    )
    first = pb.AssignVariablesRequest(manifest=manifest).SerializeToString()
    body = partial(upload, first, [each.value for each in writes], chunk_bytes)
    call = Call(ASSIGN_VARIABLES, body, budget)
    reply = yield from attempt(call, repeatable=bool(conditions.request_id))
    return Commit(specs.header(reply.header))


# ---- runs ----


class Run(NamedTuple):
    """A call of a function. `repeatable`: it may arrive twice without harm."""

    function: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Constant]
    outputs: tuple[str, ...] = ()
    repeatable: bool = False

    def fields(self, model: str) -> dict[str, Any]:
        """The request's fields, without the inputs."""
        return {
            "model": model,
            "function": self.function,
            "constants": {name: _constant(name, each) for name, each in self.constants.items()},
            "outputs": self.outputs,
        }


def _constant(name: str, constant: Constant) -> model_pb2.Constant:
    value = constant.value
    kind = "repr" if constant.is_repr else _CONSTANT_KINDS[type(value)]
    with errors.about(f"constant {name!r}"):
        return build(model_pb2.Constant, **{f"{kind}_value": True if value is None else value})


_CONSTANT_KINDS = {type(None): "none", bool: "bool", int: "int", float: "float", str: "string"}


def run_function(model: str, run: Run, budget: Budget, conditions: Conditions) -> Op[Outputs]:
    """RunFunction."""
    request = build(
        pb.RunFunctionRequest,
        inputs={name: tensors.to_tensor(each) for name, each in run.inputs.items()},
        **run.fields(model),
        **conditions.fields(),
    )
    call = Call(RUN_FUNCTION, request, budget)
    reply = yield from attempt(call, repeatable=run.repeatable)
    return Outputs(
        specs.header(reply.header),
        {each.name: tensors.from_tensor(each.tensor) for each in reply.outputs},
    )


def stream_run_function(
    model: str, run: Run, chunk_bytes: int, budget: Budget, conditions: Conditions
) -> Op[Outputs]:
    """StreamRunFunction."""
    manifest = build(
        pb.RunManifest,
        inputs=[
            build(pb.NamedTensorHeader, name=name, tensor=tensors.to_header(each))
            for name, each in run.inputs.items()
        ],
        **run.fields(model),
        **conditions.fields(),
    )
    first = pb.StreamRunFunctionRequest(manifest=manifest).SerializeToString()
    body = partial(upload, first, list(run.inputs.values()), chunk_bytes)
    receive = partial(
        BodyDownload, lambda found: [each.tensor for each in found.outputs], chunk_bytes
    )
    call = Call(STREAM_RUN_FUNCTION, body, budget, receive)
    result, arrays = yield from attempt(call, repeatable=run.repeatable)
    names = [each.name for each in result.outputs]
    return Outputs(specs.header(result.header), dict(zip(names, arrays, strict=True)))


# ---- health ----

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)
_POLL_SECONDS = 0.1


def wait_ready(service: str, budget: Budget) -> Op[None]:
    """Asks grpc.health.v1 until it says SERVING. `service`: a model's name, or "" for all."""
    # On the wire HealthCheckRequest is the same: one string, field 1. No package needed for it.
    request = build(pb.GetModelRequest, model=service)
    found = "nobody answers"
    while True:
        try:
            answer = yield Call(CHECK_HEALTH, request, budget)
            if answer == _SERVING:
                return
            found = "it answers that it is not serving"
        except errors.NotFound:
            raise errors.ModelNotFound(f"the service knows no model {service!r}") from None
        except errors.Unavailable as error:
            found = str(error)
        except errors.DeadlineExceeded:
            pass
        if budget.remaining() <= _POLL_SECONDS:
            raise errors.DeadlineExceeded(f"not ready within {budget.timeout:g} s: {found}")
        yield Sleep(_POLL_SECONDS)
