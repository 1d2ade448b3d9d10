"""Descriptions of models as messages, in pages of bounded size.

A description has no bound: a hundred functions that read ten thousand variables each are as real
as names of a thousand characters. So a name is told once, functions refer to variables by index,
and a page is as many items as fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from varserve import tensors
from varserve.v1 import model_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.registry import Status
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    ModelState,
    Omission,
    OmissionKind,
    Overload,
    ParameterKind,
    TensorSpec,
)
from varserve_service.core.ports.messages import Description, VariableState

from .translate import header, malformed

_STATES = {
    ModelState.LOADING: model_pb2.MODEL_STATE_LOADING,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.UNLOADING: model_pb2.MODEL_STATE_UNLOADING,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
}

_KINDS = {
    FunctionKind.SIGNATURE: model_pb2.FUNCTION_KIND_SIGNATURE,
    FunctionKind.FUNCTION: model_pb2.FUNCTION_KIND_FUNCTION,
}

_PARAMETERS = {
    ParameterKind.POSITIONAL: model_pb2.PARAMETER_KIND_POSITIONAL,
    ParameterKind.VARIADIC: model_pb2.PARAMETER_KIND_VARIADIC,
    ParameterKind.KEYWORD: model_pb2.PARAMETER_KIND_KEYWORD,
}

_OMITTED = {
    OmissionKind.VARIABLE: model_pb2.OMISSION_KIND_VARIABLE,
    OmissionKind.FUNCTION: model_pb2.OMISSION_KIND_FUNCTION,
}

# EPOCH:ITEMS:FIRST, where the lists of all pages have so many items.
_TOKEN = re.compile(r"([^:]*):([0-9]{1,12}):([0-9]{1,12})")
_SHOWN = 200
# More than a variable's spec takes beside its names, with a shape of TensorFlow's largest rank.
_PLAIN = 4096


class Denied(NamedTuple):
    """Paths of the variables that the caller may not assign to, of functions to run, to inspect."""

    assign: frozenset[str] = frozenset()
    run: frozenset[str] = frozenset()
    inspect: frozenset[str] = frozenset()


NOTHING_DENIED = Denied()

_Item: TypeAlias = VariableState | tuple[FunctionSpec, Overload] | Omission


def state(model_state: ModelState) -> model_pb2.ModelState:
    """A ModelState."""
    return _STATES[model_state]


def summary(status: Status, description: Description | None) -> model_pb2.ModelSummary:
    """A ModelSummary; `description` is None for what is not in memory."""
    message = model_pb2.ModelSummary(state=_STATES[status.state], labels=status.labels)
    if description is None:
        message.header.MergeFrom(model_pb2.StateHeader(model=status.name, version=status.version))
        return message
    message.header.MergeFrom(header(description.header))
    message.device = description.device
    message.variable_count = len(description.variables)
    message.variable_bytes = sum(_nbytes(v.spec.dtype, v.shape) for v in description.variables)
    return message


def page(
    status: Status,
    description: Description,
    limits: pb.TransferLimits,
    token: str,
    max_bytes: int,
    denied: Denied = NOTHING_DENIED,
) -> pb.GetModelResponse:
    """One page of a description: at most `max_bytes` beside what every page has.

    An item that no page could hold is left out, and an omission says so.
    Raises RequestError REQUEST_MALFORMED, EPOCH_MISMATCH.
    """
    variables = [each for each in description.variables if _fits(each, max_bytes)]
    indices = {each.spec.path: index for index, each in enumerate(variables)}
    items = _items(description, variables)
    start = _start(token, description.header.epoch, len(items))
    response = pb.GetModelResponse(
        header=header(description.header), summary=summary(status, description), limits=limits
    )
    room = max_bytes
    for place, item in enumerate(islice(items, start, None), start):
        part = _part(item, indices, denied)
        nbytes = part.ByteSize()
        if nbytes > max_bytes:
            part = _too_large(item, nbytes, max_bytes)
            nbytes = part.ByteSize()
        if nbytes > room and place > start:
            response.next_page_token = f"{description.header.epoch}:{len(items)}:{place}"
            break
        room -= nbytes
        _append(response, part)
    return response


def _fits(variable: VariableState, max_bytes: int) -> bool:
    # UTF-8 has at most 4 bytes a character, and names are what can be long.
    most = 4 * (len(variable.spec.name) + len(variable.spec.path)) + _PLAIN
    return most <= max_bytes or _part(variable, {}).ByteSize() <= max_bytes


def _items(description: Description, variables: Sequence[VariableState]) -> list[_Item]:
    """Everything that is told one after the other: an overload is the least part of a function."""
    omissions = list(description.omissions)
    if len(variables) < len(description.variables):
        served = {each.spec.path for each in variables}
        omissions += (
            Omission(OmissionKind.VARIABLE, path[:_SHOWN], "its name does not fit into a message")
            for path in (each.spec.path for each in description.variables)
            if path not in served
        )
    overloads = [(spec, overload) for spec in description.functions for overload in spec.overloads]
    return [*variables, *overloads, *omissions]


def _start(token: str, epoch: str, count: int) -> int:
    """The index of the first item of the page that a token means."""
    if not token:
        return 0
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise malformed(f"page_token: expected one that GetModel gave, found {token[:_SHOWN]!r}")
    if (match[1], int(match[2])) != (epoch, count) or int(match[3]) >= count:
        raise RequestError(
            Reason.EPOCH_MISMATCH,
            "the page is of another state of the model; begin with the first page",
        )
    return int(match[3])


def _part(
    item: _Item, indices: Mapping[str, int], denied: Denied = NOTHING_DENIED
) -> pb.GetModelResponse:
    if isinstance(item, VariableState):
        variable = _variable(item)
        variable.assign_denied = variable.path in denied.assign
        return pb.GetModelResponse(variables=[variable])
    if isinstance(item, Omission):
        kind = _OMITTED[item.kind]
        omission = model_pb2.Omission(kind=kind, path=item.path, reason=item.reason)
        return pb.GetModelResponse(omissions=[omission])
    spec, overload = item
    function = model_pb2.FunctionSpec(
        name=spec.name,
        path=spec.path,
        kind=_KINDS[spec.kind],
        overloads=[_overload(overload, indices)],
        parameters=[
            model_pb2.Parameter(name=each.name, kind=_PARAMETERS[each.kind])
            for each in spec.parameters
        ],
        run_denied=spec.path in denied.run,
        inspect_denied=spec.path in denied.inspect,
    )
    return pb.GetModelResponse(functions=[function])


def _too_large(item: _Item, nbytes: int, max_bytes: int) -> pb.GetModelResponse:
    kind = OmissionKind.VARIABLE
    path = ""
    if isinstance(item, Omission):
        kind, path = item.kind, item.path
    elif isinstance(item, tuple):
        kind, path = OmissionKind.FUNCTION, item[0].path
    reason = f"its description takes {nbytes} bytes; expected at most {max_bytes}"
    return _part(Omission(kind, path[:_SHOWN], reason), {})


def _append(response: pb.GetModelResponse, part: pb.GetModelResponse) -> None:
    if part.functions and response.functions:
        function, last = part.functions[0], response.functions[-1]
        if function.path == last.path:
            last.overloads.extend(function.overloads)
            return
    response.MergeFrom(part)


def _variable(variable: VariableState) -> model_pb2.VariableSpec:
    spec = variable.spec
    return model_pb2.VariableSpec(
        name=spec.name,
        path=spec.path,
        dtype=tensors.wire_dtype(spec.dtype),
        shape=partial_shape(spec.shape),
        trainable=spec.trainable,
        device=spec.device,
        initialized=variable.shape is not None,
        byte_length=_nbytes(spec.dtype, variable.shape),
        revision=variable.revision,
    )


def _nbytes(dtype: str, shape: tuple[int, ...] | None) -> int:
    if shape is None or dtype == tensors.STRING:
        return 0
    return tensors.element_count(shape) * tensors.numpy_dtype(dtype).itemsize


def partial_shape(shape: PartialShape) -> model_pb2.PartialShape:
    """A PartialShape."""
    if shape is None:
        return model_pb2.PartialShape(unknown_rank=True)
    return model_pb2.PartialShape(dimensions=[-1 if size is None else size for size in shape])


def _overload(overload: Overload, indices: Mapping[str, int]) -> model_pb2.Overload:
    return model_pb2.Overload(
        inputs=[_input(spec) for spec in overload.inputs],
        outputs=[
            model_pb2.OutputSpec(name=output.name, tensor=_tensor_spec(output.tensor))
            for output in overload.outputs
        ],
        reads=_indices(overload.reads, indices),
        writes=_indices(overload.writes, indices),
        changes_other_state=overload.changes_other_state,
    )


def _indices(paths: Sequence[str], indices: Mapping[str, int]) -> list[int]:
    """Of those that the caller may know of."""
    return sorted(indices[path] for path in paths if path in indices)


def _input(spec: InputSpec) -> model_pb2.InputSpec:
    if isinstance(spec.kind, TensorSpec):
        return model_pb2.InputSpec(
            name=spec.name, tensor=_tensor_spec(spec.kind), optional=spec.optional
        )
    return model_pb2.InputSpec(
        name=spec.name, constant=_constant(spec.kind), optional=spec.optional
    )


def _constant(constant: Constant) -> model_pb2.Constant:
    value = constant.value
    match value:
        case str() if constant.is_repr:
            return model_pb2.Constant(repr_value=value)
        case None:
            return model_pb2.Constant(none_value=True)
        case bool():
            return model_pb2.Constant(bool_value=value)
        case int():
            return model_pb2.Constant(int_value=value)
        case float():
            return model_pb2.Constant(float_value=value)
        case str():
            return model_pb2.Constant(string_value=value)


def _tensor_spec(spec: TensorSpec) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(
        dtype=tensors.wire_dtype(spec.dtype), shape=partial_shape(spec.shape)
    )
