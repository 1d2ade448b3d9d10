"""A changed policy holds at once, for calls and for watches that are open."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.rpc.requests import tensor
from tests.rpc.roles import alpha, assigned, run_stream
from tests.rpc.running import reason_of, running
from tests.rpc.test_identity import Claimed
from tests.rpc.watched import failure, next_commit
from tests.rpc.wire import ROWS
from varserve.v1 import admin_service_pb2, history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.audit import AuditLog
from varserve_service.access.policy import Policy
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.rpc import Access, Auditing, Server, ServerOptions
from varserve_service.rpc.authorization.guard import Guard
from varserve_service.rpc.calls import call as call_module
from varserve_service.rpc.calls.call import Context, RpcCall
from varserve_service.rpc.calls.observers import Observers
from varserve_service.rpc.calls.permissions import CallerPermissions

ANN, BOB = (("name", "ann"),), (("name", "bob"),)


def policy(*verbs: str, variables: str = "*") -> Policy:
    """Ann may do this; Bob may write."""
    of = f"models: ['*'], variables: ['{variables}']"
    if "run" in verbs:
        of += ", functions: ['*']"
    rule = f"{{subjects: [ann], verbs: [{', '.join(verbs)}], {of}}}"
    bob = "{subjects: [bob], verbs: [assign], models: ['*'], variables: ['*']}"
    return read_policy(f"rules: [{rule}, {bob}]".encode())


def write(variable: str) -> pb.AssignVariableRequest:
    return pb.AssignVariableRequest(model="alpha", variable=variable, value=tensor())


@pytest.mark.parametrize(
    ("values", "later", "goes_on"),
    [
        (False, policy("watch"), True),
        (False, policy("watch", variables="head/*"), False),
        (False, policy("read"), False),
        (True, policy("read", "watch"), True),
        (True, policy("watch"), False),
    ],
)
async def test_a_watch_ends_with_its_permission(values: bool, later: Policy, goes_on: bool) -> None:
    """A watch that the policy does not allow any more sends nothing more, and tells why."""
    now = [policy("read", "watch")]
    access = Access(authenticator=Claimed(), policy=lambda: now[0])
    async with running(alpha(), access=access) as found:
        request = history_pb2.WatchVariablesRequest(model="alpha", values=values)
        stream = found.stub.WatchVariables(request, metadata=ANN)
        assert not (await stream.read()).HasField("commit")
        await found.stub.AssignVariable(write("secret"), metadata=BOB)
        assert (await next_commit(stream)).commit.subject == "bob"
        now[0] = later
        await found.stub.AssignVariable(write("secret"), metadata=BOB)
        if goes_on:
            assert (await next_commit(stream)).commit.revision == 2
            stream.cancel()
        else:
            assert (await failure(stream)).reason == "PERMISSION_DENIED"


async def to_its_end(stream: Any) -> None:
    while True:
        await stream.read()


class Lapsing(Claimed):
    """Accepts the name that a caller claims, while that is allowed."""

    holds = True
    named = ""

    async def subject(self, context: Context) -> str:
        if not self.holds:
            raise RequestError(Reason.UNAUTHENTICATED, "the token has expired")
        return self.named or await super().subject(context)


@pytest.mark.parametrize("anew", [{"holds": False}, {"named": "bob"}])
@pytest.mark.parametrize("idle", [False, True])
async def test_a_watch_ends_with_the_credential_that_it_began_with(
    anew: dict[str, Any], idle: bool
) -> None:
    """One that has expired, was withdrawn or is another's by now: with a commit or without one."""
    who = Lapsing()
    async with running(alpha(), access=Access(authenticator=who), bookmark_seconds=0.05) as found:
        stream = found.stub.WatchVariables(
            history_pb2.WatchVariablesRequest(model="alpha"), metadata=ANN
        )
        await stream.read()
        await found.stub.AssignVariable(write("secret"), metadata=BOB)
        assert (await next_commit(stream)).commit.subject == "bob"
        vars(who).update(anew)
        if not idle:
            found.server._models.find("alpha").revert(0)
        async with asyncio.timeout(20):
            assert (await failure(to_its_end(stream))).reason == "UNAUTHENTICATED"
        who.holds, who.named = True, ""


@pytest.mark.parametrize("method", ["AssignVariables", "StreamRunFunction"])
@pytest.mark.parametrize("change", ["policy", "credential", "nothing"])
async def test_an_upload_is_judged_again_before_its_commit(method: str, change: str) -> None:
    """One that began when it was allowed changes nothing when it is not allowed any more."""
    now, who = [policy("assign", "run")], Lapsing()
    access = Access(authenticator=who, policy=lambda: now[0])
    async with running(alpha(), access=access) as found:
        first, body = assigned("alpha", "secret")
        if method == "StreamRunFunction":
            first, body = run_stream("alpha", "both")
        stream = getattr(found.stub, method)(metadata=ANN)
        await stream.write(first)
        await stream.initial_metadata()  # the manifest was accepted
        if change == "policy":
            now[0] = policy("assign", variables="head/*")
        elif change == "credential":
            who.holds = False
        await stream.write(body)
        await stream.done_writing()
        ending = stream.read() if method == "StreamRunFunction" else stream
        expected = {"policy": "PERMISSION_DENIED", "credential": "UNAUTHENTICATED"}
        assert await reason_of(ending) == expected.get(change, "OK")
        header = found.server._models.find("alpha").header
        assert header.revision == (1 if change == "nothing" else 0)
        stream.cancel()


async def test_a_download_ends_with_its_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not allowed any more is not sent any more, in the middle of a value."""
    monkeypatch.setattr(call_module, "_RECHECK_SECONDS", 0.0)
    now = [policy("read")]
    access = Access(authenticator=Claimed(), policy=lambda: now[0])
    big = FakeVariable("big", np.zeros(64 * 2**20, np.uint8))
    live = LiveModel(FakeModel([big], [], name="alpha"))
    async with running(live, access=access) as found:
        request = pb.ReadVariablesRequest(model="alpha", reads=[{"variable": "big"}])
        stream = found.stub.ReadVariables(request, metadata=ANN)
        await stream.read()
        now[0] = policy("summarize")
        assert (await failure(to_its_end(stream))).reason == "PERMISSION_DENIED"


async def test_the_next_call_is_by_the_new_policy() -> None:
    """Also a read that was answered before, and is answered without running anything."""
    now = [policy("read")]
    access = Access(authenticator=Claimed(), policy=lambda: now[0])
    async with running(alpha(), access=access) as found:
        request = pb.ReadVariableRequest(model="alpha", variable="secret")
        for _ in range(3):
            assert await reason_of(found.stub.ReadVariable(request, metadata=ANN)) == "OK"
        now[0] = policy("summarize")
        assert (
            await reason_of(found.stub.ReadVariable(request, metadata=ANN)) == "PERMISSION_DENIED"
        )
        now[0] = policy("read")
        assert await reason_of(found.stub.ReadVariable(request, metadata=ANN)) == "OK"


def test_a_model_that_is_replaced_between_decision_and_call() -> None:
    """A call that was judged for one version of a model is not given another."""
    judged, other = alpha(), alpha()
    call = RpcCall(ROWS["ReadVariable"].method, Observers([]))
    everybody = read_policy(
        b"rules: [{subjects: ['*'], verbs: [read], models: ['*'], variables: ['*']}]"
    )
    request = pb.ReadVariableRequest(model="alpha", variable="secret")
    permissions = CallerPermissions.of(lambda: everybody, "ann")
    decision = Guard(Models([judged])).decide(
        ROWS["ReadVariable"].requirements(request), permissions
    )
    call.authorized_model = decision.model
    call.check_model(judged)
    with pytest.raises(RequestError, match="replaced at this moment") as caught:
        call.check_model(other)
    assert caught.value.reason is Reason.MODEL_NOT_READY


async def test_administration_leaves_lines(tmp_path: Path) -> None:
    """AdminService is for who has the verb, and each of its changes is told of."""
    rules = read_policy(b"rules: [{subjects: [ann], verbs: [admin], models: ['a*']}]")
    audit = tmp_path / "audit"
    access = Access(
        authenticator=Claimed(), policy=lambda: rules, auditing=Auditing(AuditLog(audit))
    )
    server = Server(Models([alpha()]), ServerOptions(port=0), access)
    fake = SimpleNamespace(versions=lambda model: [], unload=lambda *asked: [])
    server.administer(fake)  # type: ignore[arg-type]
    await server.start()
    try:
        assert server.admin_address is not None
        async with grpc.aio.insecure_channel(server.admin_address) as channel:

            def call(method: str, request: Any, who: Any) -> Any:
                path = f"/varserve.v1.AdminService/{method}"
                return channel.unary_unary(path)(request.SerializeToString(), metadata=who)

            unload, versions = (
                admin_service_pb2.UnloadModelRequest(model=name) for name in ("alpha", "beta")
            )
            assert await reason_of(call("UnloadModel", unload, ANN)) == "OK"
            assert await reason_of(call("UnloadModel", unload, BOB)) == "PERMISSION_DENIED"
            assert await reason_of(call("UnloadModel", versions, ANN)) == "PERMISSION_DENIED"
            listing = admin_service_pb2.ListVersionsRequest(model="alpha")
            assert await reason_of(call("ListVersions", listing, ANN)) == "OK"
            assert await reason_of(call("ListVersions", listing, BOB)) == "PERMISSION_DENIED"
            everything = admin_service_pb2.ListVersionsRequest()
            assert await reason_of(call("ListVersions", everything, ANN)) == "OK"
            assert await reason_of(call("ListVersions", everything, BOB)) == "PERMISSION_DENIED"
    finally:
        await server.stop(5)
    told = [
        (line["outcome"], line["subject"], line["method"], line["model"])
        for line in map(json.loads, audit.read_text().splitlines())
    ]
    assert told == [
        ("OK", "ann", "UnloadModel", "alpha"),
        ("PERMISSION_DENIED", "bob", "UnloadModel", "alpha"),
        ("PERMISSION_DENIED", "ann", "UnloadModel", "beta"),
        ("PERMISSION_DENIED", "bob", "ListVersions", "alpha"),
        ("PERMISSION_DENIED", "bob", "ListVersions", ""),
    ]
