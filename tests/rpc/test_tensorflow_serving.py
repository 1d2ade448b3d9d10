"""TensorFlow Serving's protocol on the service's port: what it takes, and whom it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest

from tests.rpc.test_identity import Claimed
from tests.rpc.test_open_inference import POLICY, echo
from tests.serving import serve_here
from varserve import tensors
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.values.host_value import HostValue
from varserve_service.rpc import Access
from varserve_service.rpc.facades.contracts import message, service
from varserve_service.rpc.facades.tensorflow_serving import tensors as protos

PREDICTION = service("tensorflow.serving.PredictionService")
MODELS = service("tensorflow.serving.ModelService")


class Caller:
    """Calls a method of the protocol by name."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._channel = channel
        self._metadata = (("name", name),) if name else ()

    def __call__(self, method: str, request: Any) -> Any:
        descriptor = next(m for s in (PREDICTION, MODELS) for m in s.methods if m.name == method)
        call = self._channel.unary_unary(
            f"/{descriptor.containing_service.full_name}/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=message(descriptor.output_type.full_name).FromString,
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
    """`serve("float32", name)`: a caller of a service over `echo` of that dtype."""
    with ExitStack() as stack:

        def start(dtype: str, name: str = "", **options: Any) -> Caller:
            live = LiveModel(echo(dtype))
            address = stack.enter_context(serve_here(live, facades=("tfs",), **options))
            return Caller(stack.enter_context(grpc.insecure_channel(address)), name)

        yield start


def tensor(dtype: str, shape: tuple[int, ...], **fields: Any) -> Any:
    made = message("tensorflow.TensorProto")(dtype=tensors.wire_dtype(dtype), **fields)
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def predict(x: Any, signature: str = "") -> Any:
    request = message("tensorflow.serving.PredictRequest")()
    request.model_spec.name, request.model_spec.signature_name = "echo", signature
    request.inputs["x"].CopyFrom(x)
    return request


@pytest.mark.parametrize("dtype", tensors.DTYPES)
def test_every_dtype_comes_back_bit_for_bit(dtype: str) -> None:
    """What is encoded is decoded to the same bits, for every dtype of the contract."""
    if dtype == tensors.STRING:
        value = np.array([[b"", b"a\0b"]], object)
    else:
        kind = tensors.numpy_dtype(dtype)
        value = np.random.default_rng(3).integers(0, 2, (2, 3)).astype(kind)
    made = message("tensorflow.TensorProto")()
    protos.encode(HostValue(value), made)
    decoded = protos.decode("x", made)
    assert (decoded.dtype, decoded.shape) == (value.dtype, value.shape)
    assert decoded.tolist() == value.tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tensor("float32", (2, 2), float_val=[1.5]), [[1.5, 1.5], [1.5, 1.5]]),
        (tensor("int64", (3,), int64_val=[1, 2]), [1, 2, 2]),
        (tensor("float32", (2,)), [0.0, 0.0]),
        (tensor("string", (2,)), [b"", b""]),
        (tensor("string", (2,), string_val=[b"a"]), [b"a", b"a"]),
        (tensor("complex64", (2,), scomplex_val=[1, 2]), [1 + 2j, 1 + 2j]),
        (tensor("float16", (1,), half_val=[0x3C00]), [1.0]),
        (tensor("bfloat16", (1,), half_val=[0x3F80]), [ml_dtypes.bfloat16(1)]),
        (tensor("bool", ()), False),
        (tensor("int8", (0,)), []),
    ],
)
def test_values_are_filled_up_as_tensorflow_does(given: Any, expected: Any) -> None:
    """The last value repeats; none at all is zeros."""
    assert protos.decode("x", given).tolist() == expected


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (tensor("float32", (1 << 30,)), "RESOURCE_EXHAUSTED", "4294967296 bytes"),
        (tensor("float32", (2**40, 2**40)), "INVALID_ARGUMENT", "input 'x'"),
        (tensor("float32", (-1,)), "INVALID_ARGUMENT", "negative size"),
        (tensor("float32", (2,), tensor_content=b"\0" * 7), "INVALID_ARGUMENT", "found 7"),
        (tensor("float32", (1,), float_val=[1, 2]), "INVALID_ARGUMENT", "found 2"),
        (tensor("int8", (1,), int_val=[300]), "INVALID_ARGUMENT", "cannot hold"),
        (tensor("complex64", (1,), scomplex_val=[1]), "INVALID_ARGUMENT", "imaginary"),
    ],
)
def test_what_does_not_fit_is_refused(
    serve: Callable[..., Caller], given: Any, code: str, said: str
) -> None:
    """Tensors that lie, or would take too much, are refused by name."""
    status = serve("float32").status("Predict", predict(given))
    assert (status[0], said in status[1]) == (code, True)


def test_an_unknown_rank_is_refused(serve: Callable[..., Caller]) -> None:
    """A tensor without a shape cannot be made."""
    given = tensor("float32", ())
    given.tensor_shape.unknown_rank = True
    assert "unknown rank" in serve("float32").status("Predict", predict(given))[1]


@pytest.mark.parametrize(
    ("name", "method", "request_", "outcome"),
    [
        ("runner", "Predict", predict(tensor("float32", (1,))), "OK"),
        ("looker", "Predict", predict(tensor("float32", (1,))), "PERMISSION_DENIED"),
        ("runner", "Predict", predict(tensor("float32", (1,)), "write"), "PERMISSION_DENIED"),
        ("", "Predict", predict(tensor("float32", (1,))), "UNAUTHENTICATED"),
        (
            "stranger",
            "GetModelStatus",
            message("tensorflow.serving.GetModelStatusRequest")(model_spec={"name": "echo"}),
            "NOT_FOUND",
        ),
        (
            "looker",
            "GetModelStatus",
            message("tensorflow.serving.GetModelStatusRequest")(model_spec={"name": "echo"}),
            "OK",
        ),
        (
            "runner",
            "HandleReloadConfigRequest",
            message("tensorflow.serving.ReloadConfigRequest")(
                config={"model_config_list": {"config": [{"name": "echo"}]}}
            ),
            "PERMISSION_DENIED",
        ),
        (
            "admin",
            "HandleReloadConfigRequest",
            message("tensorflow.serving.ReloadConfigRequest")(
                config={"model_config_list": {"config": [{"name": "echo"}]}}
            ),
            "FAILED_PRECONDITION",
        ),
    ],
)
def test_a_policy_holds_for_every_call(
    serve: Callable[..., Caller], name: str, method: str, request_: Any, outcome: str
) -> None:
    """Who may not run, know of or administer a model is refused, or told that there is none."""
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    caller = serve("float32", name, access=access)
    if outcome == "OK":
        caller(method, request_)
    else:
        assert caller.status(method, request_)[0] == outcome
