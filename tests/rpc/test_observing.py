"""What whoever watches the service is told of its calls."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import METHODS, connected
from tests.serving import serve_here
from varserve_service.rpc import Access
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.method import UNKNOWN
from varserve_service.rpc.calls.observers import Observers, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Recorder:
    """Keeps every call that has ended, in order, and how many messages it had."""

    def __init__(self) -> None:
        self.open: dict[int, RpcCall] = {}
        self.received: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.done: queue.Queue[RpcCall] = queue.Queue()

    def started(self, call: RpcCall) -> None:
        assert id(call) not in self.open
        self.open[id(call)] = call
        self.received[id(call)] = self.sent[id(call)] = 0

    def received_(self, call: RpcCall) -> None:
        self.received[id(call)] += 1

    def sent_(self, call: RpcCall) -> None:
        self.sent[id(call)] += 1

    def ended(self, call: RpcCall) -> None:
        assert self.open.pop(id(call)) is call
        self.done.put(call)

    def next(self) -> RpcCall:
        """The next that is not the client's own question for the limits."""
        while (call := self.done.get(timeout=30)).method.name == "GetModel":
            pass
        return call

    def messages(self, call: RpcCall) -> tuple[int, int]:
        return self.received[id(call)], self.sent[id(call)]


class Telling:
    """The CallObserver in front of it: the port's names are those of the counts above."""

    def __init__(self, told: Recorder) -> None:
        self.started, self.ended = told.started, told.ended
        self.received, self.sent = told.received_, told.sent_


def test_every_call_is_told_once_with_what_it_came_to() -> None:
    """Method, model, revision, code and reason of calls that succeed and that fail."""
    told = Recorder()
    with serve_here(counter(), observers=[Telling(told)]) as address, connected(address) as wire:
        wire.ask("AssignVariable", requests.assign(request_id="one"))
        first = told.next()
        wire.ask("ReadVariable", requests.read())
        wire.ask("ReadVariable", requests.read())  # the second time from what is kept
        reads = [told.next(), told.next()]
        wire.ask("ReadVariable", requests.read(variable="nope"))
        refused = told.next()
        wire.ask("ReadVariable", requests.read(model="nope\n"))
        lost = told.next()
    assert (first.method.name, first.method.kind) == ("AssignVariable", "unary")
    assert first.method.service == "varserve.v1.ModelService"
    assert (first.model, first.revision, first.request_id) == ("counter", 1, "one")
    assert (first.code, first.reason) == (grpc.StatusCode.OK, "")
    assert [(c.model, c.revision, c.read_bytes) for c in reads] == [("counter", 1, 12)] * 2
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "VARIABLE_NOT_FOUND")
    assert (refused.model, refused.read_bytes) == ("counter", 0)
    # What a client calls a model is no model's name.
    assert (lost.model, lost.reason) == ("", "MODEL_NOT_FOUND")
    assert told.open == {}
    assert all(call.seconds > 0 for call in (first, *reads, refused, lost))


def test_streams_are_told_by_message() -> None:
    """A manifest, chunks and answers count one by one; the bytes read are those of the values."""
    told = Recorder()
    value = np.ones(3, np.float32)
    with (
        serve_here(counter(), observers=[Telling(told)]) as address,
        varserve.connect(address) as client,
    ):
        client.assign_variables("counter", {"v": value})
        assigned = told.next()
        client.read_variables("counter", ["v", "count"])
        read = told.next()
        client.stream_run_function("counter", "total", {"x": value})
        ran = told.next()
    assert (assigned.method.kind, told.messages(assigned)) == ("client_stream", (2, 1))
    assert (read.method.kind, told.messages(read)) == ("server_stream", (1, 2))
    assert (read.model, read.revision, read.read_bytes) == ("counter", 1, 20)
    assert (ran.method.kind, told.messages(ran)) == ("bidi_stream", (2, 2))
    assert (ran.model, ran.revision) == ("counter", 1)


def test_every_method_of_the_contract_is_told_by_its_own_name() -> None:
    """Bytes that are no message of any method are one refusal each, under the method's name."""
    told = Recorder()
    with serve_here(counter(), observers=[Telling(told)]) as address, connected(address) as wire:
        for name in METHODS:
            wire.send(name, [b"\xff"])
            call = told.done.get(timeout=30)
            assert (call.method.name, call.reason) == (name, "REQUEST_MALFORMED")


def test_methods_that_are_not_there_have_one_name() -> None:
    """Whatever a client makes up is counted, and is "unknown"."""
    told = Recorder()
    names = ["/varserve.v1.ModelService/Nope", "/a.B/c", f"/{'x' * 200}/y", "/varserve.v1.X/a\\nb"]
    with (
        serve_here(counter(), observers=[Telling(told)]) as address,
        grpc.insecure_channel(address) as channel,
    ):
        for name in names:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(name)(b"", timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
            call = told.next()
            assert (call.method.service, call.method.name) == ("unknown", "unknown")
            assert call.code is grpc.StatusCode.UNIMPLEMENTED


def test_who_goes_away_is_told_as_cancelled() -> None:
    """A call that its caller cancels has ended, as CANCELLED, though its function still runs."""
    told, gate = Recorder(), Gate()

    def wait() -> dict[str, Any]:
        gate()
        return {}

    live = counter(functions=(FakeFunction("wait", wait),))
    with (
        serve_here(live, observers=[Telling(told)]) as address,
        grpc.insecure_channel(address) as channel,
    ):
        make = channel.unary_unary("/varserve.v1.ModelService/RunFunction")
        request = requests.run(function="wait", inputs={}).SerializeToString()
        call = make.future(request, timeout=300)
        assert gate.reached.wait(30)
        call.cancel()
        ended = told.next()
        gate.opened.set()
    assert (ended.method.name, ended.code) == ("RunFunction", grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize(
    ("remaining", "code"),
    [
        (None, grpc.StatusCode.CANCELLED),
        (5.0, grpc.StatusCode.CANCELLED),
        (0.01, grpc.StatusCode.DEADLINE_EXCEEDED),
        (0.0, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_who_is_late_is_told_apart_from_who_goes_away(
    remaining: float | None, code: grpc.StatusCode
) -> None:
    """A call that ends when its time is up, or a moment before, is DEADLINE_EXCEEDED."""

    class Context:
        def invocation_metadata(self) -> None:
            return None

        def time_remaining(self) -> float | None:
            return remaining

    call = RpcCall(UNKNOWN, Observers([]), Context())  # type: ignore[arg-type]
    call.cancelled()
    assert call.code is code


def test_the_caller_is_told_and_so_is_one_who_is_nobody() -> None:
    """The subject is that of authentication; a refused caller is a call as well."""
    told = Recorder()
    with serve_here(
        counter(), access=Access(authenticator=Claimed()), observers=[Telling(told)]
    ) as address:
        with varserve.connect(address, metadata=[("name", "somebody")]) as client:
            client.read_variable("counter", "v")
        with (
            varserve.connect(address, retries=0) as client,
            pytest.raises(varserve.Unauthenticated),
        ):
            client.read_variable("counter", "v")
    assert told.next().subject == "somebody"
    assert (refused := told.next()).reason == "UNAUTHENTICATED"
    assert refused.subject == ""


def test_an_observer_that_fails_breaks_no_call() -> None:
    """Whoever watches cannot break what it watches."""

    class Broken:
        def fail(self, call: RpcCall) -> None:
            raise RuntimeError("broken")

        started = received = sent = ended = fail

    told = Recorder()
    with serve_here(counter(), observers=[Broken(), Telling(told)]) as address:
        with varserve.connect(address) as client:
            assert client.read_variable("counter", "v").value.tolist() == [1, 1, 1]
            client.read_variables("counter", ["v"])
        assert [told.next().method.name for _ in range(2)] == ["ReadVariable", "ReadVariables"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")], TRACE),
        ([("other", "x"), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00")], TRACE),
        ([], ""),
        ([("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")], ""),
        ([("traceparent", f"00-{TRACE.upper()}-00f067aa0ba902b7-01")], ""),
        ([("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01\n")], ""),
        ([("traceparent", "x" * 100_000)], ""),
        ([("traceparent", b"\xff")], ""),
    ],
)
def test_a_trace_is_taken_from_a_traceparent_that_is_one(given: Any, expected: str) -> None:
    """32 hexadecimal digits that are not all 0, from W3C's header in its exact form, or nothing."""
    assert trace_id_of(given) == expected


def test_calls_at_once_are_told_apart() -> None:
    """What is noted of a call, from its worker's thread too, is noted of no other."""
    told = Recorder()
    models = 4
    with serve_here(counter(), observers=[Telling(told)]) as address:
        start = threading.Barrier(models)

        def work(number: int) -> None:
            with varserve.connect(address) as client:
                start.wait(30)
                for _ in range(25):
                    client.read_variable("counter", "v" if number % 2 else "count")
                    client.read_variables("counter", ["v", "count"] if number % 2 else ["v"])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(models)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        ended: list[RpcCall] = []
        while len(ended) < models * 50:
            call = told.next()
            if call.method.name != "Session":  # small calls that come often go in one
                ended.append(call)
    small = [call.read_bytes for call in ended if call.method.name == "ReadVariable"]
    large = [call.read_bytes for call in ended if call.method.name == "ReadVariables"]
    assert sorted(small) == [8] * 50 + [12] * 50
    assert sorted(large) == [12] * 50 + [20] * 50
