"""The lane: which values are lent, to whom it is told, and how that counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.fakes import FakeVariable
from tests.rpc.lane_peer import (
    MIB,
    big,
    connected,
    read_ticket,
    request,
    upload_of,
)
from tests.rpc.models import counter, strings
from tests.rpc.running import running
from tests.rpc.test_identity import Claimed
from tests.waiting import until_async
from varserve import lane
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.rpc import Access

ANN = (("name", "ann"),)


async def test_what_a_client_keeps_counts_for_its_subject(path: str) -> None:
    """Beyond its share values are sent, until it lets go; others have a share of their own."""
    memory = MemoryBudget("host", lambda: Room(100 * MIB, 6 * MIB))
    access = Access(authenticator=Claimed())
    async with running(
        counter(big(), host_memory=memory), lane_socket=path, access=access
    ) as found:
        call, first = await read_ticket(found, metadata=ANN)
        with connected(path) as peer:
            _, fds = await peer.show(first.lane.ticket)
            assert await call.read() is grpc.aio.EOF
            assert memory.holdings.held_by("ann") == 2 * MIB
            call, second = await read_ticket(found, metadata=ANN)
            assert not second.HasField("lane")
            call.cancel()
            call, third = await read_ticket(found, metadata=(("name", "bob"),))
            assert third.HasField("lane")
            call.cancel()
            os.close(fds[0])
        await until_async(lambda: memory.holdings.held_by("ann") == 0)


async def test_what_another_process_has_mapped_is_not_waited_for(path: str) -> None:
    """It cannot be given up: a call that finds no memory is told so at once."""
    memory = MemoryBudget("host", lambda: Room(0, 100 * MIB))
    holding = memory.holdings.hold("ann", 50 * MIB, "a mapping", None)
    holding.touched_at -= 100
    assert list(memory.holdings.relief()) == []


async def test_values_without_memory_for_a_copy_are_sent(path: str) -> None:
    """A copy that finds no memory is not made."""
    memory = MemoryBudget("host", lambda: Room(MIB, 100 * MIB))
    async with running(counter(big(8 * MIB), host_memory=memory), lane_socket=path) as found:
        call, first = await read_ticket(found)
        assert not first.HasField("lane")
        assert memory.holdings.held_by("") == 0
        call.cancel()


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (("words",), {}),
        (("big", "words"), {}),
        (("few",), {}),
        (("big",), {"lane": False}),
    ],
)
async def test_what_is_better_sent_is_sent(
    path: str, names: tuple[str, ...], fields: dict[str, Any]
) -> None:
    """Strings, few bytes, and values for a client that did not ask."""
    words = FakeVariable("words", strings(b"a", b"b" * MIB))
    async with running(counter(big(), big(100, "few"), words), lane_socket=path) as found:
        call, first = await read_ticket(found, request(*names, **fields))
        assert not first.HasField("lane")
        assert (await call.read()).HasField("chunk")
        call.cancel()


async def test_the_lane_is_told_to_callers_of_this_host_alone(path: str) -> None:
    """By GetModel; a service without one tells of none, and gives no ticket."""
    async with running(counter(big()), lane_socket=path) as found:
        limits = (await found.stub.GetModel(pb.GetModelRequest(model="counter"))).limits
        assert limits.lane_socket == path
    assert not Path(path).exists()
    async with running(counter(big())) as found:
        limits = (await found.stub.GetModel(pb.GetModelRequest(model="counter"))).limits
        assert limits.lane_socket == ""
        _, first = await read_ticket(found)
        assert not first.HasField("lane")
        call = found.stub.AssignVariables()
        await call.write(upload_of(2 * MIB))
        assert lane.TICKET_KEY not in dict(await call.initial_metadata())
        call.cancel()


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("unix:/run/varserve", True),
        ("unix:", True),
        ("ipv4:127.0.0.1:5", True),
        ("ipv6:%5B::1%5D:5", True),
        ("ipv4:12.7.0.1:5", False),
        ("ipv6:%5B::12%5D:5", False),
        ("ipv4:10.0.0.1:127", False),
        ("", False),
    ],
)
def test_who_is_local(peer: str, local: bool) -> None:
    """Unix sockets and loopback."""
    from varserve_service.rpc.calls.call import RpcCall

    class Call(RpcCall):
        @property
        def peer(self) -> str:
            return peer

    assert Call.is_local.fget(Call.__new__(Call)) is local  # type: ignore[attr-defined]
