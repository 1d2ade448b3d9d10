"""Descriptions of models that do not fit into one message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from grpc import RpcError, insecure_channel

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.wire import outcome_of
from tests.serving import serve_here
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Omission, OmissionKind, TensorSpec

from .scripted import Scripted, fail, model_reply, reply

ONE = np.zeros(1, np.float32)
SCALAR = TensorSpec("float32", ())


def name_of(number: int, length: int) -> str:
    return f"v{number:06}/".ljust(length, "n")


def large_model(variables: int, functions: int, length: int) -> FakeModel:
    """Every second function reads all variables, the others every second of them."""
    names = [name_of(number, length) for number in range(variables)]
    omissions = [
        Omission(OmissionKind.FUNCTION, name_of(number, length), "r" * 100) for number in range(50)
    ]
    return FakeModel(
        [FakeVariable(name, ONE) for name in names],
        [
            FakeFunction(
                f"f{number:03}".ljust(length, "f"),
                lambda x: {"y": x},
                inputs={"x": SCALAR},
                outputs={"y": SCALAR},
                reads=tuple(names[:: 1 + number % 2]),
            )
            for number in range(functions)
        ],
        name="m",
        omissions=omissions,
    )


@contextmanager
def opened(model: FakeModel, **options: object) -> Iterator[varserve.Model]:
    with serve_here(LiveModel(model), **options) as address, varserve.connect(address) as client:
        yield client.model("m")


@pytest.mark.parametrize("message_bytes", [100_000, 150_000, 4 << 20])
def test_the_pages_are_the_whole(message_bytes: int) -> None:
    """However a description is cut, the client has every variable, function and omission once."""
    made = large_model(300, 20, 200)
    with opened(made, message_bytes=message_bytes) as model:
        assert list(model.variables) == [v.spec.name for v in made.variables]
        assert list(model.functions) == [f.spec.name for f in made.functions]
        for function in made.functions:
            (overload,) = model.functions[function.spec.name].overloads
            assert overload.reads == function.spec.overloads[0].reads
        assert [each.path for each in model.omissions] == [each.path for each in made.omissions]


def test_twenty_thousand_variables_and_a_hundred_functions() -> None:
    """Names of a thousand characters, read by all functions, open in a client within seconds."""
    made = large_model(20_000, 100, 1000)
    began = time.monotonic()
    with opened(made) as model:
        assert len(model.variables) == 20_000
        assert len(model.functions) == 100
        last = name_of(19_999, 1000)
        function = model.functions["f000".ljust(1000, "f")]
        assert function.overloads[0].reads[-1] == last
        assert len(function.overloads[0].reads) == 20_000
        assert model.variables[last].numpy().tolist() == [0]
    assert time.monotonic() - began < 120


def test_what_no_page_could_hold_is_left_out() -> None:
    """A function whose description is larger than a message is told of, and the rest is there."""
    inputs = {f"x{number}".ljust(1000, "x"): SCALAR for number in range(200)}
    wide = FakeFunction("wide", lambda **_: {}, inputs=inputs)
    small = FakeFunction("small", lambda x: {"y": x}, inputs={"x": SCALAR})
    made = FakeModel([FakeVariable("v", ONE)], [wide, small], name="m")
    with opened(made, message_bytes=200_000) as model:
        assert list(model.functions) == ["small"]
        (omission,) = model.omissions
        assert (omission.kind, omission.path) == ("function", "wide")
        assert "its description takes" in omission.reason


def test_a_page_of_another_state_is_refused() -> None:
    """A token is of one state: of another epoch, or made up, it is refused."""
    live = LiveModel(large_model(300, 1, 500))
    with serve_here(live, message_bytes=100_000) as address, insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        token = stub.GetModel(pb.GetModelRequest(model="m")).next_page_token
        epoch, count, place = token.split(":")
        for wrong, reason in (
            ("x", "REQUEST_MALFORMED"),
            (f"{'0' * len(epoch)}:{count}:{place}", "EPOCH_MISMATCH"),
            (f"{epoch}:{int(count) + 1}:{place}", "EPOCH_MISMATCH"),
            (f"{epoch}:{count}:{count}", "EPOCH_MISMATCH"),
        ):
            request = pb.GetModelRequest(model="m", page_token=wrong)
            with pytest.raises(RpcError) as caught:
                stub.GetModel(request)
            assert outcome_of(caught.value).reason == reason, wrong


def test_a_description_begins_anew_when_the_model_is_replaced() -> None:
    """When a page is refused as of another state, the client asks for all of them again."""
    first = model_reply()
    first.next_page_token = "next"
    last = pb.GetModelResponse(header=first.header)
    last.omissions.add(path="p")
    with Scripted() as scripted, varserve.connect(scripted.address) as client:
        scripted.script["GetModel"] = [
            reply(first),
            fail("EPOCH_MISMATCH"),
            reply(first),
            reply(last),
        ]
        assert [each.path for each in client.get_model("m").omissions] == ["p"]
        tokens = [
            pb.GetModelRequest.FromString(request).page_token
            for (request,) in scripted.requests["GetModel"]
        ]
        assert tokens == ["", "next", "", "next"]
