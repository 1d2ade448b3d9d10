"""Retries, deadlines, threads and closing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from varserve import frames, tensors
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel

from .scripted import HEADER, Scripted, fail, model_reply, reply, status
from .test_errors import chunk, manifest

LOST = status(grpc.StatusCode.UNAVAILABLE)
VALUE = np.array([1, 2], np.float32)
READ = reply(pb.ReadVariableResponse(header=HEADER, value=tensors.to_tensor(VALUE)))
ASSIGNED = reply(pb.AssignVariableResponse(header=HEADER))
COMMITTED = reply(pb.AssignVariablesResponse(header=HEADER))
RAN = reply(
    pb.RunFunctionResponse(
        header=HEADER, outputs=[pb.NamedTensor(name="y", tensor=tensors.to_tensor(VALUE))]
    )
)


def test_read_is_repeated(scripted: Scripted) -> None:
    """A read whose connection breaks comes again, and the caller sees the value alone."""
    scripted.script["ReadVariable"] = [LOST, LOST, READ]
    with varserve.connect(scripted.address) as client:
        value = client.model("m").variables["v"].numpy()
    np.testing.assert_array_equal(value, VALUE)
    assert len(scripted.requests["ReadVariable"]) == 3


def test_read_is_repeated_by_the_async_client(scripted: Scripted) -> None:
    """The asyncio client repeats as the blocking one does."""
    scripted.script["ReadVariable"] = [LOST, READ]

    async def read() -> Any:
        async with varserve.aio.connect(scripted.address) as client:
            return await (await client.model("m")).variables["v"].numpy()

    np.testing.assert_array_equal(asyncio.run(read()), VALUE)
    assert len(scripted.requests["ReadVariable"]) == 2


def test_a_body_follows_an_accepted_manifest(scripted: Scripted) -> None:
    """The asyncio client sends no body for a refused manifest, and tells the service's reason."""
    scripted.accepts = False
    scripted.script["AssignVariables"] = [fail("VALUE_TOO_LARGE")]

    async def assign() -> None:
        async with varserve.aio.connect(scripted.address, retries=0) as client:
            with pytest.raises(varserve.ValueTooLarge):
                await client.assign_variables("m", [varserve.Write("v", VALUE)])

    asyncio.run(assign())
    (messages,) = scripted.requests["AssignVariables"]
    assert len(messages) == 1


@pytest.mark.slow
def test_a_refused_upload_says_why() -> None:
    """Of a body that is refused while it is sent, both clients tell the service's own reason."""
    large = LiveModel(FakeModel([FakeVariable("large", np.zeros(8 << 20, np.float64))]))
    value = np.ones(8 << 20, np.float64)

    async def refused(address: str) -> None:
        async with varserve.aio.connect(address, retries=0) as client:
            variable = (await client.model("fake")).variables["large"]
            for _ in range(10):
                with pytest.raises(varserve.ValueTooLarge):
                    await variable.assign(value)

    with serve_here(large, body_bytes=value.nbytes - 1) as address:
        asyncio.run(refused(address))
        with varserve.connect(address, retries=0) as client:
            for _ in range(10):
                with pytest.raises(varserve.ValueTooLarge):
                    client.model("fake").variables["large"].assign(value)


def test_retries_end(scripted: Scripted) -> None:
    """After as many retries as configured the failure is raised."""
    scripted.script["ReadVariable"] = [LOST]
    with varserve.connect(scripted.address, retries=2) as client:
        variable = client.model("m").variables["v"]
        with pytest.raises(varserve.Unavailable):
            variable.numpy()
    assert len(scripted.requests["ReadVariable"]) == 3


def test_no_retry_outlives_the_deadline(scripted: Scripted) -> None:
    """Retries share one deadline: the failure is raised rather than waited out."""
    scripted.script["ListModels"] = [LOST]
    passed = pytest.raises((varserve.Unavailable, varserve.DeadlineExceeded))
    with varserve.connect(scripted.address, retries=10_000) as client, passed:
        client.models(timeout=0.3)
    assert len(scripted.requests["ListModels"]) < 20


def test_too_many_requests_are_not_made_more(scripted: Scripted) -> None:
    """Under lasting refusal a client soon stops repeating: 100 calls are sent about 100 times."""
    scripted.script["ListModels"] = [fail("TOO_MANY_REQUESTS")]
    with varserve.connect(scripted.address, retries=4) as client:
        for _ in range(100):
            with pytest.raises(varserve.TooManyRequests):
                client.models()
    assert 100 < len(scripted.requests["ListModels"]) <= 110


def test_a_short_overload_is_waited_out(scripted: Scripted) -> None:
    """A call that is refused now and then comes again, however often that happens."""
    scripted.script["ListModels"] = [fail("TOO_MANY_REQUESTS"), reply(pb.ListModelsResponse())] * 30
    with varserve.connect(scripted.address) as client:
        for _ in range(30):
            assert client.models() == []


def test_a_connection_that_breaks_is_no_overload(scripted: Scripted) -> None:
    """Failures of the network are repeated however many there were before."""
    scripted.script["ListModels"] = [LOST, LOST, reply(pb.ListModelsResponse())] * 20
    with varserve.connect(scripted.address) as client:
        for _ in range(20):
            assert client.models() == []


def test_a_call_comes_again_when_it_was_told_to(scripted: Scripted) -> None:
    """The service's own estimate counts: not before it, and not at all after the deadline."""
    full = fail("TOO_MANY_REQUESTS", retry_after="0.4")
    scripted.script["ListModels"] = [full, reply(pb.ListModelsResponse())]
    with varserve.connect(scripted.address) as client:
        started = time.monotonic()
        assert client.models() == []
        assert time.monotonic() - started >= 0.4
        scripted.script["ListModels"] = [fail("TOO_MANY_REQUESTS", retry_after="60")]
        scripted.requests.clear()
        with pytest.raises(varserve.TooManyRequests) as caught:
            client.models(timeout=20)
        assert caught.value.retry_after == 60
        assert len(scripted.requests["ListModels"]) == 1


def test_write_keeps_its_id(scripted: Scripted) -> None:
    """All attempts of one write carry one request_id; the next write has another."""
    scripted.script["AssignVariable"] = [LOST, ASSIGNED]
    with varserve.connect(scripted.address) as client:
        variable = client.model("m").variables["v"]
        variable.assign(VALUE)
        variable.assign(VALUE)
    sent = [
        pb.AssignVariableRequest.FromString(request).request_id
        for (request,) in scripted.requests["AssignVariable"]
    ]
    assert len(sent) == 3
    assert sent[0] == sent[1] != sent[2]
    assert all(len(each) == 32 for each in sent)


def test_write_without_id_is_not_repeated(scripted: Scripted) -> None:
    """A write that cannot be told from its repetition is sent once."""
    scripted.script["AssignVariable"] = [LOST, ASSIGNED]
    with varserve.connect(scripted.address) as client, pytest.raises(varserve.Unavailable):
        client.assign_variable("m", "v", VALUE, request_id="")
    assert len(scripted.requests["AssignVariable"]) == 1


def test_upload_is_sent_again_whole(scripted: Scripted) -> None:
    """A transaction whose connection breaks is uploaded again from its first byte."""
    scripted.script["AssignVariables"] = [LOST, COMMITTED]
    with varserve.connect(scripted.address) as client, client.model("m").transaction() as txn:
        txn.assign("v", VALUE)
        txn.assign("v", VALUE + 1)
    first, second = scripted.requests["AssignVariables"]
    assert first == second
    assert len(first) == 2
    frame = frames.read_chunk(first[1])
    assert frame is not None
    assert bytes(frame.data) == VALUE.tobytes() + (VALUE + 1).tobytes()


def test_upload_with_a_wrong_checksum_is_sent_again_once(scripted: Scripted) -> None:
    """Bytes that changed on the way are sent once more, and then it is an error."""
    scripted.script["AssignVariables"] = [fail("CHECKSUM_MISMATCH"), COMMITTED]
    with varserve.connect(scripted.address) as client:
        client.assign_variables("m", {"v": VALUE})
        scripted.script["AssignVariables"] = [fail("CHECKSUM_MISMATCH")]
        with pytest.raises(varserve.ChecksumMismatch):
            client.assign_variables("m", {"v": VALUE})
    assert len(scripted.requests["AssignVariables"]) == 4


def test_download_with_a_wrong_checksum_is_read_again(scripted: Scripted) -> None:
    """A chunk that changed on the way is found and read again."""
    good = chunk(0, VALUE.tobytes())
    bad = good[:-1] + bytes([good[-1] ^ 1])
    scripted.script["ReadVariables"] = [
        reply(manifest([2]), bad),
        reply(manifest([2]), good),
    ]
    with varserve.connect(scripted.address) as client:
        snapshot = client.model("m").read(["v"])
    np.testing.assert_array_equal(snapshot["v"], VALUE)


@pytest.mark.parametrize(
    ("function", "failure", "calls"),
    [
        ("pure", LOST, 2),
        ("writes", LOST, 2),
        ("elsewhere", LOST, 1),
        ("elsewhere", fail("SHUTTING_DOWN"), 2),
        ("elsewhere", fail("TOO_MANY_REQUESTS"), 2),
        ("pure", fail("FUNCTION_FAILED"), 1),
    ],
)
def test_runs_repeated_where_safe(
    scripted: Scripted, function: str, failure: Any, calls: int
) -> None:
    """A run comes again if it changes nothing, or by its request_id, or if it cannot have begun."""
    scripted.script["RunFunction"] = [failure, RAN]
    with varserve.connect(scripted.address) as client:
        call = client.model("m").functions[function]
        if calls == 1:
            with pytest.raises(varserve.VarserveError):
                call(x=VALUE)
        else:
            call(x=VALUE)
    sent = [pb.RunFunctionRequest.FromString(each) for (each,) in scripted.requests["RunFunction"]]
    assert len(sent) == calls
    assert len({each.request_id for each in sent}) == 1
    assert bool(sent[0].request_id) == (function != "pure")


def test_what_is_not_put_back_is_not_run_twice(scripted: Scripted) -> None:
    """A function that changes more than variables, with outputs of a size that nobody knows, is run
    by the call that takes any: not once more when they turn out to be too large."""
    answer = model_reply()
    elsewhere = answer.functions[2].overloads[0]
    scripted.script |= {
        "GetModel": [reply(answer)],
        "RunFunction": [fail("MESSAGE_TOO_LARGE")],
        "StreamRunFunction": [fail("FUNCTION_FAILED")],
    }
    for dtype, size in ((1, -1), (1, 1 << 20), (7, 2)):
        elsewhere.outputs[0].tensor.dtype = dtype
        elsewhere.outputs[0].tensor.shape.dimensions[:] = [size]
        scripted.script["GetModel"] = [reply(answer)]
        with varserve.connect(scripted.address) as client:
            functions = client.model("m").functions
            with pytest.raises(varserve.FunctionFailed):
                functions["elsewhere"](x=VALUE)
        assert "RunFunction" not in scripted.requests
    with varserve.connect(scripted.address) as client, pytest.raises(varserve.FunctionFailed):
        client.model("m").functions["writes"](x=VALUE)
    assert len(scripted.requests["RunFunction"]) == 1


def test_a_write_that_may_be_done_is_told_as_that(scripted: Scripted) -> None:
    """A refusal says nothing of an attempt before it that got lost."""
    with varserve.connect(scripted.address) as client:
        variable = client.model("m").variables["v"]
        for answers, known in (
            ([fail("MODEL_NOT_READY")], True),
            ([LOST, fail("MODEL_NOT_READY")], False),
            ([LOST, fail("MODEL_NOT_FOUND")], False),
            ([fail("SHUTTING_DOWN"), fail("MODEL_NOT_FOUND")], True),
            ([fail("AUDIT_LOG_UNAVAILABLE", revision="4"), fail("MODEL_NOT_FOUND")], False),
        ):
            scripted.script["AssignVariable"] = answers
            with pytest.raises(varserve.VarserveError) as caught:
                variable.assign(VALUE)
            assert caught.value.from_service == known


def test_new_epoch_is_noticed(scripted: Scripted) -> None:
    """After an answer from a new epoch the client asks for the model anew before it goes on."""
    other = pb.ReadVariableResponse(header=HEADER, value=tensors.to_tensor(VALUE))
    other.header.epoch = "f"
    scripted.script["ReadVariable"] = [reply(other)]
    with varserve.connect(scripted.address) as client:
        model = client.model("m")
        variable = model.variables["v"]
        variable.numpy()
        assert model.epoch == "f"
        variable.numpy()
    assert len(scripted.requests["GetModel"]) == 2


def test_many_threads(model: varserve.Model) -> None:
    """One client serves many threads: every addition arrives once, and reads are whole."""
    counter, large = model.variables["counter"], model.variables["large"]
    threads, rounds = 8, 10

    def work(number: int) -> None:
        for _ in range(rounds):
            counter.assign_add(1)
            if number % 4 == 0:
                assert large.numpy()[-1] == 100_002
            model.read(["counter", "weights"])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert counter.numpy() == 7 + threads * rounds
    assert model.revision == threads * rounds


def test_close_twice(client: varserve.Client) -> None:
    """Closing is idempotent, and a closed client says that it is."""
    variable = client.model("fake").variables["counter"]
    client.close()
    client.close()
    for call in (client.models, variable.numpy, lambda: variable.assign(1)):
        with pytest.raises(varserve.ClientClosed):
            call()
    assert "closed" in repr(client)


def test_close_unused(address: str) -> None:
    """A client that never called anything closes too."""
    varserve.connect(address).close()


def hold(reached: threading.Event, released: threading.Event) -> Callable[..., list[bytes]]:
    def answer(requests: list[bytes], context: grpc.ServicerContext) -> list[bytes]:
        reached.set()
        released.wait(30)
        return []

    return answer


@pytest.mark.parametrize("method", ["ListModels", "ReadVariables"])
def test_close_during_a_call(scripted: Scripted, method: str) -> None:
    """A call that is in progress when the client closes ends with ClientClosed, at once."""
    reached, released = threading.Event(), threading.Event()
    scripted.script[method] = [hold(reached, released)]
    client = varserve.connect(scripted.address)
    call = client.models if method == "ListModels" else lambda: client.read_variables("m", ["v"])
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(call)
            assert reached.wait(60)
            client.close()
            assert isinstance(waiting.exception(10), varserve.ClientClosed)
    finally:
        released.set()


@pytest.mark.parametrize("method", ["ListModels", "ReadVariables"])
def test_close_or_cancel_during_an_awaited_call(scripted: Scripted, method: str) -> None:
    """Closing ends an awaited call with ClientClosed; cancelling its task stays a cancellation."""
    reached, released = threading.Event(), threading.Event()
    scripted.script[method] = [hold(reached, released)]

    async def use() -> None:
        client = varserve.aio.connect(scripted.address)

        async def call() -> None:
            await (client.models() if method == "ListModels" else client.read_variables("m", ["v"]))

        cancelled = asyncio.ensure_future(call())
        await asyncio.to_thread(reached.wait, 10)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        reached.clear()
        waiting = asyncio.ensure_future(call())
        await asyncio.to_thread(reached.wait, 10)
        await client.close()
        with pytest.raises(varserve.ClientClosed):
            await asyncio.wait_for(waiting, 10)

    try:
        asyncio.run(use())
    finally:
        released.set()


def test_wait_ready(address: str, scripted: Scripted) -> None:
    """wait_ready returns when the service serves, waits while it does not, and says so at last."""
    with varserve.connect(address) as client:
        client.wait_ready()
        client.wait_ready("fake")
        with pytest.raises(varserve.ModelNotFound):
            client.wait_ready("nothing")
    scripted.script["Check"] = [reply(b"\x08\x02"), LOST, reply(b"\x08\x01")]
    with varserve.connect(scripted.address) as client:
        client.wait_ready(timeout=10)
        scripted.script["Check"] = [reply(b"\x08\x02")]
        with pytest.raises(varserve.DeadlineExceeded, match="not serving"):
            client.wait_ready(timeout=0.3)


def test_metadata_goes_with_every_call(scripted: Scripted) -> None:
    """The metadata given to connect arrives with each call."""
    found = []

    def answer(requests: list[bytes], context: grpc.ServicerContext) -> list[bytes]:
        found.append(dict(context.invocation_metadata()).get("authorization"))
        return [b""]

    scripted.script["ListModels"] = [answer]
    with varserve.connect(
        scripted.address, metadata=[("authorization", "Bearer secret")]
    ) as client:
        client.models()
    assert found == ["Bearer secret"]
