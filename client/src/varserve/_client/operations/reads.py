"""Reads and summaries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from varserve import frames, tensors
from varserve._client import errors, wording
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Call, LaneFailed, Op
from varserve._client.values.options import ReadOptions
from varserve._client.values.regions import Part
from varserve._client.values.results import Reading, Snapshot
from varserve._client.values.summaries import Histogram, Summaries, Summary
from varserve.tensors import Array
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import summary_pb2, tensor_pb2

from .methods import Scope, method
from .requests import build

READ_VARIABLE = method("ReadVariable")
READ_VARIABLES = method("ReadVariables", frames.read_variables_response)
SUMMARIZE_VARIABLES = method("SummarizeVariables")

Dtype: TypeAlias = np.dtype[Any]

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Values of each of these dtypes convert to each other."""


if TYPE_CHECKING:
    from varserve._client.transport.lane import Lane


class Read(NamedTuple):
    """One value to read. `variable`: its name or path.

    dtype: a float dtype that the value is sent as; None: its own. out: the caller's array that
    takes the value; None: a new one. mapped: the service's own memory will do, if it can be had;
    the value is read-only.
    """

    variable: str
    part: Part
    dtype: Dtype | None = None
    out: Array | None = None
    mapped: bool = False

    @property
    def wire_dtype(self) -> tensor_pb2.DataType:
        """The contract's number of `dtype`."""
        if self.dtype is None:
            return tensor_pb2.DATA_TYPE_UNSPECIFIED
        return tensors.wire_dtype(tensors.dtype_name(self.dtype))


def cast_dtype(dtype: npt.DTypeLike | None) -> Dtype | None:
    """The dtype that a value is to be sent as; None: its own. Raises DtypeUnsupported."""
    try:
        return None if dtype is None else tensors.given_dtype(dtype)
    except TypeError:
        raise errors.DtypeUnsupported(
            f"dtype: expected one of {', '.join(FLOATS)}, found {wording.shown(dtype)}"
        ) from None


def read_variable(
    scope: Scope, read: Read, options: ReadOptions, *, if_newer_than: int | None = None
) -> Op[Reading]:
    """ReadVariable."""
    request = build(
        pb.ReadVariableRequest,
        model=scope.model,
        variable=read.variable,
        region=read.part.message,
        if_newer_than=if_newer_than,
        dtype=read.wire_dtype,
        consistency=scope.consistency(options),
        **options.fields(),
    )
    reply = yield from attempt(Call(READ_VARIABLE, request, scope.budget))
    value = tensors.from_tensor(reply.value) if reply.HasField("value") else None
    return Reading(
        header=scope.header(reply.header),
        variable_revision=reply.variable_revision,
        value=None if value is None else read.part.show(value),
    )


def read_variables(scope: Scope, reads: Mapping[str, Read], options: ReadOptions) -> Op[Snapshot]:
    """ReadVariables. `reads`: by what each value is called in the snapshot."""
    lane = scope.lane
    while lane is not None:
        try:
            return (yield from _read_variables(scope, reads, options, lane))
        except LaneFailed:
            lane = scope.lane  # another way, at once; this one is not to be used for a while
    return (yield from _read_variables(scope, reads, options, None))


def _read_variables(
    scope: Scope, reads: Mapping[str, Read], options: ReadOptions, lane: Lane | None
) -> Op[Snapshot]:
    """`lane`: where the values can be taken from. Raises LaneFailed."""
    from varserve._client.transport.bodies import BodyDownload  # by the first large value

    mapped = any(read.mapped for read in reads.values())
    request = build(
        pb.ReadVariablesRequest,
        model=scope.model,
        reads=[
            build(
                pb.ReadSelection,
                variable=read.variable,
                region=read.part.message,
                dtype=read.wire_dtype,
            )
            for read in reads.values()
        ],
        **({} if lane is None else lane.fields),
        consistency=scope.consistency(options),
        **options.fields(),
    )
    receive = partial(
        BodyDownload,
        lambda manifest: [each.tensor for each in manifest.entries],
        scope.limits.chunk_bytes,
        len(reads),
        [read.out for read in reads.values()],
        lane,
        mapped,
    )
    manifest, arrays = yield from attempt(Call(READ_VARIABLES, request, scope.budget, receive))
    if mapped:
        for array in arrays:
            array.flags.writeable = False
    return Snapshot(
        header=scope.header(manifest.header),
        values={
            key: read.part.show(array)
            for (key, read), array in zip(reads.items(), arrays, strict=True)
        },
        revisions={
            key: entry.variable_revision for key, entry in zip(reads, manifest.entries, strict=True)
        },
    )


class SummaryOptions(NamedTuple):
    """What a summary tells besides its numbers: a histogram of `bins`, a hash of the content."""

    bins: int = 0
    range: tuple[float, float] | None = None
    content_hash: bool = True

    @property
    def histogram(self) -> summary_pb2.HistogramSpec | None:
        """The histogram to ask for; None for no bins. Raises InvalidRequest."""
        if not self.bins:
            if self.range is not None:
                raise errors.InvalidRequest("expected bins where there is a range, found none")
            return None
        low, high = self.range or (None, None)
        with errors.about("histogram"):
            return build(summary_pb2.HistogramSpec, bins=self.bins, low=low, high=high)


def summarize_variables(
    scope: Scope, reads: Mapping[str, Read], summary: SummaryOptions, options: ReadOptions
) -> Op[Summaries]:
    """SummarizeVariables. `reads`: by what each summary is called."""
    request = build(
        pb.SummarizeVariablesRequest,
        model=scope.model,
        selections=[
            build(pb.SummarySelection, variable=read.variable, region=read.part.message)
            for read in reads.values()
        ],
        histogram=summary.histogram,
        content_hash=summary.content_hash,
        consistency=scope.consistency(options),
        **options.fields(),
    )
    reply = yield from attempt(Call(SUMMARIZE_VARIABLES, request, scope.budget))
    if len(reply.entries) != len(reads):
        raise errors.ServiceError(
            f"expected {len(reads)} summaries, and the service sent {len(reply.entries)}"
        )
    return Summaries(
        scope.header(reply.header),
        {
            key: summary_of(
                entry.summary,
                entry.variable,
                entry.variable_revision,
                read.part.shown_sizes(entry.summary.shape),
            )
            for (key, read), entry in zip(reads.items(), reply.entries, strict=True)
        },
    )


def summary_of(
    message: summary_pb2.Summary, name: str, revision: int, shape: tuple[int, ...] | None = None
) -> Summary:
    """What is called so, in a few numbers. `shape`: as it is shown; None: the message's own."""
    histogram = None
    if message.HasField("histogram"):
        histogram = Histogram(
            np.array(message.histogram.counts, np.int64),
            np.array(message.histogram.edges, np.float64),
            message.histogram.below,
            message.histogram.above,
        )
    return Summary(
        variable=name,
        variable_revision=revision,
        dtype=tensors.numpy_dtype(tensors.from_wire_dtype(message.dtype)),
        shape=tuple(message.shape) if shape is None else shape,
        nbytes=message.byte_length,
        count=message.count,
        nans=message.nans,
        infinities=message.infinities,
        zeros=message.zeros,
        min=_number(message, "min"),
        max=_number(message, "max"),
        mean=message.mean,
        standard_deviation=message.standard_deviation,
        norm=message.norm,
        histogram=histogram,
        content_hash=message.content_hash.hex(),
    )


def _number(message: summary_pb2.Summary, field: str) -> bool | int | float | None:
    if not message.HasField(field):
        return None
    scalar = tensors.from_tensor(getattr(message, field))
    if scalar.dtype.kind == "b":
        return bool(scalar)
    return int(scalar) if scalar.dtype.kind in "iu" else float(scalar)
