"""Limits by verb and by subject: who is let in, who is refused, and that nobody else is."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

import varserve
from tests.fakes import FakeVariable, Gate
from tests.rpc.models import counter
from tests.rpc.requests import chunk, entry, header, manifest, read
from tests.rpc.running import SERVING, WAIT, gated, passed, reason_of, running
from tests.rpc.test_identity import Claimed, connect
from tests.rpc.wire import ROWS
from tests.serving import serve_here
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import Access, Limit
from varserve_service.rpc.calls.admission import DEFAULT_CALLS, Admission

STAGING = 1000


def refusal(admission: Admission, method: str, subject: str = "") -> str | None:
    """The message that a call is refused with; None when it is let in."""
    try:
        with admission.admit(ROWS[method].method, subject):
            return None
    except RequestError as error:
        return error.message if error.reason is Reason.TOO_MANY_REQUESTS else error.reason.value


def staging(admission: Admission, method: str, nbytes: int, subject: str = "") -> str:
    """The reason that a body is refused for; OK when it is let in."""
    try:
        method_ = ROWS[method].method
        with admission.admit(method_, subject), admission.stage(method_, subject, nbytes):
            return "OK"
    except RequestError as error:
        return error.reason.value


def test_every_verb_has_a_default() -> None:
    """A new verb is not forgotten."""
    assert set(DEFAULT_CALLS) == set(Verb)


def test_calls_of_a_verb() -> None:
    """As many as the limit are let in, one more is not, and others are when one is over."""
    admission = Admission({"read": Limit(calls=3)}, STAGING)
    with ExitStack() as three:
        for _ in range(3):
            three.enter_context(admission.admit(ROWS["ReadVariable"].method, ""))
        assert refusal(admission, "ReadVariables") == (
            "3 calls to read are in progress; expected at most 3; retry later"
        )
        assert refusal(admission, "AssignVariable") is None
    assert refusal(admission, "ReadVariables") is None


def test_calls_of_a_subject() -> None:
    """One subject's calls leave room for those of others, by default half of it."""
    admission = Admission(
        {"read": Limit(calls=4), "run": Limit(calls=9, calls_per_subject=1)}, STAGING
    )
    with ExitStack() as calls:
        for _ in range(2):
            calls.enter_context(admission.admit(ROWS["ReadVariable"].method, "ann"))
        calls.enter_context(admission.admit(ROWS["RunFunction"].method, "ann"))
        assert refusal(admission, "ReadVariable", "ann") == (
            "2 calls of 'ann' to read are in progress; expected at most 2; retry later"
        )
        assert refusal(admission, "RunFunction", "ann") is not None
        assert refusal(admission, "ReadVariable", "bob") is None
        assert refusal(admission, "RunFunction", "bob") is None
        assert refusal(admission, "ReadVariable", "") is None
    assert refusal(admission, "ReadVariable", "ann") is None


def test_subjects_that_have_gone_leave_nothing() -> None:
    """However many subjects come, only those with calls in progress are known."""
    admission = Admission({}, STAGING)
    for n in range(1000):
        assert refusal(admission, "ReadVariable", f"subject{n}") is None
    assert admission._subjects == {}
    assert [admission.calls(verb) for verb in Verb] == [0] * len(Verb)


@pytest.mark.parametrize(("nbytes", "reason"), [(399, "OK"), (400, "OK"), (401, "VALUE_TOO_LARGE")])
def test_bytes_of_a_body(nbytes: int, reason: str) -> None:
    """A body that can never fit is told so; one of the limit fits."""
    for limit in (Limit(nbytes=400, nbytes_per_subject=900), Limit(nbytes_per_subject=400)):
        admission = Admission({"assign": limit}, STAGING)
        assert staging(admission, "AssignVariables", nbytes, "ann") == reason
    assert staging(Admission({}, 400), "AssignVariables", nbytes) == reason


def test_bytes_of_bodies_at_once() -> None:
    """Bodies of a verb, of a subject and of all together fit beside each other, or wait."""
    admission = Admission({"assign": Limit(nbytes=600, nbytes_per_subject=400)}, STAGING)
    with (
        admission.admit(ROWS["AssignVariables"].method, "ann"),
        admission.stage(ROWS["AssignVariables"].method, "ann", 300),
    ):
        assert staging(admission, "AssignVariables", 100, "ann") == "OK"
        assert staging(admission, "AssignVariables", 101, "ann") == "TOO_MANY_REQUESTS"
        assert staging(admission, "AssignVariables", 300, "bob") == "OK"
        assert staging(admission, "AssignVariables", 301, "bob") == "TOO_MANY_REQUESTS"
        assert staging(admission, "StreamRunFunction", 500, "ann") == "OK"
        assert staging(admission, "StreamRunFunction", 700) == "OK"
        assert staging(admission, "StreamRunFunction", 701) == "TOO_MANY_REQUESTS"
    assert admission.staged == 0


def test_a_lease_is_renewed_whatever_is_in_progress() -> None:
    """No limit makes a lease end while its owner renews it."""
    admission = Admission({"assign": Limit(calls=1)}, STAGING)
    with admission.admit(ROWS["AssignVariable"].method, "ann"):
        assert refusal(admission, "AssignVariable", "bob") is not None
        assert refusal(admission, "RenewLease", "ann") is None


async def test_a_verb_that_is_full_refuses_its_own_calls_alone() -> None:
    """Beside as many runs as may be, a run is refused; reads and health are answered."""
    gate = Gate()
    async with running(counter(functions=(gated(gate),)), limits={"run": Limit(calls=1)}) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        assert await reason_of(found.stub.RunFunction(WAIT)) == "TOO_MANY_REQUESTS"
        assert await reason_of(found.stub.ReadVariable(read())) == "OK"
        assert await found.status("") == SERVING
        gate.opened.set()
        await call
        assert await reason_of(found.stub.RunFunction(WAIT)) == "OK"


async def test_bytes_of_a_verb_are_given_back() -> None:
    """What a body held, is there for the next one."""
    free = FakeVariable("free", np.zeros(1, np.uint8), shape=(None,))
    claim = entry(variable="free", tensor=header(dtype=4, shape=[1000], byte_length=1000))
    body = [manifest(claim), chunk(0, bytes(1000))]
    limits = {"assign": Limit(nbytes=1000)}
    async with running(counter(free), limits=limits) as found:
        for _ in range(3):
            assert await reason_of(found.stub.AssignVariables(iter(body))) == "OK"
        assert found.server._admission.staged == 0


def test_a_subject_that_takes_its_share_leaves_room_for_others() -> None:
    """One caller's runs fill its own share, and another caller's are let in beside them."""
    gate = Gate()
    limits = {"run": Limit(calls=3, calls_per_subject=1)}
    with (
        serve_here(
            counter(functions=(gated(gate),)), access=Access(authenticator=Claimed()), limits=limits
        ) as address,
        connect(address, "ann") as ann,
        connect(address, "bob") as bob,
        ThreadPoolExecutor(2) as threads,
    ):
        first = threads.submit(ann.stream_run_function, "counter", "wait", {})
        assert gate.reached.wait(30)
        with pytest.raises(varserve.TooManyRequests, match="of 'ann' to run"):
            ann.stream_run_function("counter", "wait", {})
        second = threads.submit(bob.stream_run_function, "counter", "wait", {})
        gate.opened.set()
        assert len(first.result(30)) == len(second.result(30)) == 1
