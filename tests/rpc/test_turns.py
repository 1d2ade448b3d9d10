"""Callers that wait for the same thing take turns: nobody waits for all that another one has."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeFunction, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.session_wire import in_session
from tests.rpc.test_identity import Claimed
from tests.serving import serve_here
from tests.waiting import join, until
from varserve import tensors
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import Access, BatchOptions
from varserve_service.rpc.calls.observers import CallObserver
from varserve_service.rpc.serving.turns import Turns
from varserve_service.rpc.serving.workers import Turn, Workers

BOUND = 30
SUBJECTS = Access(authenticator=Claimed())


class Steps:
    """Work of which a piece is done each time that it is allowed."""

    def __init__(self) -> None:
        self.begun = 0
        self._allowed = threading.Semaphore(0)

    def __call__(self) -> dict[str, Any]:
        self.begun += 1
        assert self._allowed.acquire(timeout=60)
        return {"y": np.float32(1)}

    def allow(self, count: int) -> None:
        self._allowed.release(count)


class Started(CallObserver):
    """Counts the calls of each method that have begun."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def started(self, call: Any) -> None:
        name = call.method.name
        self.counts[name] = self.counts.get(name, 0) + 1


def test_turns_go_round() -> None:
    """Each caller has one turn in a round, in its own order."""
    turns: Turns[str] = Turns()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(item[0], item)
    assert [len(turns), turns.waiting("a"), turns.waiting("d"), turns.before("d")] == [6, 3, 0, 3]
    assert [turns.take() for _ in range(4)] == ["a1", "b1", "c1", "a2"]
    for item in ("d1", "c2"):
        turns.add(item[0], item)
    assert [turns.take() for _ in range(4)] == ["b2", "a3", "d1", "c2"]
    assert not turns
    with pytest.raises(IndexError):
        turns.take()


@pytest.mark.parametrize("waiting", [0, 3])
def test_callers_that_come_once_are_forgotten(waiting: int) -> None:
    """Of a hundred thousand a few are remembered, also while the queue is never empty."""
    turns: Turns[int] = Turns()
    for n in range(100_000):
        turns.add(n, n)
        if len(turns) > waiting:
            assert turns.take() == n - waiting
    assert len(turns._last) < 100
    assert turns.before(7) <= waiting


def test_threads_take_while_others_are_given_up(quick_switches: None) -> None:
    """Every item is taken by one thread, or given up, and never both."""
    turns: Turns[int] = Turns()
    taken: list[list[int]] = [[] for _ in range(4)]
    ended = threading.Event()

    def take(mine: list[int]) -> None:
        while turns or not ended.is_set():
            with suppress(IndexError):
                mine.append(turns.take())

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    given_up = []
    for n in range(20_000):
        turns.add("ann" if n % 7 else n, n)
        if n % 3 == 0 and (item := turns.give_up("bob")) is not None:
            given_up.append(item)
    ended.set()
    join(threads)
    assert sorted([*given_up, *itertools.chain(*taken)]) == list(range(20_000))
    assert given_up


@pytest.mark.parametrize("named", [True, False], ids=["subjects", "connections without a name"])
def test_a_write_waits_for_few_calls_of_others(named: bool) -> None:
    """One caller has thousands of calls in sessions, hundreds of which wait for the only thread:
    another one's write is done after two of them at most.
    """
    steps, gate, started = Steps(), Gate(), Started()
    functions = (FakeFunction("step", steps), FakeFunction("held", lambda: gate() or {}))
    run = requests.run(function="step", inputs={}).SerializeToString()
    access = {"access": SUBJECTS} if named else {}
    who = ({"name": "ann"}, {"name": "bob"}) if named else ({}, {})
    with (
        serve_here(
            counter(functions=functions), threads_per_model=1, observers=[started], **access
        ) as address,
        in_session(address, **who[0]) as ann,
        in_session(address, **who[1]) as bob,
    ):
        for _ in range(3):
            ann.send(*[ann.call("RunFunction", run) for _ in range(1000)])
        until(lambda: started.counts.get("RunFunction", 0) >= 200 and steps.begun == 1)
        write = bob.begin("AssignVariable", requests.assign())
        until(lambda: "AssignVariable" in started.counts)
        bob.ask("RenewLease", requests.renew(9))  # so the write has come to the queue
        before = steps.begun
        steps.allow(2)
        outcome = bob.answer(write, BOUND)
        assert outcome is not None
        assert outcome.code is grpc.StatusCode.OK
        assert steps.begun <= before + 2
        steps.allow(10_000)


async def filled(workers: Workers, key: str, count: int) -> list[asyncio.Future[Any]]:
    """Calls of one caller that wait, or run."""
    calls = [
        asyncio.ensure_future(workers.run(lambda n=n: n, Turn(None, key))) for n in range(count)
    ]
    await asyncio.sleep(0)
    return calls


def reason_of(call: asyncio.Future[Any]) -> Reason | None:
    error = call.exception() if call.done() else None
    assert error is None or isinstance(error, RequestError)
    return None if error is None else error.reason


async def test_a_full_queue_has_room_for_who_has_less() -> None:
    """The last calls of who has most are refused in its place, until all have as many."""
    gate, workers = Gate(), Workers("m", 1, 9)
    running = asyncio.ensure_future(workers.run(gate, Turn(None, "ann")))
    await asyncio.to_thread(gate.reached.wait, BOUND)
    ann = await filled(workers, "ann", 9)
    bob = await filled(workers, "bob", 9)
    await asyncio.sleep(0)
    refused = Reason.TOO_MANY_REQUESTS
    assert [reason_of(call) for call in ann] == [None] * 4 + [refused] * 5
    assert [reason_of(call) for call in bob] == [None] * 4 + [refused] * 5
    (new,) = await filled(workers, "eve", 1)
    await asyncio.sleep(0)
    assert reason_of(new) is None
    assert [reason_of(call) for call in (ann[3], bob[3])].count(refused) == 1
    assert workers.pending == 9
    gate.opened.set()
    async with asyncio.timeout(BOUND):
        await asyncio.gather(running, *ann, *bob, new, return_exceptions=True)
    assert workers.pending == 0
    workers.close()


async def test_a_turn_that_comes_soon_is_no_reason_to_refuse() -> None:
    """A call is refused for its deadline by its own turn, and not by what others have queued."""
    gate, workers = Gate(), Workers("m", 1, 1000)
    workers._shedder.took(10)  # seconds that a turn takes, on average 1
    running = asyncio.ensure_future(workers.run(gate, Turn(None, "ann")))
    await asyncio.to_thread(gate.reached.wait, BOUND)
    ann = await filled(workers, "ann", 500)
    deadline = asyncio.get_running_loop().time() + 100
    bob = asyncio.ensure_future(workers.run(lambda: 7, Turn(deadline, "bob")))
    late = asyncio.ensure_future(workers.run(lambda: 7, Turn(deadline, "ann")))
    await asyncio.sleep(0)
    assert reason_of(bob) is None
    assert reason_of(late) is Reason.TOO_MANY_REQUESTS
    gate.opened.set()
    async with asyncio.timeout(BOUND):
        assert await bob == 7
        await asyncio.gather(running, *ann)
    workers.close()


ROWS = TensorSpec("float32", (None,))


def batched(call: Callable[..., dict[str, Any]]) -> Any:
    """A model whose function gives its input."""
    function = FakeFunction("f", call, inputs={"x": ROWS}, outputs={"y": ROWS})
    return counter(functions=(function,))


def row(value: float) -> pb.RunFunctionRequest:
    x = tensors.to_tensor(np.array([value], np.float32))
    return pb.RunFunctionRequest(model="counter", function="f", inputs={"x": x})


def test_a_batch_has_a_call_of_each_caller() -> None:
    """A row of one caller is in the next batch, however many of another's wait, also beyond what
    may wait: then the other's last one is refused.
    """
    gate, batches = Gate(), list[list[float]]()

    def run(x: Any) -> dict[str, Any]:
        batches.append(x.tolist())
        gate()
        return {"y": x}

    started = Started()
    options = BatchOptions(max_rows=4, max_waiting_rows=40)
    with (
        serve_here(
            batched(run), access=SUBJECTS, batching={("counter", "f"): options}, observers=[started]
        ) as address,
        in_session(address, name="ann") as ann,
        in_session(address, name="bob") as bob,
    ):
        first = ann.begin("RunFunction", row(0))
        assert gate.reached.wait(BOUND)
        calls = [ann.begin("RunFunction", row(n)) for n in range(1, 41)]
        until(lambda: started.counts["RunFunction"] == 41)
        mine = bob.begin("RunFunction", row(100))
        last = ann.answer(calls[-1], BOUND)
        assert last is not None
        assert last.reason == "TOO_MANY_REQUESTS"
        gate.opened.set()
        for ident, wire in ((first, ann), (mine, bob), *((call, ann) for call in calls[:-1])):
            outcome = wire.answer(ident, BOUND)
            assert outcome is not None
            assert outcome.code is grpc.StatusCode.OK
    assert 100 in batches[1]
    assert sum(map(len, batches)) == 41
