"""SummarizeVariables over the wire: the answer, its refusals and its limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests import fakes
from tests.fakes import FakeVariable
from tests.rpc.models import counter, strings
from tests.rpc.requests import MODEL, assign, rows, slices, tensor
from tests.rpc.wire import Wire, connected
from tests.serving import serve_here
from varserve import content_hash
from varserve.tensors import DTYPES, from_tensor, numpy_dtype
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import summary_pb2
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.services import reads

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
ENVELOPE = 64 * 1024  # what a unary message has beside what is counted
BODY = 96


def of_dtype(dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "string":
        return strings(b"a\0", b"", b"bb")
    return np.array([0, 1, 1], numpy_dtype(dtype))


def model() -> LiveModel:
    return counter(
        FakeVariable("table", TABLE),
        FakeVariable("sparse", TABLE.copy(), in_place=True),
        FakeVariable("later", None, shape=(3,)),
        FakeVariable("twin", np.zeros(3, np.float32), path="left/twin"),
        FakeVariable("twin", np.zeros(3, np.float32), path="right/twin"),
        FakeVariable("nothing", np.zeros((0, 2), np.float32)),
        FakeVariable("broken", np.array([np.nan, np.inf, -np.inf, 1], np.float32)),
        *(FakeVariable(f"v_{dtype}", of_dtype(dtype)) for dtype in DTYPES),
    )


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve_here(model(), body_bytes=BODY) as address, connected(address) as wire:
        yield wire


def request(*reads: Any, **fields: Any) -> pb.SummarizeVariablesRequest:
    selections = [{"variable": each} if isinstance(each, str) else each for each in reads]
    return pb.SummarizeVariablesRequest(**{"model": MODEL, "selections": selections} | fields)


def ask(wire: Wire, *reads: Any, **fields: Any) -> pb.SummarizeVariablesResponse:
    outcome = wire.ask("SummarizeVariables", request(*reads, **fields))
    assert outcome.reason == "OK", outcome.text
    return pb.SummarizeVariablesResponse.FromString(outcome.responses[0])


def reason(wire: Wire, *reads: Any, **fields: Any) -> str:
    outcome = wire.ask("SummarizeVariables", request(*reads, **fields))
    outcome.check()
    return outcome.reason


def test_the_answer(wire: Wire) -> None:
    """Each field, of several variables at one revision, in the order of the request."""
    wire.ask("AssignVariable", assign())
    found = ask(
        wire,
        "table",
        "broken",
        "v",
        histogram=summary_pb2.HistogramSpec(bins=2, low=1, high=3),
        content_hash=True,
    )
    assert found.header.revision == 1
    assert [(e.variable, e.variable_revision) for e in found.entries] == [
        ("table", 0),
        ("broken", 0),
        ("v", 1),
    ]
    table, broken, v = (entry.summary for entry in found.entries)
    assert (table.dtype, list(table.shape), table.byte_length) == (1, [4, 3], 48)
    assert (table.count, table.zeros, table.nans, table.infinities) == (12, 1, 0, 0)
    assert (from_tensor(table.min), from_tensor(table.max)) == (0, 11)
    assert table.min.dtype == 1
    assert table.mean == 5.5
    assert np.isclose(table.standard_deviation, TABLE.std(dtype=np.float64))
    assert np.isclose(table.norm, np.linalg.norm(TABLE.astype(np.float64)))
    assert list(table.histogram.edges) == [1, 2, 3]
    assert list(table.histogram.counts) == [1, 2]
    assert (table.histogram.below, table.histogram.above) == (1, 8)
    assert table.content_hash.hex() == content_hash(TABLE)
    assert (broken.count, broken.nans, broken.infinities, broken.mean) == (4, 1, 2, 1)
    assert (broken.histogram.below, broken.histogram.above) == (0, 0)
    assert v.content_hash.hex() == content_hash(np.ones(3, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(wire: Wire, dtype: str) -> None:
    """Every dtype of the contract has statistics, bounds in a dtype that holds them, and a hash."""
    (entry,) = ask(wire, f"v_{dtype}", content_hash=True).entries
    found, array = entry.summary, of_dtype(dtype)
    bound = {"string": "int64", "complex64": "float64", "complex128": "float64"}.get(dtype, dtype)
    low, high = from_tensor(found.min), from_tensor(found.max)
    assert low.dtype == high.dtype == numpy_dtype(bound)
    top = 2 if dtype == "string" else 1
    assert (float(low), float(high), found.zeros) == (0, top, 1)
    assert np.isclose(found.mean, 2 * top / 3)
    assert found.content_hash.hex() == content_hash(array)
    assert found.byte_length == (28 if dtype == "string" else array.nbytes)


def test_what_is_not_asked_for_is_not_there(wire: Wire) -> None:
    """Without a wish for them there is no histogram and no hash; no element, no bounds."""
    (entry,) = ask(wire, "nothing").entries
    found = entry.summary
    assert not found.HasField("histogram")
    assert found.content_hash == b""
    assert not found.HasField("min")
    assert not found.HasField("max")
    assert (found.count, found.mean, found.standard_deviation, found.norm) == (0, 0, 0, 0)


@pytest.mark.parametrize("variable", ["table", "sparse"])
def test_regions(wire: Wire, variable: str) -> None:
    """A region is summarized alone, rows that are named twice twice, whatever the rest is."""
    found = ask(
        wire,
        {"variable": variable, "region": rows(3, 0, 0)},
        {"variable": variable, "region": slices({"start": 1, "stop": 3}, {"step": 2})},
        content_hash=True,
    )
    hashes = [entry.summary.content_hash.hex() for entry in found.entries]
    assert hashes == [content_hash(TABLE[[3, 0, 0]]), content_hash(TABLE[1:3, ::2])]
    assert [entry.summary.count for entry in found.entries] == [9, 4]


def test_earlier_revisions(wire: Wire) -> None:
    """A summary of an earlier revision is of the values as they were."""
    first = ask(wire, "table", content_hash=True)
    write = assign(variable="table", value=tensor(shape=[4, 3], data=bytes(48)))
    wire.ask("AssignVariable", write)
    assert ask(wire, "table").entries[0].summary.zeros == 12
    again = ask(wire, "table", content_hash=True, at_revision=0, epoch=first.header.epoch)
    assert again == first
    assert reason(wire, "table", at_revision=2) == "REVISION_IN_FUTURE"
    assert reason(wire, "table", at_revision=0, epoch="other") == "EPOCH_MISMATCH"


@pytest.mark.parametrize(
    ("reads", "fields", "expected"),
    [
        ((), {}, "REQUEST_MALFORMED"),
        (("v",), {"model": "m"}, "MODEL_NOT_FOUND"),
        (("v", "w"), {}, "VARIABLE_NOT_FOUND"),
        (("twin",), {}, "NAME_AMBIGUOUS"),
        (("v", "later"), {}, "VARIABLE_UNINITIALIZED"),
        (({"variable": "v", "region": rows(3)},), {}, "REGION_INVALID"),
        (({"variable": "v", "region": {}},), {}, "REQUEST_MALFORMED"),
    ],
)
def test_refusals(wire: Wire, reads: Any, fields: Any, expected: str) -> None:
    """What a read is refused for, a summary is."""
    assert reason(wire, *reads, **fields) == expected


@pytest.mark.parametrize("bins", [-(2**31), -1, 0, 4097, 2**31 - 1])
def test_bins_out_of_bounds(wire: Wire, bins: int) -> None:
    """Less than one bin and more than 4096 are refused."""
    assert reason(wire, "v", histogram={"bins": bins}) == "REQUEST_MALFORMED"


@pytest.mark.parametrize("bins", [1, 2, 4095, 4096])
def test_bins_within_bounds(wire: Wire, bins: int) -> None:
    """1 to 4096 bins are made, with one edge more."""
    (entry,) = ask(wire, "v", histogram={"bins": bins}).entries
    assert len(entry.summary.histogram.counts) == bins
    assert len(entry.summary.histogram.edges) == bins + 1


@pytest.mark.parametrize(
    "bounds",
    [
        {"low": 0},
        {"high": 0},
        {"low": 1, "high": 1},
        {"low": 2, "high": 1},
        {"low": float("nan"), "high": 1},
        {"low": 0, "high": float("nan")},
        {"low": float("-inf"), "high": 1},
        {"low": 0, "high": float("inf")},
    ],
)
def test_bounds_that_are_none(wire: Wire, bounds: dict[str, float]) -> None:
    """Outer edges are two finite numbers, the first below the second, or are left out."""
    assert reason(wire, "v", histogram={"bins": 3} | bounds) == "REQUEST_MALFORMED"


def test_the_widest_bounds(wire: Wire) -> None:
    """Bounds whose distance float64 does not hold still have edges in between."""
    largest = float(np.finfo(np.float64).max)
    (entry,) = ask(wire, "v", histogram={"bins": 2, "low": -largest, "high": largest}).entries
    assert list(entry.summary.histogram.edges) == [-largest, 0, largest]
    assert list(entry.summary.histogram.counts) == [0, 3]


@pytest.mark.parametrize(("count", "expected"), [(2, "OK"), (3, "VALUE_TOO_LARGE")])
def test_regions_are_admitted_as_reads_are(wire: Wire, count: int, expected: str) -> None:
    """Regions are copies, and together have no more bytes than a body."""
    part = {"variable": "table", "region": rows(0, 0, 1, 1)}  # 48 bytes
    assert reason(wire, *[part] * count) == expected


@pytest.mark.parametrize(("count", "expected"), [(10, "OK"), (11, "MESSAGE_TOO_LARGE")])
def test_answers_fit_into_a_message(count: int, expected: str) -> None:
    """Too many variables for one message are refused before any is looked at."""
    with (
        serve_here(model(), message_bytes=ENVELOPE + 10 * 256) as address,
        connected(address) as wire,
    ):
        assert reason(wire, *["v"] * count) == expected


def test_long_names_count() -> None:
    """An answer that is too large for the names in it is refused too."""
    long = FakeVariable("n" * 5000, np.zeros(1, np.float32))
    with (
        serve_here(counter(long), message_bytes=ENVELOPE + 4096) as address,
        connected(address) as wire,
    ):
        assert reason(wire, "v") == "OK"
        assert reason(wire, long.spec.name) == "MESSAGE_TOO_LARGE"


def test_work_ends_with_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the caller has gone, no further part is looked at."""
    begun, go, parts, made = threading.Event(), threading.Event(), [], []
    reduced = fakes.reduced

    def slow(elements: Any) -> Any:
        parts.append(elements.size)
        begun.set()
        assert go.wait(30)
        return reduced(elements)

    def event() -> threading.Event:
        made.append(threading.Event())
        return made[-1]

    monkeypatch.setattr(fakes, "reduced", slow)
    monkeypatch.setattr(reads, "Event", event)
    large = FakeVariable("large", np.zeros(3 * 2**20, np.int8))
    with (
        serve_here(counter(large), threads_per_model=1) as address,
        connected(address) as wire,
        grpc.insecure_channel(address) as channel,
    ):
        call = channel.unary_unary("/varserve.v1.ModelService/SummarizeVariables")
        sent = call.future(request("large").SerializeToString())
        assert begun.wait(30)
        sent.cancel()
        (gone,) = made
        assert gone.wait(30)
        go.set()
        # It waits for the only thread.
        assert wire.ask("GetModel", pb.GetModelRequest(model=MODEL)).reason == "OK"
    assert sum(parts) == 2**20
