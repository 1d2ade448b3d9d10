"""Each limit at one below, at itself and at one above."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeVariable
from tests.rpc.models import counter, counter_model, strings
from tests.rpc.requests import (
    MODEL,
    assign,
    chunk,
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
from varserve import tensors
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc.services import backend

UINT8 = tensor_pb2.DATA_TYPE_UINT8
ENVELOPE = 64 * 1024  # what a unary message has beside the bytes of its tensors
UNARY = 4096
CHUNK = 1024
BODY = 4096
OK = "OK"


def blob(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size).astype(np.uint8)


def give(n: Any) -> dict[str, Any]:
    return {"y": blob(int(n))}


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    sizes = [UNARY - 1, UNARY, UNARY + 1]
    live = counter(
        *(FakeVariable(f"blob{size}", blob(size)) for size in sizes),
        *(FakeVariable(f"empty{n}", strings(*[b""] * n)) for n in (UNARY // 8, UNARY // 8 + 1)),
        FakeVariable("free", blob(1), shape=None),
        FakeVariable("doubles", np.zeros(UNARY // 4, np.float64)),
        functions=(
            FakeFunction(
                "give",
                give,
                inputs={"n": TensorSpec("int64", ())},
                outputs={"y": TensorSpec("uint8", (None,))},
            ),
        ),
    )
    options = {"message_bytes": ENVELOPE + UNARY, "chunk_bytes": CHUNK, "body_bytes": BODY}
    with (
        serve_here(live, **options, staging_bytes=2 * BODY) as address,
        connected(address) as wire,
    ):
        yield wire


def data_of(data: bytes) -> dict[str, Any]:
    return {"dtype": UINT8, "shape": [len(data)], "data": data}


def header_of(nbytes: int) -> tensor_pb2.TensorHeader:
    return header(dtype=UINT8, shape=[nbytes], byte_length=nbytes)


def body_of(nbytes: int, *, kind: Any = pb.AssignVariablesRequest) -> list[Any]:
    return [
        chunk(start, bytes(min(CHUNK, nbytes - start)), kind=kind)
        for start in range(0, nbytes, CHUNK)
    ]


def test_the_limits_are_told(wire: Wire) -> None:
    """GetModel says which limits the service has."""
    response = wire.ask("GetModel", pb.GetModelRequest(model=MODEL)).responses[0]
    assert pb.GetModelResponse.FromString(response).limits == pb.TransferLimits(
        message_bytes=ENVELOPE + UNARY, chunk_bytes=CHUNK, body_bytes=BODY
    )


EACH_UNARY_SIZE = pytest.mark.parametrize(
    ("size", "reason"), [(UNARY - 1, OK), (UNARY, OK), (UNARY + 1, "MESSAGE_TOO_LARGE")]
)


@EACH_UNARY_SIZE
def test_a_read_in_one_message(wire: Wire, size: int, reason: str) -> None:
    """A value of the limit is read in one message, one byte more is not; all are in a stream."""
    outcome = wire.ask("ReadVariable", read(variable=f"blob{size}"))
    outcome.check()
    assert outcome.reason == reason
    if reason == OK:
        response = pb.ReadVariableResponse.FromString(outcome.responses[0])
        assert response.value.data == blob(size).tobytes()
    reads = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": f"blob{size}"}])
    assert wire.ask("ReadVariables", reads).reason == OK


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (None, "MESSAGE_TOO_LARGE"),
        ("float32", OK),
        ("float16", OK),
        ("float64", "MESSAGE_TOO_LARGE"),
    ],
)
def test_a_cast_value_in_one_message(wire: Wire, dtype: str | None, reason: str) -> None:
    """It is what travels that must fit: twice the limit does as half of it per element."""
    number = 0 if dtype is None else tensors.wire_dtype(dtype)
    outcome = wire.ask("ReadVariable", read(variable="doubles", dtype=number))
    assert outcome.reason == reason


@EACH_UNARY_SIZE
def test_a_region_in_one_message(wire: Wire, size: int, reason: str) -> None:
    """It is the region that must fit, not the variable that it is a part of."""
    request = read(variable=f"blob{UNARY + 1}", region=slices({"stop": size}))
    assert wire.ask("ReadVariable", request).reason == reason


@EACH_UNARY_SIZE
def test_outputs_in_one_message(wire: Wire, size: int, reason: str) -> None:
    """Outputs of the limit are sent in one message, one byte more is not; all are in a stream."""
    n = tensor(dtype=9, shape=[], data=size.to_bytes(8, "little"))
    outcome = wire.ask("RunFunction", run(function="give", inputs={"n": n}))
    outcome.check()
    assert outcome.reason == reason
    named = [{"name": "n", "tensor": header(dtype=9, shape=[], byte_length=8)}]
    request = run_manifest(function="give", inputs=named)
    body = chunk(0, n.data, kind=pb.StreamRunFunctionRequest)
    streamed = wire.ask("StreamRunFunction", request, body)
    assert (streamed.reason, len(streamed.responses)) == (OK, 1 + -(-size // CHUNK))


@EACH_UNARY_SIZE
def test_a_value_read_back_in_one_message(wire: Wire, size: int, reason: str) -> None:
    """A write whose value cannot be read back as asked does not happen."""
    before = blob(3).tobytes()
    wire.ask("AssignVariable", assign(variable="free", value=tensor(**data_of(before))))
    value = tensor(**data_of(bytes(size)))
    outcome = wire.ask("AssignVariable", assign(variable="free", value=value, read_back=True))
    outcome.check()
    assert outcome.reason == reason
    reads = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "free"}])
    first = wire.ask("ReadVariables", reads).responses[1]
    found = pb.ReadVariablesResponse.FromString(first).chunk.data
    assert found == (bytes(CHUNK) if reason == OK else before)


@pytest.mark.parametrize(
    ("count", "reason"), [(UNARY // 8, OK), (UNARY // 8 + 1, "MESSAGE_TOO_LARGE")]
)
def test_strings_in_one_message(wire: Wire, count: int, reason: str) -> None:
    """Strings take room for their lengths too, also when they are empty."""
    assert wire.ask("ReadVariable", read(variable=f"empty{count}")).reason == reason


def test_a_request_of_the_largest_message(wire: Wire) -> None:
    """A request of the limit is read; one byte more is refused by gRPC itself, without a reason."""
    for excess, code in ((-1, OK), (0, OK), (1, "RESOURCE_EXHAUSTED")):
        request = read().SerializeToString()
        # An unknown field fills it up: a tag of two bytes, a length of three.
        room = ENVELOPE + UNARY + excess - len(request) - 5
        filler = b"\xfa\x07" + bytes([room & 0x7F | 0x80, room >> 7 & 0x7F | 0x80, room >> 14])
        message = request + filler + bytes(room)
        assert len(message) == ENVELOPE + UNARY + excess
        assert wire.send("ReadVariable", [message]).reason == code


@pytest.mark.parametrize(
    ("size", "reason"), [(CHUNK - 1, OK), (CHUNK, OK), (CHUNK + 1, "CHUNK_INVALID")]
)
def test_a_chunk_of_the_largest_size(wire: Wire, size: int, reason: str) -> None:
    """A chunk of the limit is taken, one byte more is not."""
    first = manifest(entry(variable="free", tensor=header_of(size)))
    assert wire.ask("AssignVariables", first, chunk(0, bytes(size))).reason == reason
    named = [{"name": "x", "tensor": header(shape=[size // 4], byte_length=size // 4 * 4)}]
    kind = pb.StreamRunFunctionRequest
    outcome = wire.ask(
        "StreamRunFunction",
        run_manifest(inputs=named),
        chunk(0, bytes(size if reason != OK else size // 4 * 4), kind=kind),
    )
    assert outcome.reason == reason


def test_chunks_that_the_service_sends(wire: Wire) -> None:
    """Every chunk has the limit's size, but for the last."""
    reads = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": f"blob{UNARY + 1}"}] * 2)
    _, *chunks = wire.ask("ReadVariables", reads).responses
    sizes = [len(pb.ReadVariablesResponse.FromString(message).chunk.data) for message in chunks]
    assert sizes == [CHUNK] * 8 + [2]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([BODY - 1], OK),
        ([BODY], OK),
        ([BODY + 1], "VALUE_TOO_LARGE"),
        ([BODY - 1, 1], OK),
        ([BODY - 1, 1, 1], "VALUE_TOO_LARGE"),
        ([BODY, 0], OK),
    ],
)
def test_a_body_of_the_largest_size(wire: Wire, sizes: list[int], reason: str) -> None:
    """The tensors of one request may have the limit's bytes in all, and not one more."""
    entries = [entry(variable="free", tensor=header_of(size)) for size in sizes]
    outcome = wire.ask("AssignVariables", manifest(*entries), *body_of(sum(sizes)))
    outcome.check()
    assert outcome.reason == reason


@pytest.mark.parametrize(
    ("count", "reason"),
    [(BODY // 4 - 1, OK), (BODY // 4, OK), (BODY // 4 + 1, "VALUE_TOO_LARGE")],
)
def test_inputs_of_the_largest_size(wire: Wire, count: int, reason: str) -> None:
    """The same for the inputs of a function."""
    named = [{"name": "x", "tensor": header(shape=[count], byte_length=4 * count)}]
    body = body_of(4 * count, kind=pb.StreamRunFunctionRequest)
    assert wire.ask("StreamRunFunction", run_manifest(inputs=named), *body).reason == reason


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [([BODY - 1], OK), ([BODY], OK), ([BODY, 1], "VALUE_TOO_LARGE"), ([2048] * 2, OK)],
)
def test_regions_of_the_largest_size(wire: Wire, sizes: list[int], reason: str) -> None:
    """Regions are copies: in one read they may have the limit's bytes in all."""
    variable = f"blob{UNARY + 1}"
    reads = [{"variable": variable, "region": slices({"stop": size})} for size in sizes]
    whole = {"variable": variable}
    request = pb.ReadVariablesRequest(model=MODEL, reads=[*reads, whole])
    assert wire.ask("ReadVariables", request).reason == reason


@pytest.mark.parametrize("in_place", [False, True])
def test_wholes_need_no_memory(in_place: bool) -> None:
    """A variable is shared while it is sent, or read part by part where it is written in place."""
    available = [2**40]
    memory = MemoryBudget("host", lambda: Room(available[0], 2**40))
    table = FakeVariable("table", np.zeros(2 * SMALL_BYTES, np.uint8), in_place=in_place)
    live = counter(table, host_memory=memory)
    request = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "table"}])
    summary = pb.SummarizeVariablesRequest(model=MODEL, selections=[{"variable": "table"}])
    with serve_here(live, body_bytes=BODY) as address, connected(address) as wire:
        assert wire.ask("ReadVariables", request).reason == OK
        available[0] = SMALL_BYTES
        assert wire.ask("ReadVariables", request).reason == OK
        assert wire.ask("SummarizeVariables", summary).reason == OK
    assert memory.reserved == 0


@pytest.mark.parametrize(("device", "reason"), [("CPU:0", OK), ("GPU:0", "OUT_OF_MEMORY")])
def test_parts_of_what_is_on_a_device_need_its_memory(device: str, reason: str) -> None:
    """They are cut there; what TensorFlow keeps on the host all the same is cut on the host."""
    table = FakeVariable("table", np.zeros(4 * SMALL_BYTES, np.uint8))
    table.spec = replace(table.spec, device=device)
    model = counter_model(table)
    model.device, model.room = "GPU:0", Room(SMALL_BYTES, 2**40)
    live = LiveModel(model)
    part = {"variable": "table", "region": slices({"stop": 2 * SMALL_BYTES})}
    request = pb.ReadVariablesRequest(model=MODEL, reads=[part])
    summary = pb.SummarizeVariablesRequest(model=MODEL, selections=[part])
    with serve_here(live) as address, connected(address) as wire:
        assert wire.ask("ReadVariables", request).reason == reason
        assert wire.ask("SummarizeVariables", summary).reason == reason
    assert (live.memory.host.reserved, live.memory.device.reserved) == (0, 0)


@pytest.mark.parametrize(
    ("staging", "reason"), [(BODY - 1, "VALUE_TOO_LARGE"), (BODY, OK), (BODY + 1, OK)]
)
def test_a_body_of_all_that_may_arrive_at_once(staging: int, reason: str) -> None:
    """A body is let in when it fits into what all bodies together may take."""
    live = counter(FakeVariable("free", blob(1), shape=None))
    first = manifest(entry(variable="free", tensor=header_of(BODY)))
    with (
        serve_here(live, chunk_bytes=CHUNK, staging_bytes=staging) as address,
        connected(address) as wire,
    ):
        outcome = wire.ask("AssignVariables", first, *body_of(BODY))
        outcome.check()
        assert outcome.reason == reason


@pytest.mark.parametrize(("most", "least"), [(10_000, 10_000), (2, 1)])
@pytest.mark.parametrize("more", [0, 1])
def test_the_most_reads_and_writes_of_one_request(
    most: int, least: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many, or one for each variable: the model's lock is held for as long as they take."""
    monkeypatch.setattr(backend, "_MAX_ITEMS", least)
    reason = "REQUEST_MALFORMED" if more else OK
    nothing = entry(region=rows(), tensor=header(shape=[0], byte_length=0))
    with serve_here(counter()) as address, connected(address) as wire:
        for at in (None, 0):
            reads = [{"variable": "v"}] * (most + more)
            request = pb.ReadVariablesRequest(model=MODEL, reads=reads, at_revision=at)
            assert wire.ask("ReadVariables", request).reason == reason
        writes = manifest(*[nothing] * (most + more))
        assert wire.ask("AssignVariables", writes).reason == reason


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("a" * 126, OK),
        ("b" * 127, OK),
        ("c" * 128, "REQUEST_MALFORMED"),
        ("é" * 63 + "d", OK),
        ("é" * 64, "REQUEST_MALFORMED"),
    ],
)
def test_a_request_id_of_the_largest_size(wire: Wire, rest: str, reason: str) -> None:
    """A request_id has at most 128 bytes, in each call that takes one."""
    body = chunk(0, bytes(12))
    run_body = chunk(0, bytes(12), kind=pb.StreamRunFunctionRequest)
    outcomes = [
        wire.ask("AssignVariable", assign(request_id="1" + rest)),
        wire.ask("AssignVariables", manifest(request_id="2" + rest), body),
        wire.ask("RunFunction", run(request_id="3" + rest)),
        wire.ask("StreamRunFunction", run_manifest(request_id="4" + rest), run_body),
    ]
    assert [outcome.reason for outcome in outcomes] == [reason] * 4


@pytest.mark.parametrize(
    ("count", "says"),
    [(253, "one for each dimension"), (254, "one for each dimension"), (255, "at most 254")],
)
def test_a_region_of_the_most_slices(wire: Wire, count: int, says: str) -> None:
    """So many slices are compared with the variable; one more is refused before that."""
    region = {"slices": {"dimensions": [{"step": 1}] * count}}
    outcome = wire.ask("ReadVariable", read(region=region))
    outcome.check()
    assert outcome.reason == "REGION_INVALID"
    assert says in outcome.text
    assert str(count) in outcome.text


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (63, OK),
        (64, OK),
        (65, "SHAPE_MISMATCH"),
        (253, "SHAPE_MISMATCH"),
        (254, "SHAPE_MISMATCH"),
        (255, "SHAPE_MISMATCH"),
    ],
)
@pytest.mark.parametrize("dtype", [UINT8, tensor_pb2.DATA_TYPE_STRING])
def test_a_tensor_of_the_most_dimensions(wire: Wire, rank: int, reason: str, dtype: int) -> None:
    """numpy's 64 dimensions are taken; beyond them, and beyond TensorFlow's 254, none."""
    strings_, data = ([b"a"], b"") if dtype != UINT8 else ([], b"\0")
    value = tensor(dtype=dtype, shape=[1] * rank, data=data, strings=strings_)
    expected = reason if dtype == UINT8 or reason != OK else "DTYPE_MISMATCH"
    assert wire.ask("AssignVariable", assign(variable="free", value=value)).reason == expected
    length = 1 if dtype == UINT8 else 9
    claimed = header(dtype=dtype, shape=[1] * rank, byte_length=length)
    first = manifest(entry(variable="free", tensor=claimed))
    assert wire.ask("AssignVariables", first, chunk(0, bytes(length))).reason == expected
    if expected == OK:
        response = wire.ask("ReadVariable", read(variable="free")).responses[0]
        assert list(pb.ReadVariableResponse.FromString(response).value.shape) == [1] * rank


@pytest.mark.parametrize(
    ("size", "reason"), [(2**59 - 2, OK), (2**59 - 1, OK), (2**59, "SHAPE_MISMATCH")]
)
def test_a_dimension_of_the_largest_size(wire: Wire, size: int, reason: str) -> None:
    """A shape without elements may have the largest size that an int64 counts in bytes."""
    value = tensor(dtype=UINT8, shape=[0, size], data=b"")
    assert wire.ask("AssignVariable", assign(variable="free", value=value)).reason == reason
    claimed = header(dtype=UINT8, shape=[0, size], byte_length=0)
    first = manifest(entry(variable="free", tensor=claimed))
    assert wire.ask("AssignVariables", first).reason == reason
