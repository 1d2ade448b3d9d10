"""Requests for inspections, and their results, as messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from varserve import tensors
from varserve.v1 import inspection_pb2 as pb
from varserve_service.core.inspection.ports import (
    InnerTensor,
    Inspected,
    Inspection,
    NonFinite,
    Patch,
    PatchKind,
    Place,
    SummarySpec,
)
from varserve_service.core.ports.function_messages import FunctionMessage, MessageKind
from varserve_service.core.ports.loaded_model import Value

from . import descriptions, summary_messages, translate

MAX_NAMES = 1_000
# Characters of one name or pattern. To compile one takes the square of them in open brackets.
MAX_NAME = 512
# Bytes of one part of an answer, and about what one tensor takes in it beside its name.
_PART_BYTES = 512 * 1024

_PLACES = {
    Place.TOP: pb.TENSOR_PLACE_TOP,
    Place.LOOP: pb.TENSOR_PLACE_LOOP,
    Place.BRANCH: pb.TENSOR_PLACE_BRANCH,
    Place.XLA: pb.TENSOR_PLACE_XLA,
}

_KINDS = {
    MessageKind.PRINT: pb.FUNCTION_MESSAGE_KIND_PRINT,
    MessageKind.ASSERTION: pb.FUNCTION_MESSAGE_KIND_ASSERTION,
    MessageKind.CHECK_NUMERICS: pb.FUNCTION_MESSAGE_KIND_CHECK_NUMERICS,
}


def check_names(field: str, names: Sequence[str]) -> None:
    """Raises RequestError REQUEST_MALFORMED for a name that is too long to be looked for."""
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise translate.malformed(
            f"{field}: expected at most {MAX_NAME} characters in each, found {longest}"
        )


def inspection(manifest: pb.InspectManifest, values: Iterable[np.ndarray[Any, Any]]) -> Inspection:
    """What a manifest asks for. `values`: of the patches that have one, in their order."""
    check_names("probes", manifest.probes)
    check_names("wrt", manifest.wrt)
    summarize = None
    if manifest.HasField("summaries"):
        histogram = summary_messages.histogram_spec(manifest.summaries)
        summarize = SummarySpec(histogram, manifest.summaries.content_hash)
    return Inspection(
        probes=tuple(manifest.probes),
        summarize=summarize,
        patches=_patches(manifest.patches, iter(values)),
        gradients_of=manifest.gradients_of,
        wrt=tuple(manifest.wrt),
        find_non_finite=manifest.find_non_finite,
        profile=manifest.profile,
        keep_going=manifest.continue_after_assertion,
        open_xla=manifest.open_xla,
    )


def _patches(
    messages: Sequence[pb.TensorPatch], values: Iterator[np.ndarray[Any, Any]]
) -> Mapping[str, Patch]:
    check_names("patches", [each.tensor for each in messages])
    patches: dict[str, Patch] = {}
    for each in messages:
        if each.tensor in patches:
            raise translate.malformed(f"patches: {each.tensor!r} is there twice; expected once")
        kind = each.WhichOneof("replacement")
        if kind == "scale":
            if not math.isfinite(each.scale):
                raise translate.malformed(
                    f"patch of {each.tensor!r}: expected a finite scale, found {each.scale}"
                )
            patches[each.tensor] = Patch(PatchKind.SCALE, each.scale)
        elif kind == "value":
            patches[each.tensor] = Patch(PatchKind.VALUE, value=next(values))
        elif kind == "zero" and each.zero:
            patches[each.tensor] = Patch(PatchKind.ZERO)
        else:
            raise translate.malformed(
                f"patch of {each.tensor!r}: expected zero, a scale or a value, found none"
            )
    return patches


# Responses.


def inner_tensor(tensor: InnerTensor, visible: Iterable[str]) -> pb.InnerTensor:
    """An InnerTensor; `visible`: those of its variables that the caller may know of."""
    return pb.InnerTensor(
        name=tensor.name,
        path=tensor.path,
        op=tensor.op,
        dtype=tensors.wire_dtype(tensor.dtype),
        shape=descriptions.partial_shape(tensor.shape),
        place=_PLACES[tensor.place],
        variables=visible,
        source=tensor.source,
    )


def values_of(inspected: Inspected) -> list[Value]:
    """The values that travel in the body, in its order: outputs, probes, gradients."""
    values = list(inspected.outputs.values())
    values += [probe.value for probe in inspected.probes if probe.value is not None]
    values += [gradient.value for gradient in inspected.gradients if gradient.value is not None]
    return values


def parts(inspected: Inspected, headers: Iterator[Any]) -> list[pb.InspectPart]:
    """All that an inspection saw, in messages of bounded size. `headers` are those of the body."""
    made: list[pb.InspectPart] = []
    size = _PART_BYTES

    def room(nbytes: int) -> pb.InspectPart:
        nonlocal size
        if size + nbytes > _PART_BYTES:
            made.append(pb.InspectPart())
            size = 0
        size += nbytes
        return made[-1]

    for tensor in _tensors(inspected, headers):
        room(tensor.ByteSize() + 8).tensors.append(tensor)
    for each in inspected.messages:
        message = function_message(each)
        room(message.ByteSize() + 8).messages.append(message)
    for time in inspected.profile:
        message = pb.OperationTime(name=time.name, op=time.op, runs=time.runs, seconds=time.seconds)
        room(message.ByteSize() + 8).profile.append(message)
    return made


def messages(said: Sequence[FunctionMessage]) -> list[pb.InspectPart]:
    """What a function said before it failed, in messages of bounded size."""
    return parts(Inspected({}, messages=tuple(said)), iter(()))


def _tensors(inspected: Inspected, headers: Iterator[Any]) -> Iterator[pb.InspectedTensor]:
    for name in inspected.outputs:
        yield pb.InspectedTensor(kind=pb.INSPECTED_KIND_OUTPUT, name=name, tensor=next(headers))
    for probe in inspected.probes:
        message = pb.InspectedTensor(
            kind=pb.INSPECTED_KIND_PROBE, name=probe.name, iteration=probe.iteration
        )
        if probe.summary is not None:
            message.summary.CopyFrom(summary_messages.summary_message(probe.summary))
        else:
            message.tensor.CopyFrom(next(headers))
        yield message
    for gradient in inspected.gradients:
        message = pb.InspectedTensor(
            kind=pb.INSPECTED_KIND_GRADIENT, name=gradient.name, iteration=gradient.iteration
        )
        if gradient.value is None:
            message.unconnected = True
        else:
            message.tensor.CopyFrom(next(headers))
        yield message


def function_message(message: FunctionMessage) -> pb.FunctionMessage:
    """A FunctionMessage."""
    return pb.FunctionMessage(
        kind=_KINDS[message.kind],
        op=message.op,
        iteration=message.iteration,
        text=message.text,
        parts=message.parts,
        stream=message.stream,
        end=message.end,
    )


def non_finite(report: NonFinite) -> pb.NonFinite:
    """A NonFinite."""
    return pb.NonFinite(
        name=report.name,
        op=report.op,
        iteration=report.iteration,
        dtype=tensors.wire_dtype(report.dtype),
        shape=report.shape,
        nans=report.nan,
        positive_infinities=report.positive_infinity,
        negative_infinities=report.negative_infinity,
    )
