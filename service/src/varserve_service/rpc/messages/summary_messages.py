"""Requests for summaries, and summaries, as messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from varserve import tensors
from varserve.v1 import model_service_pb2, summary_pb2, tensor_pb2
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.messages import Entry
from varserve_service.core.values.summaries import Histogram, HistogramSpec, Summary

from . import translate

MAX_BINS = 4096

# What a summary takes in a message beside its bins, and each bin with its edge, at most; the
# variable's name is counted when it is known.
_SUMMARY_BYTES = 256
_BIN_BYTES = 18


def histogram_spec(request: Any) -> HistogramSpec | None:
    """The histogram that a request asks for; None when it asks for none."""
    if not request.HasField("histogram"):
        return None
    spec = request.histogram
    if not 1 <= spec.bins <= MAX_BINS:
        raise translate.malformed(f"histogram: expected 1 to {MAX_BINS} bins, found {spec.bins}")
    if not spec.HasField("low") and not spec.HasField("high"):
        return HistogramSpec(spec.bins)
    bounds = (spec.low, spec.high) if spec.HasField("low") and spec.HasField("high") else None
    if bounds is None or not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise translate.malformed(
            "histogram: expected both of low and high, finite and low below high, or neither; "
            f"found low {spec.low if spec.HasField('low') else 'unset'}, "
            f"high {spec.high if spec.HasField('high') else 'unset'}"
        )
    return HistogramSpec(spec.bins, bounds)


def check_size(count: int, histogram: HistogramSpec | None, limit: int) -> None:
    """Raises RequestError MESSAGE_TOO_LARGE for an answer that would not fit, before it is made."""
    bins = 0 if histogram is None else histogram.bins + 1
    _check(count * (_SUMMARY_BYTES + bins * _BIN_BYTES), limit)


def check_sent(response: model_service_pb2.SummarizeVariablesResponse, limit: int) -> None:
    """Raises RequestError MESSAGE_TOO_LARGE for an answer whose names are that long."""
    _check(response.ByteSize(), limit)


def _check(nbytes: int, limit: int) -> None:
    if nbytes > limit:
        raise RequestError(
            Reason.MESSAGE_TOO_LARGE,
            f"the summaries take {nbytes} bytes; expected at most {limit} in one message; "
            "ask for fewer variables or bins",
            nbytes=nbytes,
        )


def entry(summarized: Entry, summary: Summary) -> model_service_pb2.SummaryEntry:
    """A SummaryEntry."""
    return model_service_pb2.SummaryEntry(
        variable=summarized.variable,
        variable_revision=summarized.revision,
        summary=summary_message(summary),
    )


def summary_message(summary: Summary) -> summary_pb2.Summary:
    """A Summary."""
    moments, reduced = summary.moments, summary.moments.reduced
    lengths = 8 * reduced.count if summary.dtype == tensors.STRING else 0
    return summary_pb2.Summary(
        dtype=tensors.wire_dtype(summary.dtype),
        shape=summary.shape,
        byte_length=summary.nbytes + lengths,
        count=reduced.count,
        nans=reduced.nans,
        infinities=reduced.infinities,
        zeros=reduced.zeros,
        min=_scalar(summary.dtype, reduced.low),
        max=_scalar(summary.dtype, reduced.high),
        mean=moments.mean,
        standard_deviation=moments.deviation,
        norm=moments.norm,
        histogram=None if summary.histogram is None else _histogram(summary.histogram),
        content_hash=summary.content_hash,
    )


def _scalar(dtype: str, number: int | float | None) -> tensor_pb2.Tensor | None:
    if number is None:
        return None
    counted_as = {"string": "int64", "complex64": "float64", "complex128": "float64"}
    wanted = tensors.numpy_dtype(counted_as.get(dtype, dtype))
    return tensors.to_tensor(np.array(number).astype(wanted))


def _histogram(histogram: Histogram) -> summary_pb2.Histogram:
    return summary_pb2.Histogram(
        edges=histogram.edges.tolist(),
        counts=histogram.counts.tolist(),
        below=histogram.below,
        above=histogram.above,
    )
