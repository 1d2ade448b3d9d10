"""The Open Inference Protocol on the service's port: what it takes, and whom it refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.test_identity import Claimed
from tests.serving import serve_here
from varserve.open_inference import DATATYPES
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import Access
from varserve_service.rpc.facades.contracts import message, service

SERVICE = service("inference.GRPCInferenceService")

POLICY = b"""
rules:
  - {subjects: [looker], verbs: [list], models: [echo], functions: ["*"]}
  - {subjects: [runner], verbs: [run], models: [echo], functions: [serving_default]}
  - {subjects: [admin], verbs: [admin], models: ["*"]}
"""


def echo(dtype: str) -> FakeModel:
    """`serving_default` gives what it gets; `write` sets the variable `v`."""
    x = {"x": TensorSpec(dtype, None)}
    variable = FakeVariable("v", np.zeros(2, np.float32))

    def write(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": x}

    return FakeModel(
        [variable],
        [
            FakeFunction("serving_default", lambda x: {"x": x}, inputs=x, outputs=x),
            FakeFunction("write", write, inputs=x, outputs=x, writes=("v",)),
        ],
        name="echo",
    )


class Caller:
    """Calls a method of the protocol by name."""

    def __init__(self, channel: grpc.Channel, name: str = "") -> None:
        self._channel = channel
        self._metadata = (("name", name),) if name else ()

    def __call__(self, method: str, request: Any) -> Any:
        descriptor = SERVICE.methods_by_name[method]
        answer = message(descriptor.output_type.full_name)
        call = self._channel.unary_unary(
            f"/{SERVICE.full_name}/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return call(request, metadata=self._metadata, timeout=30)

    def status(self, method: str, request: Any) -> tuple[str, str]:
        """The code and text that a call is refused with."""
        with pytest.raises(grpc.RpcError) as caught:
            self(method, request)
        error: Any = caught.value
        return error.code().name, error.details()


@pytest.fixture
def serve() -> Iterator[Callable[..., Caller]]:
    """`serve("float32")`: a caller of a service over `echo` of that dtype."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(dtype: str, name: str = "", **options: Any) -> Caller:
            address = stack.enter_context(
                serve_here(LiveModel(echo(dtype)), facades=("oip",), **options)
            )
            limit = [("grpc.max_receive_message_length", -1)]
            return Caller(stack.enter_context(grpc.insecure_channel(address, limit)), name)

        yield start


def infer(datatype: str, shape: tuple[int, ...], raw: bytes | None = None, **contents: Any) -> Any:
    request = message("inference.ModelInferRequest")(model_name="echo")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize("dtype", [dtype for dtype in DATATYPES if dtype != "string"])
def test_every_datatype_comes_back_bit_for_bit(serve: Callable[..., Caller], dtype: str) -> None:
    """Raw bytes of every datatype that is a number go through a function unchanged."""
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    value = np.random.default_rng(7).integers(0, 2, 12).astype(kind).reshape(3, 4)
    answer = serve(dtype)("ModelInfer", infer(DATATYPES[dtype], (3, 4), value.tobytes()))
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == (DATATYPES[dtype], [3, 4])
    assert list(answer.raw_output_contents) == [value.tobytes()]


@pytest.mark.parametrize(
    ("dtype", "field", "values"),
    [
        ("bool", "bool_contents", [True, False]),
        ("int8", "int_contents", [-128, 127]),
        ("int16", "int_contents", [-5, 5]),
        ("int64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("uint8", "uint_contents", [0, 255]),
        ("uint64", "uint64_contents", [0, 2**64 - 1]),
        ("float32", "fp32_contents", [0.5, -1.5]),
        ("float64", "fp64_contents", [0.1, 1e300]),
    ],
)
def test_typed_contents_are_taken(
    serve: Callable[..., Caller], dtype: str, field: str, values: list[Any]
) -> None:
    """Elements in the typed field of their datatype arrive exactly."""
    answer = serve(dtype)("ModelInfer", infer(DATATYPES[dtype], (2,), **{field: values}))
    assert np.frombuffer(answer.raw_output_contents[0], dtype).tolist() == values


def test_strings_travel_after_their_lengths(serve: Callable[..., Caller]) -> None:
    """BYTES: in raw form and as typed contents, empty ones and ones with zero bytes too."""
    words = [b"", b"a\0b", "ü".encode()]
    raw = b"".join(struct.pack("<I", len(word)) + word for word in words)
    caller = serve("string")
    for request in (infer("BYTES", (3,), raw), infer("BYTES", (3,), bytes_contents=words)):
        assert list(caller("ModelInfer", request).raw_output_contents) == [raw]


def test_empty_contents_beside_raw_bytes_are_nothing(serve: Callable[..., Caller]) -> None:
    """A client that sends an empty `contents` message beside the raw bytes is understood."""
    request = infer("FP32", (1,), b"\0\0\0\0")
    request.inputs[0].contents.SetInParent()
    assert serve("float32")("ModelInfer", request).raw_output_contents[0] == b"\0\0\0\0"


@pytest.mark.parametrize(
    ("dtype", "request_", "code", "said"),
    [
        ("float32", infer("FP32", (2,), b"\0" * 7), "INVALID_ARGUMENT", "takes 8 bytes, found 7"),
        ("float32", infer("FP32", (2**31, 2**20), b""), "INVALID_ARGUMENT", "found 0"),
        ("float32", infer("FP32", (2**62, 2**62), b""), "INVALID_ARGUMENT", "input 'x'"),
        ("float32", infer("FP32", (-1,), b""), "INVALID_ARGUMENT", "negative size"),
        ("float32", infer("FP32", (1,) * 65, b"\0" * 4), "INVALID_ARGUMENT", "65 dimensions"),
        ("float32", infer("FP33", (1,), b"\0" * 4), "INVALID_ARGUMENT", "found 'FP33'"),
        ("float16", infer("FP16", (1,), fp32_contents=[1.0]), "INVALID_ARGUMENT", "raw_input"),
        ("float32", infer("FP32", (3,), fp32_contents=[1.0]), "INVALID_ARGUMENT", "found 1"),
        ("int8", infer("INT8", (1,), int_contents=[128]), "INVALID_ARGUMENT", "cannot hold"),
        ("string", infer("BYTES", (2**31,), b""), "INVALID_ARGUMENT", "2147483648 elements"),
        ("string", infer("BYTES", (1,), b"\xff\xff\xff\xff"), "INVALID_ARGUMENT", "at most 4"),
        ("string", infer("BYTES", (1,), b"\0\0\0\0x"), "INVALID_ARGUMENT", "1 bytes after them"),
        ("string", infer("BYTES", (1,), b"\0\0"), "INVALID_ARGUMENT", "found 2 bytes"),
    ],
)
def test_what_does_not_fit_is_refused(
    serve: Callable[..., Caller], dtype: str, request_: Any, code: str, said: str
) -> None:
    """Lengths, shapes and datatypes that lie are refused by name, before anything is allocated."""
    status = serve(dtype).status("ModelInfer", request_)
    assert status[0] == code
    assert said in status[1]


def test_a_number_of_raw_contents_that_is_not_that_of_inputs(serve: Callable[..., Caller]) -> None:
    """One raw tensor for two inputs, or both kinds of contents, is refused."""
    two = infer("FP32", (1,), b"\0" * 4)
    two.inputs.add(name="y", datatype="FP32", shape=[1])
    both = infer("FP32", (1,), b"\0" * 4, fp32_contents=[1.0])
    twice = infer("FP32", (1,), b"\0" * 4)
    twice.inputs.add(name="x", datatype="FP32", shape=[1])
    twice.raw_input_contents.append(b"\0" * 4)
    caller = serve("float32")
    assert "one for each of 2 inputs" in caller.status("ModelInfer", two)[1]
    assert "found both" in caller.status("ModelInfer", both)[1]
    assert "found it twice" in caller.status("ModelInfer", twice)[1]


def test_large_tensors_travel_in_one_message(serve: Callable[..., Caller]) -> None:
    """Up to its own limit, beyond that of the service's calls, which stays as it is."""
    caller = serve("float32", facade_message_bytes=16 << 20)
    value = bytes(15 << 20)
    answer = caller("ModelInfer", infer("FP32", (len(value) // 4,), value))
    assert answer.raw_output_contents[0] == value
    large = bytes(17 << 20)
    assert caller.status("ModelInfer", infer("FP32", (len(large) // 4,), large))[0] == (
        "RESOURCE_EXHAUSTED"
    )


def test_elements_one_by_one_are_for_small_tensors(serve: Callable[..., Caller]) -> None:
    """Typed contents beyond the limit of the service's own messages are refused, not decoded."""
    request = infer("INT64", (5 << 20,))
    request.inputs[0].contents.int64_contents.extend([0] * (5 << 20))
    code, said = serve("int64").status("ModelInfer", request)
    assert code == "RESOURCE_EXHAUSTED"
    assert "without raw bytes of tensors" in said


def test_the_services_own_limit_stays() -> None:
    """With a facade on, an AssignVariable beyond 4 MiB is refused as without."""
    with (
        serve_here(LiveModel(echo("float32")), facades=("oip",)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        call = channel.unary_unary("/varserve.v1.ModelService/AssignVariable")
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(5 << 20), timeout=30)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_protocol_is_off_unless_it_is_turned_on() -> None:
    """Without the facade its methods are UNIMPLEMENTED."""
    with (
        serve_here(LiveModel(echo("float32"))) as address,
        grpc.insecure_channel(address) as channel,
    ):
        request = message("inference.ServerLiveRequest")()
        assert Caller(channel).status("ServerLive", request)[0] == "UNIMPLEMENTED"


def test_a_commit_is_seen_by_the_next_inference() -> None:
    """The revision in the answer is the one that the inference ran at."""
    with (
        serve_here(LiveModel(echo("float32")), facades=("oip",)) as address,
        grpc.insecure_channel(address) as channel,
        varserve.connect(address) as client,
    ):
        caller = Caller(channel)
        request = infer("FP32", (1,), b"\0" * 4)
        before = caller("ModelInfer", request).parameters["varserve_revision"].int64_param
        client.model("echo").variables["v"].assign(np.ones(2, np.float32))
        after = caller("ModelInfer", request).parameters["varserve_revision"].int64_param
        assert (before, after) == (0, 1)


@pytest.mark.parametrize(
    ("name", "method", "request_", "outcome"),
    [
        ("runner", "ModelInfer", infer("FP32", (1,), b"\0" * 4), "OK"),
        ("looker", "ModelInfer", infer("FP32", (1,), b"\0" * 4), "PERMISSION_DENIED"),
        ("admin", "ModelInfer", infer("FP32", (1,), b"\0" * 4), "PERMISSION_DENIED"),
        ("stranger", "ModelInfer", infer("FP32", (1,), b"\0" * 4), "PERMISSION_DENIED"),
        ("", "ModelInfer", infer("FP32", (1,), b"\0" * 4), "UNAUTHENTICATED"),
        ("", "ServerLive", message("inference.ServerLiveRequest")(), "UNAUTHENTICATED"),
        ("looker", "ModelMetadata", message("inference.ModelMetadataRequest")(name="echo"), "OK"),
        (
            "stranger",
            "ModelMetadata",
            message("inference.ModelMetadataRequest")(name="echo"),
            "PERMISSION_DENIED",
        ),
        ("looker", "RepositoryIndex", message("inference.RepositoryIndexRequest")(), "DENIED"),
        (
            "runner",
            "RepositoryModelUnload",
            message("inference.RepositoryModelUnloadRequest")(model_name="echo"),
            "PERMISSION_DENIED",
        ),
    ],
)
def test_a_policy_holds_for_every_call(
    serve: Callable[..., Caller], name: str, method: str, request_: Any, outcome: str
) -> None:
    """Who may not run, list or administer is refused, with the code that gRPC has for it."""
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    caller = serve("float32", name, access=access)
    if outcome == "OK":
        caller(method, request_)
    else:
        assert caller.status(method, request_)[0].endswith(outcome)


def test_hidden_and_absent_models_look_alike(serve: Callable[..., Caller]) -> None:
    """ModelReady and ModelStatistics tell a caller nothing of models that it may not know of."""
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    caller = serve("float32", "stranger", access=access)
    ready = message("inference.ModelReadyRequest")
    assert caller("ModelReady", ready(name="echo")) == caller("ModelReady", ready(name="none"))
    stats = message("inference.ModelStatisticsRequest")
    codes = {caller.status("ModelStatistics", stats(name=name))[0] for name in ("echo", "none")}
    assert codes == {"PERMISSION_DENIED"}


def test_a_function_that_writes_needs_a_right_to_assign(serve: Callable[..., Caller]) -> None:
    """The parameter `signature_name` is judged like the function of any other run."""
    policy = read_policy(POLICY.replace(b"[serving_default]", b'["*"]'))
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    request = infer("FP32", (1,), b"\0" * 4)
    request.parameters["signature_name"].string_param = "write"
    assert serve("float32", "runner", access=access).status("ModelInfer", request)[0] == (
        "PERMISSION_DENIED"
    )
