"""Small requests that claim to be huge are refused at once, before anything is allocated."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc.models import counter, strings
from tests.rpc.requests import (
    MODEL,
    assign,
    entry,
    header,
    manifest,
    read,
    rows,
    run,
    run_manifest,
    slices,
    tensor,
)
from tests.rpc.wire import Wire, connected
from tests.serving import serve_here
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2

MIB = 2**20
LIMIT_SECONDS = 0.005
TURNS = 7
# On a busy machine it may take many until one is not interrupted.
MOST_TURNS = 200

BIG_SHAPES = {
    "[2^31, 2^31]": [2**31, 2**31],
    "[0, 2^62]": [0, 2**62],
    "[-1]": [-1],
    "[2^63 - 1]": [2**63 - 1],
    "[2^32, 2^32]": [2**32, 2**32],
    "20,000 dimensions": [1] * 20_000,
    "1 GiB": [2**28],
    "2 TiB": [2**39],
}


def in_header(**fields: Any) -> list[tensor_pb2.NamedTensorHeader]:
    return [tensor_pb2.NamedTensorHeader(name="x", tensor=header(**fields))]


def shape_bombs() -> Iterator[tuple[str, str, Any, set[str]]]:
    """Name, method, request and reasons, for each shape at each place that has one."""
    for name, shape in BIG_SHAPES.items():
        reasons = {"SHAPE_MISMATCH", "LENGTH_MISMATCH"}
        bad = tensor(shape=shape, data=b"\0" * 4)
        yield f"Tensor {name}", "AssignVariable", assign(value=bad), reasons
        yield f"input {name}", "RunFunction", run(inputs={"x": bad}), reasons
        reasons = reasons | {"VALUE_TOO_LARGE"}
        for length in (4, 2**30):
            claim = {"shape": shape, "byte_length": length}
            claimed = manifest(entry(variable="free", tensor=header(**claim)))
            if length == 2**30 and name == "1 GiB":
                claimed = manifest(entry(tensor=header(**claim)))  # not the shape of `v`
            yield f"header {name} of {length}", "AssignVariables", claimed, reasons
            request = run_manifest(function="add", inputs=in_header(**claim))
            expected = reasons | {"INPUT_MISMATCH"}
            yield f"input header {name} of {length}", "StreamRunFunction", request, expected
    claim = {"dtype": 7, "shape": [2**40], "byte_length": 2**43}
    many_strings = manifest(entry(variable="words", tensor=header(**claim)))
    yield "many strings", "AssignVariables", many_strings, {"VALUE_TOO_LARGE"}


def region_bombs() -> Iterator[tuple[str, str, Any, set[str]]]:
    """The same for regions: rows that are named many times are more than their variable."""
    many = rows(*[0] * 1000)
    for variable in ("table", "words"):
        unary = read(variable=variable, region=many)
        yield f"rows of {variable}", "ReadVariable", unary, {"MESSAGE_TOO_LARGE"}
        for turn, selected in enumerate([[many], [rows(*[1] * 50)] * 20]):
            reads = [pb.ReadSelection(variable=variable, region=region) for region in selected]
            request = pb.ReadVariablesRequest(model=MODEL, reads=reads)
            yield f"rows of {variable} {turn}", "ReadVariables", request, {"VALUE_TOO_LARGE"}
    whole = read(variable="large")
    yield "whole variable", "ReadVariable", whole, {"MESSAGE_TOO_LARGE"}
    far = slices({"start": 0, "stop": 2**62})
    yield "slice beyond the end", "ReadVariable", read(region=far), {"REGION_INVALID"}
    deep = read(region=slices(*[{}] * 1000))
    yield "slices of 1,000 dimensions", "ReadVariable", deep, {"REGION_INVALID"}


BOMBS = [*shape_bombs(), *region_bombs()]


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    words = strings(*[b""] * 2**18).reshape(2, 2**17)
    live = counter(
        FakeVariable("free", np.zeros(3, np.float32), shape=(None,)),
        FakeVariable("table", np.zeros((2, 2**18), np.float32)),  # rows of 1 MiB
        FakeVariable("large", np.zeros(16 * MIB, np.uint8), in_place=True),  # a read copies it
        FakeVariable("words", words, shape=None),
    )
    with serve_here(live, body_bytes=512 * MIB) as address, connected(address) as wire:
        yield wire


@pytest.mark.alone
@pytest.mark.parametrize(
    ("method", "request_", "reasons"), [bomb[1:] for bomb in BOMBS], ids=[bomb[0] for bomb in BOMBS]
)
def test_a_bomb_is_refused_at_once_and_allocates_nothing(
    wire: Wire,
    method: str,
    request_: Any,
    reasons: set[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A claim of gigabytes is refused within 5 ms of the server's time, and in less than 1 MiB."""
    taken: list[float] = []
    with caplog.at_level(logging.INFO, logger="varserve.calls"):
        while len(taken) < TURNS or (min(taken) > LIMIT_SECONDS and len(taken) < MOST_TURNS):
            outcome = wire.ask(method, request_)
            outcome.check()
            assert outcome.reason in reasons, outcome
            (record,) = (record for record in caplog.records if isinstance(record.msg, dict))
            taken.append(record.msg["seconds"])  # type: ignore[index]
            caplog.clear()
    # The least: what it takes when no other process has the processor meanwhile.
    assert min(taken) <= LIMIT_SECONDS, sorted(taken)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        wire.ask(method, request_)
        grown = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert grown <= MIB, f"{grown} bytes"


def test_eighteen_bytes_that_claim_a_gigabyte() -> None:
    """The bombs under test are small: the Tensor that claims 1 GiB has 18 bytes at most."""
    bomb = tensor(shape=[2**28], data=b"\0" * 4).SerializeToString()
    assert len(bomb) <= 18
    assert all(len(request.SerializeToString()) < 32 * 1024 for _, _, request, _ in BOMBS)
    assert len(BOMBS) > 50
