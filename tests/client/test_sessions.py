"""Small calls that come often share a stream, and nobody notices but the clock."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc._cython import cygrpc

import varserve
import varserve.aio
from tests.fakes import FakeFunction, Gate
from tests.rpc.models import counter
from tests.rpc.test_identity import Claimed
from tests.serving import serve_here
from tests.waiting import join, until, until_async
from varserve._client.transport import lane as client_lane
from varserve._client.transport import session_usage, sessions
from varserve._client.transport.sessions import stream
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2
from varserve_service.access.policy_file import read_policy
from varserve_service.rpc import Access
from varserve_service.rpc.calls.observers import CallObserver

from .scripted import HEADER, Scripted, fail, reply, status

MANY = 40


@pytest.fixture(params=["stream", "lane"], autouse=True)
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """What the messages of sessions go on in each test."""
    found: str = request.param
    if found == "lane":
        client_lane._unusable.clear()
        by_lane = partial(serve_here, lane_socket=str(tmp_path / "lane"))
        monkeypatch.setattr(sys.modules[__name__], "serve_here", by_lane)
    return found


class Calls(CallObserver):
    """Keeps the calls of a service that have begun and ended, sessions apart."""

    def __init__(self) -> None:
        self.sessions: list[Any] = []
        self.ended_sessions: list[Any] = []
        self.ended_calls: list[Any] = []

    def started(self, call: Any) -> None:
        if call.method.name == "Session":
            self.sessions.append(call)

    def ended(self, call: Any) -> None:
        (self.ended_sessions if call.method.name == "Session" else self.ended_calls).append(call)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def address(calls: Calls, gate: Gate) -> Iterator[str]:
    def wait() -> dict[str, Any]:
        gate()
        return {}

    with serve_here(counter(functions=(FakeFunction("held", wait),)), observers=[calls]) as found:
        yield found
    gate.opened.set()


def test_calls_that_come_often_go_in_a_session(address: str, calls: Calls) -> None:
    """The first few calls go alone, those that follow share one stream; by option all, or none."""
    with varserve.connect(address) as client:
        v = client.model("counter").variables["v"]
        for _ in range(3):
            v.numpy()
        assert not calls.sessions
        for number in range(MANY):
            v.assign(np.full(3, number, np.float32))
            assert v.numpy()[0] == number
        assert len(calls.sessions) == 1
    with varserve.connect(address, sessions=True) as client:
        client.read_variable("counter", "v")
        assert len(calls.sessions) == 2
    with varserve.connect(address, sessions=False) as client:
        for _ in range(MANY):
            client.read_variable("counter", "v")
        assert len(calls.sessions) == 2
    until(lambda: len(calls.ended_sessions) == 2)  # a client that is closed leaves none


def test_calls_that_come_seldom_go_alone() -> None:
    """A pace below that, and a service without sessions, leave calls alone."""
    usage = session_usage.Usage(None)
    assert not any(usage.wants(opened=False) for _ in range(session_usage._OFTEN - 1))
    assert usage.wants(opened=False)
    usage._times.extend([time.monotonic() - 2] * session_usage._OFTEN)
    assert not usage.wants(opened=False)
    usage.impossible()
    assert not usage.wants(opened=True)


@pytest.mark.parametrize(
    "options",
    [{"round_robin": True}, {"options": (("grpc.lb_policy_name", "round_robin"),)}],
    ids=["round_robin", "gRPC's own option"],
)
def test_calls_that_are_spread_go_alone(
    address: str, calls: Calls, options: dict[str, Any]
) -> None:
    """Where calls go to several servers in turn they do, unless the caller wants sessions."""
    with varserve.connect(address, **options) as client:
        for _ in range(MANY):
            client.read_variable("counter", "v")
        assert not calls.sessions
    with varserve.connect(address, sessions=True, **options) as client:
        client.read_variable("counter", "v")
        assert len(calls.sessions) == 1


def test_a_proxy_of_the_environment_means_no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between may not carry such streams."""
    monkeypatch.setenv("grpc_proxy", "http://proxy:3128")
    assert varserve.ConnectOptions().endpoint("elsewhere:8500").sessions is False
    assert varserve.ConnectOptions(sessions=True).endpoint("elsewhere:8500").sessions is True
    assert varserve.ConnectOptions().endpoint("localhost:8500").sessions is None


def test_threads_share_a_session(address: str, calls: Calls) -> None:
    """Many threads write and read at the same time on one stream, each with its own answers."""
    with varserve.connect(address, sessions=True) as client:

        def work(number: int) -> None:
            for _ in range(MANY):
                x = np.full(4, number, np.float32)
                assert client.run_function("counter", "total", {"x": x})["output_0"] == 4 * number
                client.run_function("counter", "add", {"n": np.int64(1)})

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert client.read_variable("counter", "count").value == 16 * MANY
    assert len(calls.sessions) == 1


def test_tasks_share_a_session(address: str, calls: Calls) -> None:
    """So do tasks; and each event loop has its own."""

    async def main() -> None:
        client = varserve.aio.connect(address, sessions=True)

        async def work(number: int) -> None:
            for _ in range(MANY):
                x = np.full(4, number, np.float32)
                found = await client.run_function("counter", "total", {"x": x})
                assert found["output_0"] == 4 * number

        async with client:
            await asyncio.gather(*(work(number) for number in range(16)))

    for count in (1, 2):
        asyncio.run(main())
        assert len(calls.sessions) == count


def _held(client: Any) -> Any:
    return client.run_function("counter", "held", {}, timeout=1)


def test_a_timeout_is_kept_in_a_session(address: str, calls: Calls, gate: Gate) -> None:
    """A call ends when its time is over, with either client; the session goes on."""
    with varserve.connect(address, sessions=True, retries=0) as client:
        client.read_variable("counter", "v")
        began = time.monotonic()
        with pytest.raises(varserve.DeadlineExceeded, match="did not answer in time"):
            _held(client)
        assert time.monotonic() - began > 0.9

    async def main() -> None:
        async with varserve.aio.connect(address, sessions=True, retries=0) as client:
            await client.read_variable("counter", "v")
            with pytest.raises(varserve.DeadlineExceeded, match="did not answer in time"):
                await _held(client)
            await client.read_variable("counter", "v")

    asyncio.run(main())
    codes = [call.code for call in calls.ended_calls if call.method.name == "RunFunction"]
    assert len(codes) == 2
    assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
    assert len(calls.sessions) == 2


def test_a_task_that_is_cancelled_cancels_its_call(address: str, calls: Calls, gate: Gate) -> None:
    """The service hears of it at once, and ends what it does; other calls go on."""

    async def main() -> None:
        async with varserve.aio.connect(address, sessions=True) as client:
            task = asyncio.create_task(client.run_function("counter", "held", {}))
            await until_async(gate.reached.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await client.read_variable("counter", "v")
            until(lambda: any(c.method.name == "RunFunction" for c in calls.ended_calls))

    asyncio.run(main())
    (run,) = (call for call in calls.ended_calls if call.method.name == "RunFunction")
    assert run.code is grpc.StatusCode.CANCELLED


def test_a_close_ends_what_waits_in_a_session(address: str, gate: Gate) -> None:
    """A call that waits when its client is closed fails at once, as one alone does."""
    client = varserve.connect(address, sessions=True)
    failures: list[BaseException] = []

    def call() -> None:
        try:
            client.run_function("counter", "held", {})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert gate.reached.wait(30)
    client.close()
    join([thread])
    assert [type(error) for error in failures] == [varserve.ClientClosed]
    with pytest.raises(varserve.ClientClosed):
        client.read_variable("counter", "v")


def _read_reply() -> Any:
    value = tensor_pb2.Tensor(dtype=1, shape=[2], data=np.array([1, 2], "<f4").tobytes())
    return reply(pb.ReadVariableResponse(header=HEADER, value=value))


def test_a_service_without_sessions_is_called_as_before(scripted: Scripted) -> None:
    """UNIMPLEMENTED is no failure of a call, and is heard once."""
    scripted.script["Session"] = [status(grpc.StatusCode.UNIMPLEMENTED)]
    scripted.script["ReadVariable"] = [_read_reply()]
    with varserve.connect(scripted.address, sessions=True, retries=0) as client:
        for _ in range(3):
            assert client.read_variable("m", "v").value.tolist() == [1, 2]
    assert len(scripted.requests["Session"]) == 1
    assert len(scripted.requests["ReadVariable"]) == 3


def test_a_broken_session_is_resumed(scripted: Scripted) -> None:
    """A call whose session breaks is repeated if it may be; what may not arrive twice fails."""
    scripted.script["Session"] = [status(grpc.StatusCode.UNAVAILABLE)]
    scripted.script["ReadVariable"] = [_read_reply()]
    with varserve.connect(scripted.address, sessions=True) as client:
        assert client.read_variable("m", "v").value.tolist() == [1, 2]
    with (
        varserve.connect(scripted.address, sessions=True) as client,
        pytest.raises(varserve.Unavailable),
    ):
        client.run_function("m", "f", {"x": np.zeros(2, np.float32)})
    assert len(scripted.requests["Session"]) == 2


def test_a_session_that_never_answers_is_given_up(scripted: Scripted) -> None:
    """What does not carry such streams costs one call its time; the next ones go alone."""
    leave = threading.Event()

    def silent(requests: list[bytes], context: grpc.ServicerContext) -> list[bytes]:
        assert leave.wait(60)
        return []

    scripted.script["Session"] = [silent]
    scripted.script["ReadVariable"] = [_read_reply()]
    with varserve.connect(scripted.address, sessions=True, retries=0) as client:
        with pytest.raises(varserve.DeadlineExceeded):
            client.read_variable("m", "v", timeout=0.3)
        for _ in range(3):
            assert client.read_variable("m", "v").value.tolist() == [1, 2]
    leave.set()
    assert len(scripted.requests["Session"]) == 1


def test_a_session_that_shuts_down_has_begun_nothing(scripted: Scripted) -> None:
    """A call that a service on its way out left unanswered is made again, whatever it does."""
    scripted.script["Session"] = [fail("SHUTTING_DOWN")]
    scripted.script["ReadVariable"] = [_read_reply()]
    with varserve.connect(scripted.address, sessions=True, retries=0) as client:
        assert client.read_variable("m", "v").value.tolist() == [1, 2]


def test_a_grpc_that_is_made_otherwise_has_no_sessions(
    address: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a session takes of gRPC's insides may go with any release of it: calls go alone then."""
    names = vars(cygrpc).copy()
    for missing in ("SendMessageOperation", "InitialMetadataFlags"):
        there = {name: each for name, each in names.items() if name != missing}
        monkeypatch.setattr(stream, "cygrpc", SimpleNamespace(**there))
        with varserve.connect(address, sessions=True) as client:
            for _ in range(3):
                assert client.read_variable("counter", "v").value.tolist() == [1, 1, 1]
    assert not calls.sessions


def test_an_interrupted_call_is_given_up_alone(address: str, calls: Calls, gate: Gate) -> None:
    """Ctrl-C ends the wait of the main thread, and its call; the session goes on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with varserve.connect(address, sessions=True) as client:
            for _ in range(3):
                gate.reached.clear()
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(KeyboardInterrupt):
                    client.run_function("counter", "held", {}, timeout=60)
                assert client.read_variable("counter", "v").value.tolist() == [1, 1, 1]
            until(lambda: sum(c.method.name == "RunFunction" for c in calls.ended_calls) == 3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    runs = [call.code for call in calls.ended_calls if call.method.name == "RunFunction"]
    assert runs == [grpc.StatusCode.CANCELLED] * 3
    assert len(calls.sessions) == 1


def test_threads_that_give_up_disturb_no_other(address: str, calls: Calls) -> None:
    """Deadlines that pass while calls are sent and answered end those calls alone."""
    rng = random.Random(7)
    with varserve.connect(address, sessions=True, retries=0) as client:
        client.read_variable("counter", "v")

        def work(number: int) -> int:
            late, x = 0, np.full(4, number, np.float32)
            for _ in range(MANY):
                try:
                    client.read_variable("counter", "v", timeout=rng.uniform(1e-5, 2e-3))
                except varserve.DeadlineExceeded:
                    late += 1
                assert client.run_function("counter", "total", {"x": x})["output_0"] == 4 * number
            return late

        with ThreadPoolExecutor(8) as pool:
            late = sum(pool.map(work, range(8)))
    assert late > 0, "no deadline passed"
    assert len(calls.sessions) == 1


def test_a_restart_is_survived() -> None:
    """Calls go on in a new session at the service's successor on the same port."""
    with serve_here(counter()) as address, varserve.connect(address, sessions=True) as client:
        client.read_variable("counter", "v")
    port = int(address.rpartition(":")[2])
    with varserve.connect(address, sessions=True) as client:
        with serve_here(counter(), port=port):
            client.read_variable("counter", "v")
        again = Calls()
        with serve_here(counter(), port=port, observers=[again]):
            for _ in range(3):
                client.read_variable("counter", "v")
            assert len(again.sessions) == 1


POLICY = b"""
rules:
  - {subjects: [ann], verbs: [list, read, assign], models: ["*"], variables: ["*"]}
  - {subjects: [bob], verbs: [list, read], models: ["*"], variables: [v]}
"""


class ByToken(Claimed):
    """The subject is the token."""

    async def subject(self, context: Any) -> str:
        (token,) = (v for k, v in context.invocation_metadata() if k == "authorization")
        return str(token).removeprefix("Bearer ")


def test_a_call_has_the_credential_of_its_moment(calls: Calls) -> None:
    """When the token changes, the next call is that caller's."""
    policy = read_policy(POLICY)
    access = Access(authenticator=ByToken(), policy=lambda: policy)
    token = ["ann"]
    with (
        serve_here(counter(), access=access, observers=[calls]) as address,
        varserve.connect(address, sessions=True, token=lambda: token[0]) as client,
    ):
        client.assign_variable("counter", "v", np.zeros(3, np.float32))
        token[0] = "bob"
        with pytest.raises(varserve.AccessDenied):
            client.assign_variable("counter", "v", np.zeros(3, np.float32))
        client.read_variable("counter", "v")
        token[0] = "ann"
        client.assign_variable("counter", "v", np.zeros(3, np.float32))
    named = [(call.method.name, call.subject) for call in calls.ended_calls]
    assert named == [
        *[("AssignVariable", "ann"), ("AssignVariable", "bob")],
        *[("ReadVariable", "bob"), ("AssignVariable", "ann")],
    ]


def test_a_call_in_a_session_has_its_trace(address: str, calls: Calls) -> None:
    """Each call carries the trace that it is made in; a trace of all calls is theirs, too."""
    first, second = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
    with varserve.connect(address, sessions=True) as client:
        with varserve.trace(f"00-{first}-00f067aa0ba902b7-01"):
            client.read_variable("counter", "v")
        client.read_variable("counter", "v")
    metadata = [("traceparent", f"00-{second}-00f067aa0ba902b7-01")]
    with varserve.connect(address, sessions=True, metadata=metadata) as client:
        client.read_variable("counter", "v")
    assert [call.trace_id for call in calls.ended_calls] == [first, "", second]


def test_large_requests_go_alone(address: str, calls: Calls) -> None:
    """What would hold up others has a call of its own."""
    with varserve.connect(address, sessions=True) as client:
        x = np.ones(sessions.MAX_REQUEST_BYTES // 4 + 1, np.float32)
        client.run_function("counter", "total", {"x": x})
        assert not calls.sessions
        client.run_function("counter", "total", {"x": x[:-100]})
        assert len(calls.sessions) == 1


def test_a_client_that_is_forgotten_leaves_no_thread(address: str, calls: Calls) -> None:
    """A client that nobody closed ends its session when it goes."""
    before = threading.active_count()

    def use() -> None:
        varserve.connect(address, sessions=True).read_variable("counter", "v")

    use()
    gc.collect()
    until(lambda: len(calls.ended_sessions) == 1)
    until(lambda: threading.active_count() <= before)


def test_a_process_ends_with_a_session_open(address: str) -> None:
    """A program that closes nothing ends at once, and without a word."""
    code = (
        "import varserve, numpy as np\n"
        f"client = varserve.connect({address!r}, sessions=True)\n"
        "print(client.read_variable('counter', 'v').value.tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1.0, 1.0, 1.0]\n", "")


@pytest.mark.parametrize("count", [1, 300])
def test_more_calls_than_fit_all_have_answers(address: str, count: int) -> None:
    """So many at once that the service reads the last ones only when there is room."""

    async def main() -> None:
        async with varserve.aio.connect(address, sessions=True) as client:
            reads: list[Callable[[], Any]] = [
                lambda: client.read_variable("counter", "v") for _ in range(count)
            ]
            values = await asyncio.gather(*(read() for read in reads))
            assert all(each.value.tolist() == [1, 1, 1] for each in values)

    asyncio.run(main())
