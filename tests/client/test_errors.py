"""Every failure is one of varserve's own errors."""

from __future__ import annotations

import asyncio
import pickle
import socket

import grpc
import numpy as np
import pytest

import varserve
from varserve import frames, reasons, tensors
from varserve._client import errors
from varserve.v1 import error_pb2
from varserve.v1 import model_service_pb2 as pb

from .scripted import HEADER, Scripted, fail, reply, status

REASONS = [
    name.removeprefix("ERROR_REASON_")
    for name in dict(error_pb2.ErrorReason.items())
    if "UNSPEC" not in name
]


def test_every_reason_of_the_contract_has_an_error() -> None:
    """Every ErrorReason is mapped, and to a class of its own unless two share one on purpose."""
    shared = {"LENGTH_MISMATCH", "CHUNK_INVALID"}
    assert set(REASONS) == set(reasons.STATUS_OF_REASON)
    for reason in REASONS:
        found = errors.from_reason(reason, "text")
        assert found.reason == reason
        assert reason in shared or type(found).reason == reason


def test_every_error_is_exported() -> None:
    """Each exception class of the module is public, and drawn in the module's tree."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, varserve.VarserveError)
    ]
    assert len(classes) > 30
    for each in classes:
        assert getattr(varserve, each.__name__) is each
        assert f" {each.__name__}" in (errors.__doc__ or "")


@pytest.mark.parametrize("reason", REASONS)
def test_reason_over_the_wire(scripted: Scripted, reason: str) -> None:
    """A failure of the service arrives with its reason, message and metadata."""
    scripted.script["ListModels"] = [fail(reason, variable="v", current_revision="12")]
    with (
        varserve.connect(scripted.address, retries=0) as client,
        pytest.raises(varserve.VarserveError) as caught,
    ):
        client.models()
    error = caught.value
    assert (error.reason, error.message, error.variable) == (reason, f"scripted {reason}", "v")
    assert error.from_service
    assert isinstance(error, errors.CLASS_OF_REASON[reason])
    if isinstance(error, varserve.RevisionMismatch):
        assert error.current_revision == 12


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0]])
def test_status_without_reason(scripted: Scripted, code: grpc.StatusCode) -> None:
    """A bare status code, as a proxy gives it, is an error of this client too."""
    scripted.script["ListModels"] = [status(code)]
    with (
        varserve.connect(scripted.address, retries=0) as client,
        pytest.raises(varserve.VarserveError) as caught,
    ):
        client.models()
    assert not caught.value.from_service
    assert type(caught.value) is not varserve.VarserveError


def test_errors_are_what_python_calls_them() -> None:
    """The errors are caught as ValueError, KeyError and TimeoutError, print plainly and pickle."""
    assert issubclass(varserve.ShapeMismatch, ValueError)
    assert issubclass(varserve.VariableNotFound, KeyError)
    assert issubclass(varserve.DeadlineExceeded, TimeoutError)
    for kind in (varserve.VariableNotFound, varserve.DeadlineExceeded, varserve.ShapeMismatch):
        error = kind("it is so", metadata={"variable": "v"}, from_service=True)
        assert str(error) == "it is so"
        assert type(error).__module__ == "varserve", "as a traceback has it"
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.metadata) == (kind, "it is so", {"variable": "v"})


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_nobody_there() -> None:
    """A refused connection is Unavailable, from both clients, and names the address."""
    address = closed_port()
    with (
        varserve.connect(address, retries=1) as client,
        pytest.raises(varserve.Unavailable, match=address),
    ):
        client.models()

    async def ask() -> None:
        async with varserve.aio.connect(address, retries=1) as client:
            await client.models()

    with pytest.raises(varserve.Unavailable, match=address):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "target", ["no-such-host.invalid:1", "unix:/nowhere", "dns:nowhere.invalid:1"]
)
def test_bad_target(target: str) -> None:
    """A target that is no address is an error of this client at the first call."""
    with (
        varserve.connect(target, retries=0, timeout=5) as client,
        pytest.raises(varserve.VarserveError),
    ):
        client.models()


def test_url_instead_of_target() -> None:
    """A URL is refused at once, with what was expected."""
    with pytest.raises(varserve.InvalidRequest, match="HOST:PORT"):
        varserve.connect("http://localhost:8500")


def test_other_service(scripted: Scripted) -> None:
    """A gRPC server that is no varserve service is told apart."""
    with (
        varserve.connect(scripted.address) as client,
        pytest.raises(varserve.ServiceError, match="no varserve service"),
    ):
        client.models()


def test_no_grpc_at_all() -> None:
    """A server that speaks something else is Unavailable, not a hang and not a gRPC error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        refused = pytest.raises((varserve.Unavailable, varserve.DeadlineExceeded))
        with varserve.connect(address, retries=0, timeout=2) as client, refused:
            client.models()


def chunk(offset: int, data: bytes) -> bytes:
    return frames.chunk_message(offset, [memoryview(data)])


def manifest(*shapes: list[int]) -> pb.ReadVariablesResponse:
    entries = [
        pb.ReadEntry(variable="v", tensor=tensors.to_header(np.zeros(shape, np.float32)))
        for shape in shapes
    ]
    return pb.ReadVariablesResponse(manifest=pb.ReadManifest(header=HEADER, entries=entries))


@pytest.mark.parametrize(
    "messages",
    {
        "not protobuf": [b"\xff\xff\xff"],
        "nothing": [],
        "no manifest": [chunk(0, bytes(8))],
        "empty message": [b""],
        "two manifests": [manifest([2]), manifest([2])],
        "too many entries": [manifest([1], [1]), chunk(0, bytes(8))],
        "too few bytes": [manifest([2]), chunk(0, bytes(4))],
        "too many bytes": [manifest([2]), chunk(0, bytes(12))],
        "a gap": [manifest([2]), chunk(0, bytes(4)), chunk(5, bytes(4))],
        "other shape": [manifest([3]), chunk(0, bytes(12))],
    }.items(),
    ids=lambda item: item[0],
)
def test_garbage_in_a_stream(scripted: Scripted, messages: tuple[str, list[object]]) -> None:
    """Whatever a server streams, the caller gets the value that was asked for or an error."""
    scripted.script["ReadVariables"] = [reply(*messages[1])]
    with varserve.connect(scripted.address) as client:
        model = client.model("m")
        with pytest.raises(varserve.VarserveError):
            model.read(["v"])


def test_claim_that_no_memory_holds(scripted: Scripted) -> None:
    """A manifest that claims petabytes is an error, not the end of the process."""
    header = manifest([2])
    header.manifest.entries[0].tensor.shape[:] = [1 << 60]
    header.manifest.entries[0].tensor.byte_length = 4 << 60
    scripted.script["ReadVariables"] = [reply(header)]
    with varserve.connect(scripted.address) as client, pytest.raises(varserve.VarserveError):
        client.read_variables("m", ["v"])


def test_deadline(scripted: Scripted) -> None:
    """An answer that does not come is DeadlineExceeded, and the message says what is not known."""
    import threading

    never = threading.Event()
    scripted.script["ListModels"] = [lambda requests, context: never.wait(30) or []]
    try:
        with (
            varserve.connect(scripted.address) as client,
            pytest.raises(varserve.DeadlineExceeded, match="may or may not"),
        ):
            client.models(timeout=0.2)
    finally:
        never.set()


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeout_that_is_none(model: varserve.Model, timeout: float) -> None:
    """A timeout must be above zero."""
    with pytest.raises(varserve.InvalidRequest):
        model.refresh(timeout=timeout)
