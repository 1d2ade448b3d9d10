"""A lane that fails in the middle of a value: the value is read or written all the same."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.client.test_lane import MIB, bits
from tests.client.test_lane_port import serving as serving_port
from tests.fakes import FakeVariable
from varserve import lane
from varserve._client.transport import lane as client_lane
from varserve_service.rpc.lane import port as lane_port
from varserve_service.rpc.lane import socket as lane_socket

from .test_lane import serving as serving_socket

COUNT = 5 * MIB // 4
VALUE = bits("float32", COUNT)
OTHER = np.arange(COUNT, dtype=np.float32)


@pytest.fixture(autouse=True)
def usable() -> Iterator[None]:
    client_lane._unusable.clear()
    yield
    client_lane._unusable.clear()


def _patched(monkeypatch: pytest.MonkeyPatch, module: Any, **functions: Any) -> None:
    """Let the service's side alone see other functions of the lane."""
    monkeypatch.setattr(module, "lane", SimpleNamespace(**vars(lane) | functions))


def _after(pieces: int, then: Callable[..., None], first: Callable[..., None]) -> Any:
    """`first` for so many pieces, and `then` for those that follow."""
    count = 0

    def act(peer: socket.socket, piece: memoryview) -> None:
        nonlocal count
        count += 1
        (first if count <= pieces else then)(peer, piece)

    return act


def _breaks(peer: socket.socket, piece: memoryview) -> None:
    raise ConnectionResetError("the connection breaks here")


def _damaged(peer: socket.socket, piece: memoryview) -> None:
    peer.sendall(bytes(4) + piece)


@contextmanager
def _port(monkeypatch: pytest.MonkeyPatch, fault: str, variable: FakeVariable) -> Iterator[str]:
    sends = {"breaks": _breaks, "damaged": _damaged}[fault]
    _patched(
        monkeypatch,
        lane_port,
        send_piece=_after(3, sends, lane.send_piece),
        receive_piece=_after(3, _breaks, lane.receive_piece),
    )
    with serving_port(variable) as (address, _):
        yield address


@contextmanager
def _socket(
    monkeypatch: pytest.MonkeyPatch, fault: str, variable: FakeVariable, path: str
) -> Iterator[str]:
    if fault == "refuses":

        def check_sealed(fd: int, size: int) -> None:
            raise lane.LaneError("this one is not taken")

        _patched(monkeypatch, lane_socket, check_sealed=check_sealed)
        monkeypatch.setattr(client_lane, "_mapped", _not_mapped)
    else:
        monkeypatch.setattr(lane_socket.Lane, "_give", _hangs_up)
        monkeypatch.setattr(lane_socket.Lane, "_take", _hangs_up)
    with serving_socket(path, variable) as found:
        yield found.address


async def _hangs_up(self: Any, peer: socket.socket, *rest: Any) -> None:
    raise ConnectionResetError("the service hangs up")


def _not_mapped(*arguments: Any) -> Any:
    raise OSError("this process has no room to map it")


FAULTS = ["port breaks", "port damaged", "socket refuses", "socket hangs up"]


@pytest.fixture
def variable() -> FakeVariable:
    return FakeVariable("big", VALUE.copy())


@pytest.fixture
def address(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    variable: FakeVariable,
    tmp_path: Any,
) -> Iterator[str]:
    kind, _, fault = request.param.partition(" ")
    path = str(tmp_path / "lane")
    found = (
        _port(monkeypatch, fault, variable)
        if kind == "port"
        else _socket(monkeypatch, fault, variable, path)
    )
    with found as address:
        yield address


@pytest.mark.parametrize("address", FAULTS, indirect=True)
def test_a_read_comes_through_grpc(address: str) -> None:
    """Whole, and the lane is not tried again at once."""
    with varserve.connect(address) as client:
        handle = client.model("counter").variables["big"]
        out = np.zeros(COUNT, np.float32)
        assert handle.numpy(out=out) is out
        assert out.tobytes() == VALUE.tobytes()
        assert client_lane._unusable
        assert handle.numpy().tobytes() == VALUE.tobytes()


@pytest.mark.parametrize("address", FAULTS, indirect=True)
def test_an_assign_goes_through_grpc(address: str, variable: FakeVariable) -> None:
    """Once, as one commit."""
    with varserve.connect(address) as client:
        handle = client.model("counter").variables["big"]
        assert handle.assign(OTHER).revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == OTHER.tobytes()
        assert handle.assign(VALUE).revision == 2


@pytest.mark.parametrize("address", FAULTS, indirect=True)
async def test_the_same_with_await(address: str, variable: FakeVariable) -> None:
    """Read and assigned."""
    async with varserve.aio.connect(address) as client:
        handle = (await client.model("counter")).variables["big"]
        assert (await handle.numpy()).tobytes() == VALUE.tobytes()
        client_lane._unusable.clear()
        await handle.assign(OTHER)
        assert variable.array is not None
        assert variable.array.tobytes() == OTHER.tobytes()


@pytest.mark.parametrize("address", FAULTS, indirect=True)
def test_an_event_has_its_value(address: str) -> None:
    """One that fits into no message is read, whichever way is left."""
    with (
        varserve.connect(address) as client,
        varserve.connect(address, lane=False) as writer,
        client.model("counter").watch("big") as watch,
    ):
        writer.model("counter").variables["big"].assign(OTHER)
        assert next(watch)["big"].value.tobytes() == OTHER.tobytes()
        assert client_lane._unusable
