"""Inner tensors, and looks at runs of functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from varserve import frames, tensors
from varserve._client import errors
from varserve._client.transport.attempts import attempt
from varserve._client.transport.bodies import BodyDownload, upload
from varserve._client.transport.calls import Call, Op
from varserve._client.values import specs
from varserve._client.values.arguments import Run
from varserve._client.values.function_messages import FunctionMessage
from varserve._client.values.inspections import (
    InnerTensor,
    InnerTensors,
    Inspection,
    Iterations,
    NonFinite,
    OperationTime,
    Patch,
    TensorPlace,
)
from varserve._client.values.options import ReadOptions
from varserve._client.values.results import Outputs
from varserve._client.values.summaries import Summary
from varserve.frames import ChunkFrame
from varserve.tensors import Array
from varserve.v1 import inspection_pb2 as pb

from .methods import Scope, method
from .reads import SummaryOptions, summary_of
from .requests import build, headers_of
from .runs import constants_of, function_message

LIST_TENSORS = method("ListTensors")
INSPECT_FUNCTION = method("InspectFunction", frames.inspect_function_response)

_PAGE = 5_000


class Wanted(NamedTuple):
    """What to look at in a run, beside what it runs on; the fields are those of the manifest.

    assume: whole values of variables, by name. patches: what replaces inner tensors.
    summary: the probes' summaries, instead of their values.
    """

    probes: Sequence[str] = ()
    summary: SummaryOptions | None = None
    patches: Mapping[str, Patch | Array] = {}
    assume: Mapping[str, Array] = {}
    gradients_of: str = ""
    wrt: Sequence[str] = ()
    find_non_finite: bool = False
    profile: bool = False
    continue_after_assertion: bool = False
    open_xla: bool = False

    @property
    def values(self) -> list[Array]:
        """What of it travels in the body, after the inputs."""
        patched = [each for each in self.patches.values() if not isinstance(each, Patch)]
        return [*self.assume.values(), *patched]


def summary_options(summarize: bool | int | None) -> SummaryOptions | None:
    """What to ask for instead of values: a number is that of the histogram's bins.

    None and False: the values. True and 0: no histogram.
    """
    if summarize is None or summarize is False:
        return None
    return SummaryOptions(0 if summarize is True else int(summarize), None, True)


def list_tensors(
    scope: Scope, function: str, patterns: Sequence[str], overload: int
) -> Op[InnerTensors]:
    """ListTensors, page by page."""
    found: list[InnerTensor] = []
    token = ""
    while True:
        request = build(
            pb.ListTensorsRequest,
            model=scope.model,
            function=function,
            patterns=patterns,
            overload=overload,
            page_size=_PAGE,
            page_token=token,
        )
        reply = yield from attempt(Call(LIST_TENSORS, request, scope.budget))
        found += map(_inner_tensor, reply.tensors)
        token = reply.next_page_token
        if not token:
            return InnerTensors(scope.header(reply.header), found)


def inspect_function(
    scope: Scope, run: Run, wanted: Wanted, options: ReadOptions
) -> Op[Inspection]:
    """InspectFunction."""
    manifest = build(
        pb.InspectManifest,
        model=scope.model,
        function=run.function,
        inputs=headers_of(run.inputs),
        constants=constants_of(run),
        assume=headers_of(wanted.assume),
        probes=wanted.probes,
        summaries=_summaries(wanted.summary),
        patches=[_patch(name, each) for name, each in wanted.patches.items()],
        gradients_of=wanted.gradients_of,
        wrt=wanted.wrt,
        find_non_finite=wanted.find_non_finite,
        profile=wanted.profile,
        continue_after_assertion=wanted.continue_after_assertion,
        open_xla=wanted.open_xla,
        consistency=scope.consistency(options),
        **options.fields(),
    )
    first = pb.InspectFunctionRequest(manifest=manifest).SerializeToString()
    arrays = [*run.inputs.values(), *wanted.values]
    body = partial(upload, first, arrays, scope.limits.chunk_bytes)
    download = InspectionDownload(scope.limits.chunk_bytes)

    def receive() -> InspectionDownload:
        nonlocal download
        download = InspectionDownload(scope.limits.chunk_bytes)
        return download

    try:
        # It changes nothing, and may arrive as often as it takes.
        call = Call(INSPECT_FUNCTION, body, scope.budget, receive)
        inspection: Inspection = yield from attempt(call)
    except errors.VarserveError as error:
        error.messages = download.messages
        raise
    scope.seen.learn(scope.model, inspection.header)
    return inspection


def _summaries(summary: SummaryOptions | None) -> pb.ProbeSummaries | None:
    if summary is None:
        return None
    return pb.ProbeSummaries(histogram=summary.histogram, content_hash=summary.content_hash)


def _patch(name: str, patch: Patch | Array) -> pb.TensorPatch:
    if not isinstance(patch, Patch):
        return build(pb.TensorPatch, tensor=name, value=tensors.to_header(patch))
    if patch.factor == 0:
        return build(pb.TensorPatch, tensor=name, zero=True)
    return build(pb.TensorPatch, tensor=name, scale=patch.factor)


def _inner_tensor(message: pb.InnerTensor) -> InnerTensor:
    return InnerTensor(
        message.name,
        message.path,
        message.op,
        tensors.numpy_dtype(tensors.from_wire_dtype(message.dtype)),
        specs.partial_shape(message.shape),
        specs.member(TensorPlace, "TENSOR_PLACE_", pb.TensorPlace, message.place),
        tuple(message.variables),
        message.source,
    )


class InspectionDownload:
    """Receives a result, its parts and the chunks of its body, and makes an Inspection of them."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._first: Any = None
        self._parts: list[pb.InspectPart] = []
        self._body: BodyDownload | None = None

    def blocks(self, message: Any) -> bool:
        """Never."""
        return False

    def take(self, message: Any) -> None:
        """The result first, then its parts, then a ChunkFrame each."""
        if isinstance(message, ChunkFrame):
            if self._body is None:
                raise errors.ServiceError("a chunk came before the parts of the result")
            self._body.take(message)
            return
        kind = message.WhichOneof("message")
        if kind == "part" and self._body is None:
            self._parts.append(message.part)
        elif kind == "result" and self._first is None and not self._parts:
            self._first = message
        else:
            raise errors.ServiceError("expected a result, and then its parts")
        # Without a result these are the messages of a run that fails.
        if self._first is not None and len(self._parts) == self._first.result.part_count:
            headers = [each.tensor for each in self._tensors() if each.HasField("tensor")]
            self._body = BodyDownload(lambda _: headers, self._chunk_bytes)
            self._body.take(self._first)

    @property
    def messages(self) -> tuple[FunctionMessage, ...]:
        """What the function said, as far as it has come."""
        return tuple(function_message(each) for part in self._parts for each in part.messages)

    def _tensors(self) -> list[pb.InspectedTensor]:
        return [tensor for part in self._parts for tensor in part.tensors]

    def finish(self) -> Inspection:
        """What was seen."""
        if self._body is None:
            raise errors.ServiceError("the answer ended before all of its parts had come")
        result, arrays = self._body.finish()
        header = specs.header(result.header)
        values = iter(arrays)
        contents: dict[int, dict[str, list[tuple[tuple[int, ...], Any]]]] = {}
        for each in self._tensors():
            by_name = contents.setdefault(each.kind, {})
            content = _content(each, values, header)
            by_name.setdefault(each.name, []).append((tuple(each.iteration), content))
        outputs = contents.get(pb.INSPECTED_KIND_OUTPUT, {})
        return Inspection(
            header,
            Outputs(header, {name: found[0][1] for name, found in outputs.items()}),
            _by_name(contents.get(pb.INSPECTED_KIND_PROBE, {})),
            tuple(result.not_run),
            self.messages,
            _non_finite(result),
            _by_name(contents.get(pb.INSPECTED_KIND_GRADIENT, {})),
            tuple(
                OperationTime(each.name, each.op, each.runs, each.seconds)
                for part in self._parts
                for each in part.profile
            ),
            tuple(result.notes),
        )


def _content(
    tensor: pb.InspectedTensor, values: Any, header: specs.StateHeader
) -> Array | Summary | None:
    if tensor.HasField("tensor"):
        array: Array = next(values)
        return array
    if tensor.HasField("summary"):
        return summary_of(tensor.summary, tensor.name, header.revision)
    return None


def _by_name(found: Mapping[str, list[tuple[tuple[int, ...], Any]]]) -> dict[str, Any]:
    """What each name stands for: one thing outside of loops, in a loop those of each iteration."""
    named: dict[str, Any] = {}
    for name, contents in found.items():
        if contents[0][0]:
            iterations = [iteration for iteration, _ in contents]
            named[name] = Iterations([content for _, content in contents], iterations)
        else:
            named[name] = contents[0][1]
    return named


def _non_finite(result: pb.InspectResult) -> NonFinite | None:
    if not result.HasField("first_non_finite"):
        return None
    found = result.first_non_finite
    return NonFinite(
        found.name,
        found.op,
        tuple(found.iteration),
        tensors.numpy_dtype(tensors.from_wire_dtype(found.dtype)),
        tuple(found.shape),
        found.nans,
        found.positive_infinities,
        found.negative_infinities,
    )
