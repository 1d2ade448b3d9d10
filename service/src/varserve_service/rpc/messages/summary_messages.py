"""Wishes for summaries, and summaries, as the contract writes them."""

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
    wish = request.histogram
    if not 1 <= wish.bins <= MAX_BINS:
        raise translate.malformed(f"histogram: expected 1 to {MAX_BINS} bins, found {wish.bins}")
    if not wish.HasField("low") and not wish.HasField("high"):
        return HistogramSpec(wish.bins)
    bounds = (wish.low, wish.high) if wish.HasField("low") and wish.HasField("high") else None
    if bounds is None or not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise translate.malformed(
            "histogram: expected both of low and high, finite and low below high, or neither; "
            f"found low {wish.low if wish.HasField('low') else 'unset'}, "
            f"high {wish.high if wish.HasField('high') else 'unset'}"
        )
    return HistogramSpec(wish.bins, bounds)


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


def entry(found: Entry, summary: Summary) -> model_service_pb2.SummaryEntry:
    """A SummaryEntry."""
    return model_service_pb2.SummaryEntry(
        variable=found.variable, variable_revision=found.revision, summary=summary_message(summary)
    )


def summary_message(found: Summary) -> summary_pb2.Summary:
    """A Summary."""
    moments, reduced = found.moments, found.moments.reduced
    lengths = 8 * reduced.count if found.dtype == tensors.STRING else 0
    return summary_pb2.Summary(
        dtype=tensors.wire_dtype(found.dtype),
        shape=found.shape,
        byte_length=found.nbytes + lengths,
        count=reduced.count,
        nans=reduced.nans,
        infinities=reduced.infinities,
        zeros=reduced.zeros,
        min=_scalar(found.dtype, reduced.low),
        max=_scalar(found.dtype, reduced.high),
        mean=moments.mean,
        standard_deviation=moments.deviation,
        norm=moments.norm,
        histogram=None if found.histogram is None else _histogram(found.histogram),
        content_hash=found.content_hash,
    )


def _scalar(dtype: str, number: int | float | None) -> tensor_pb2.Tensor | None:
    if number is None:
        return None
    counted_as = {"string": "int64", "complex64": "float64", "complex128": "float64"}
    wanted = tensors.numpy_dtype(counted_as.get(dtype, dtype))
    return tensors.to_tensor(np.array(number).astype(wanted))


def _histogram(found: Histogram) -> summary_pb2.Histogram:
    return summary_pb2.Histogram(
        edges=found.edges.tolist(),
        counts=found.counts.tolist(),
        below=found.below,
        above=found.above,
    )
