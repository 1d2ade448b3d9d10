"""A call in a session is a call: what it gives, and what is told of it, is as if it came alone."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from tests.fakes import FakeFunction, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.session_wire import in_session
from tests.rpc.test_auditing import auditing
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import METHODS, Outcome, Wire, connected
from tests.serving import serve_here
from tests.waiting import until
from varserve.v1 import history_pb2, inspection_pb2, session_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import Access
from varserve_service.rpc.calls.admission import Limit
from varserve_service.rpc.calls.observers import CallObserver
from varserve_service.rpc.services import sessions

UNARY = [name for name, method in METHODS.items() if not method.client_streaming]
UNARY = [name for name in UNARY if not METHODS[name].server_streaming]

POLICY = b"""
rules:
  - {subjects: [ann], verbs: [list, read, summarize, assign, run, watch, inspect], models: ["*"],
     variables: ["*"], functions: ["*"]}
  - {subjects: [bob], verbs: [list, read], models: ["*"], variables: [v]}
"""


@pytest.fixture(params=["stream", "lane"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, path: str) -> str:
    """What the messages of sessions go on in each test."""
    found: str = request.param
    if found == "lane":
        here = sys.modules[__name__]
        for serving in (serve_here, auditing):
            by_lane = partial(serving, lane_socket=path)
            monkeypatch.setattr(here, serving.__name__, by_lane)
        monkeypatch.setattr(here, "in_session", partial(in_session, by_lane=True))
    return found


# In this order, on a model that is new: what is done before decides what is found.
CALLS: list[tuple[str, Any]] = [
    ("ListModels", pb.ListModelsRequest()),
    ("GetModel", pb.GetModelRequest(model="counter")),
    ("GetModel", pb.GetModelRequest(model="nothing")),
    ("ReadVariable", requests.read()),
    ("ReadVariable", requests.read()),
    ("ReadVariable", requests.read(variable="none")),
    ("ReadVariable", b"\xff"),
    ("SummarizeVariables", requests.summarize()),
    ("SummarizeVariables", pb.SummarizeVariablesRequest(model="counter")),
    ("AssignVariable", requests.assign(request_id="one", lease_seconds=1000)),
    ("AssignVariable", requests.assign(request_id="one", lease_seconds=1000)),
    ("AssignVariable", requests.assign(request_id="one")),
    ("AssignVariable", requests.assign(if_revision_match=7)),
    ("RunFunction", requests.run()),
    ("RunFunction", requests.run(function="add", inputs={"n": requests.number(2)})),
    ("RunFunction", requests.run(inputs={})),
    ("RenewLease", requests.renew(1)),
    ("RenewLease", requests.renew(9)),
    ("RevokeLease", requests.revoke(1)),
    ("ListCommits", requests.commits()),
    ("RevertCommits", requests.revert(0)),
    ("RevertCommits", requests.revert(99)),
    ("ListTensors", inspection_pb2.ListTensorsRequest(model="counter", function="total")),
]


class Recorder(CallObserver):
    """Keeps every call that has ended, in order."""

    def __init__(self) -> None:
        self.done: queue.Queue[Any] = queue.Queue()

    def ended(self, call: Any) -> None:
        self.done.put(call)

    def next(self) -> Any:
        return self.done.get(timeout=30)


def told(call: Any) -> tuple[Any, ...]:
    """What observers are told of a call, but for times."""
    return (
        *(call.method.name, call.code, call.reason, call.subject, call.model, call.version),
        *(call.revision, call.request_id, call.read_bytes, call.trace_id),
    )


def comparable(method: str, outcome: Outcome) -> Any:
    """An outcome without what differs between two services that are alike."""
    if outcome.responses:
        kind = GetMessageClass(METHODS[method].output_type)
        found = json_format.MessageToDict(kind.FromString(outcome.responses[0]))
        return _plain(found)
    return outcome.code, outcome.text, outcome.failure


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        varying = ("epoch", "timeUnixNanos", "seconds", "nextPageToken")
        return {key: _plain(each) for key, each in found.items() if key not in varying}
    return [_plain(each) for each in found] if isinstance(found, list) else found


def _asked(path: Path, *, session: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Outcomes, what observers were told, and the audit log of CALLS at a new service."""
    recorder = Recorder()
    outcomes = []

    def ask(wire: Any) -> None:
        for method, request in CALLS:
            data = request if isinstance(request, bytes) else request.SerializeToString()
            outcome = wire(method, data)
            outcome.check()
            outcomes.append((method, comparable(method, outcome)))

    with auditing(path, counter(), policy=POLICY, observers=[recorder]) as place:
        if session:
            with in_session(place.address, name="ann") as wire:
                ask(wire.ask)
        else:
            with grpc.insecure_channel(place.address) as channel:
                ask(_alone(channel, ("name", "ann")))
        lines = [
            {key: value for key, value in line.items() if key not in ("time", "peer", "epoch")}
            for line in place.lines
        ]
    calls = []
    while not recorder.done.empty():
        calls.append(told(recorder.done.get()))
    return outcomes, [call for call in calls if call[0] != "Session"], lines


def _alone(channel: grpc.Channel, *metadata: tuple[str, str]) -> Any:
    wire = Wire(channel)

    def ask(method: str, data: bytes) -> Outcome:
        return wire.send(method, [data], metadata=metadata)

    return ask


def test_a_call_in_a_session_is_as_one_alone(tmp_path: Path) -> None:
    """Every unary method gives the same answer, failure, audit line and numbers in a session."""
    assert {method for method, _ in CALLS} == set(UNARY)
    alone = _asked(tmp_path / "alone", session=False)
    session = _asked(tmp_path / "session", session=True)
    for method, (one, other) in zip(CALLS, zip(alone[0], session[0], strict=True), strict=True):
        assert one == other, method
    assert alone[1] == session[1]
    assert len(alone[1]) == len(CALLS)
    assert alone[2] == session[2]
    assert len(alone[2]) >= 5


@pytest.fixture
def gate() -> Gate:
    return Gate()


def held(gate: Gate) -> FakeFunction:
    """A function that waits at a gate."""

    def wait() -> dict[str, Any]:
        gate()
        return {"y": np.float32(1)}

    return FakeFunction("held", wait)


@pytest.fixture
def address(gate: Gate) -> Iterator[str]:
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    policy = read_policy(POLICY)
    with serve_here(counter(functions=(held(gate),)), access=access) as found:
        yield found
    gate.opened.set()


HELD = requests.run(function="held", inputs={})


def held_call(ident: int) -> session_pb2.SessionCall:
    return session_pb2.SessionCall(id=ident, method="RunFunction", request=HELD.SerializeToString())


def test_answers_come_as_they_are_ready(address: str, gate: Gate) -> None:
    """A call that waits holds up no other call of its session."""
    with in_session(address, name="ann") as wire:
        waiting = wire.begin("RunFunction", HELD)
        assert gate.reached.wait(30)
        assert wire.ask("ReadVariable", requests.read()).code is grpc.StatusCode.OK
        gate.opened.set()
        outcome = wire.answer(waiting)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK


def test_many_calls_of_one_message_share_answers(address: str) -> None:
    """Answers that have gathered go in one message: far fewer messages than calls."""
    with in_session(address, name="ann") as wire:
        data = requests.read().SerializeToString()
        calls = [wire.call("ReadVariable", data) for _ in range(1000)]
        wire.send(*calls)
        outcomes = [wire.answer(call.id) for call in calls]
        assert all(o is not None and o.code is grpc.StatusCode.OK for o in outcomes)
        assert wire.messages < 500


def test_a_refused_call_ends_nothing_else(address: str) -> None:
    """A denied call, an unknown method and a bad request fail alone; the session goes on."""
    with in_session(address, name="bob") as wire:
        assert wire.ask("AssignVariable", requests.assign()).reason == "PERMISSION_DENIED"
        assert wire.ask("WatchVariables", requests.watch()).reason == "REQUEST_MALFORMED"
        assert wire.ask("Session", b"").reason == "REQUEST_MALFORMED"
        assert wire.ask("Nothing", b"").reason == "REQUEST_MALFORMED"
        late = wire.ask("ReadVariable", requests.read(), timeout_seconds=float("nan"))
        assert late.reason == "REQUEST_MALFORMED"
        assert wire.ask("ReadVariable", requests.read()).code is grpc.StatusCode.OK


def test_sessions_of_two_subjects_are_apart(address: str) -> None:
    """Each session has its own caller, on one connection, too."""
    with in_session(address, name="ann") as ann, in_session(address, name="bob") as bob:
        assert bob.ask("AssignVariable", requests.assign()).reason == "PERMISSION_DENIED"
        assert ann.ask("AssignVariable", requests.assign()).code is grpc.StatusCode.OK
        (commit,) = history_pb2.ListCommitsResponse.FromString(
            ann.ask("ListCommits", requests.commits()).responses[0]
        ).commits
        assert commit.info.subject == "ann"
    with in_session(address, by_lane=False) as nobody:
        nobody.begin("ReadVariable", requests.read())
        assert nobody.answer(1) is None
        assert nobody.end is grpc.StatusCode.UNAUTHENTICATED


class Expiring(Claimed):
    """Claimed, until `expired`."""

    expired = False

    async def subject(self, context: Any) -> str:
        if self.expired:
            raise RequestError(Reason.UNAUTHENTICATED, "the token has expired")
        return await super().subject(context)


def test_each_call_is_authenticated() -> None:
    """A credential that ends refuses the calls after that, in a session that began before."""
    expiring = Expiring()
    with (
        serve_here(counter(), access=Access(authenticator=expiring)) as address,
        in_session(address, name="ann") as wire,
    ):
        assert wire.ask("ReadVariable", requests.read()).code is grpc.StatusCode.OK
        expiring.expired = True
        assert wire.ask("ReadVariable", requests.read()).reason == "UNAUTHENTICATED"


def test_each_call_is_admitted() -> None:
    """The limits of calls count calls, not sessions."""
    gate = Gate()
    limits = {Verb.RUN: Limit(calls=1)}
    service = serve_here(counter(functions=(held(gate),)), limits=limits)
    with service as address, in_session(address) as wire:
        waiting = wire.begin("RunFunction", HELD)
        assert gate.reached.wait(30)
        assert wire.ask("RunFunction", HELD).reason == "TOO_MANY_REQUESTS"
        gate.opened.set()
        outcome = wire.answer(waiting)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK


def test_a_deadline_ends_its_call_alone(gate: Gate) -> None:
    """A call whose deadline passes is answered so, and counted so; others go on."""
    recorder = Recorder()
    service = serve_here(counter(functions=(held(gate),)), observers=[recorder])
    with service as address, in_session(address) as wire:
        late = wire.begin("RunFunction", HELD, timeout_seconds=1)
        assert gate.reached.wait(30)
        outcome = wire.answer(late)
        assert outcome is not None
        assert (outcome.code, outcome.failure) == (grpc.StatusCode.DEADLINE_EXCEEDED, None)
        assert recorder.next().code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert wire.ask("ReadVariable", requests.read()).code is grpc.StatusCode.OK
        gate.opened.set()


def test_a_deadline_in_centuries_is_none() -> None:
    """A call may have a longer time than a system can wait for: it is as one without a deadline."""
    recorder = Recorder()
    with serve_here(counter(), observers=[recorder]) as address:
        with in_session(address) as wire:
            for seconds in (3e7, 1e10, 1e300):
                asked = wire.ask("ReadVariable", requests.read(), timeout_seconds=seconds)
                assert asked.code is grpc.StatusCode.OK
        with connected(address) as alone:
            request = requests.read().SerializeToString()
            assert alone.send("ReadVariable", [request], timeout=4e9).code is grpc.StatusCode.OK
    calls = [call for call in (recorder.next() for _ in range(5)) if call.method.name != "Session"]
    assert [call.deadline is None for call in calls] == [False, True, True, True]


def test_a_cancelled_call_is_cancelled(gate: Gate) -> None:
    """A call that is cancelled ends, as one whose client goes; its id is free again."""
    recorder = Recorder()
    service = serve_here(counter(functions=(held(gate),)), observers=[recorder])
    with service as address, in_session(address) as wire:
        wire.send(held_call(7))
        assert gate.reached.wait(30)
        wire.send(cancelled=(7, 8))
        call = recorder.next()
        assert (call.method.name, call.code) == ("RunFunction", grpc.StatusCode.CANCELLED)
        ended: list[int] = []
        call.cancellation.add(lambda: ended.append(7))  # at once, for a caller that has gone
        assert ended == [7]
        read = requests.read().SerializeToString()
        wire.send(session_pb2.SessionCall(id=7, method="ReadVariable", request=read))
        outcome = wire.answer(7)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK
        gate.opened.set()


def test_an_id_in_use_ends_the_session(address: str, gate: Gate) -> None:
    """Two calls with one id could not be told apart: begun calls are answered, then it ends."""
    with in_session(address, name="ann") as wire:
        call = held_call(7)
        wire.send(call, call)
        assert gate.reached.wait(30)
        gate.opened.set()
        outcome = wire.answer(7)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK
        wire.close()
        assert wire.end is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_goes_cancels_its_calls(gate: Gate) -> None:
    """The calls of a session that breaks end as calls whose client has gone."""
    recorder = Recorder()
    with serve_here(counter(functions=(held(gate),)), observers=[recorder]) as address:
        with in_session(address) as wire:
            wire.begin("RunFunction", HELD)
            assert gate.reached.wait(30)
        ended = {recorder.next().method.name: None for _ in range(2)}
        assert set(ended) == {"RunFunction", "Session"}
        gate.opened.set()


def test_calls_of_one_session_are_bounded(gate: Gate) -> None:
    """Of more calls than may be in progress, the others begin when there is room."""
    count = sessions.MAX_CALLS + 10
    started: list[int] = []

    class Counting(CallObserver):
        def started(self, call: Any) -> None:
            if call.method.name == "RunFunction":
                started.append(1)

    service = serve_here(
        counter(functions=(held(gate),)),
        observers=[Counting()],
        max_pending_calls=2 * count,
        limits={Verb.RUN: Limit(calls=2 * count)},
    )
    with service as address, in_session(address) as wire:
        data = HELD.SerializeToString()
        calls = [wire.call("RunFunction", data) for _ in range(count)]
        wire.send(*calls)
        until(lambda: len(started) == sessions.MAX_CALLS)
        with connected(address) as other:
            listed = other.ask("ListModels", pb.ListModelsRequest())
            assert listed.code is grpc.StatusCode.OK
        assert len(started) == sessions.MAX_CALLS
        gate.opened.set()
        outcomes = [wire.answer(call.id) for call in calls]
        assert all(o is not None and o.code is grpc.StatusCode.OK for o in outcomes)


def test_too_many_calls_in_a_message_end_the_session(address: str) -> None:
    """A message beyond its bounds is refused as a whole, and nothing of it begins."""
    with in_session(address, name="ann") as wire:
        data = requests.assign().SerializeToString()
        wire.send(*[wire.call("AssignVariable", data) for _ in range(1001)])
        wire.close()
        assert wire.end is grpc.StatusCode.INVALID_ARGUMENT
    with in_session(address, name="ann") as wire:
        commits = wire.ask("ListCommits", requests.commits()).responses[0]
        assert not history_pb2.ListCommitsResponse.FromString(commits).commits


def test_a_shutdown_answers_what_has_begun(gate: Gate) -> None:
    """At shutdown, calls of a session that have begun are answered, and it ends by its reason."""
    service = serve_here(counter(functions=(held(gate),)))
    with in_session(service.__enter__()) as wire:
        waiting = wire.begin("RunFunction", HELD)
        assert gate.reached.wait(30)
        opener = threading.Timer(0.2, gate.opened.set)
        opener.start()
        service.__exit__(None, None, None)
        opener.join(30)
        outcome = wire.answer(waiting)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK
        wire.close()
        assert wire.end is grpc.StatusCode.UNAVAILABLE


def test_an_idle_session_ends() -> None:
    """A session without calls ends by itself, and well."""
    with serve_here(counter(), transfer_silence=0.2) as address, in_session(address) as wire:
        assert wire.ask("ReadVariable", requests.read()).code is grpc.StatusCode.OK
        until(lambda: wire.end is not None)
        assert wire.end is grpc.StatusCode.OK


def test_a_call_has_its_own_trace() -> None:
    """A trace that comes with a call is that call's."""
    recorder = Recorder()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with serve_here(counter(), observers=[recorder]) as address, in_session(address) as wire:
        parent = f"00-{trace}-00f067aa0ba902b7-01"
        wire.ask("ReadVariable", requests.read(), traceparent=parent)
        assert recorder.next().trace_id == trace
        wire.ask("ReadVariable", requests.read())
        assert recorder.next().trace_id == ""
