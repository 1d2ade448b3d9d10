"""The client at the lane's port: the same values, beside gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.client.test_lane import DTYPES, bits
from tests.fakes import FakeVariable
from tests.rpc.certified import Place
from tests.rpc.models import counter, strings
from tests.serving import serve_here
from varserve import lane, tensors
from varserve._client.transport import lane as client_lane
from varserve._client.transport.bodies import reporting
from varserve._client.transport.targets import single_host
from varserve_service.rpc import Access, CallerAuthenticator, Server

MIB = 2**20


@pytest.fixture(autouse=True)
def usable() -> Iterator[None]:
    client_lane._unusable.clear()
    yield
    client_lane._unusable.clear()


@contextmanager
def serving(*variables: FakeVariable, **options: Any) -> Iterator[tuple[str, Server]]:
    servers: list[Server] = []
    given = {"lane_port": 0} | options
    with serve_here(counter(*variables), prepare=servers.append, **given) as address:
        yield address, servers[0]


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which lane each body went by."""
    ways: list[str] = []
    for name in ("receive", "offer"):
        own = getattr(client_lane.PortLane, name)

        def went(self: Any, *args: Any, name: str = name, own: Any = own) -> Any:
            ways.append(name)
            return own(self, *args)

        monkeypatch.setattr(client_lane.PortLane, name, went)
    return ways


@pytest.mark.parametrize("dtype", [*DTYPES, "string"])
def test_values_are_the_same_to_the_last_bit(dtype: str, gone: list[str]) -> None:
    """Of every dtype, strings too: read, and assigned."""
    if dtype == "string":
        value, other = strings(b"a" * 3 * MIB, b"", b"\0" * 2 * MIB), strings(b"", b"b" * MIB, b"c")
    else:
        value = bits(dtype, 2 * MIB // tensors.numpy_dtype(dtype).itemsize + 1)
        other = value[::-1].copy()
    variable = FakeVariable("big", value.copy(), shape=value.shape)
    with serving(variable) as (address, server), varserve.connect(address) as client:
        handle = client.model("counter").variables["big"]
        read = handle.numpy()
        if dtype == "string":
            assert read.tolist() == value.tolist()
        else:
            assert read.tobytes() == value.tobytes()
        handle.assign(other)
        assert variable.array is not None
        if dtype == "string":
            assert variable.array.tolist() == other.tolist()
        else:
            assert variable.array.tobytes() == other.tobytes()
        assert gone == ["receive", "offer"]
        assert not server._backend.port.refusals  # type: ignore[union-attr]


async def test_the_asyncio_client_goes_the_same_way(gone: list[str]) -> None:
    """Without holding up its event loop."""
    variable = FakeVariable("big", bits("float32", MIB))
    with serving(variable) as (address, _):
        async with varserve.aio.connect(address) as client:
            handle = (await client.model("counter")).variables["big"]
            await handle.assign(np.full(MIB, 5, np.float32))
            out = np.empty(MIB, np.float32)
            assert await handle.numpy(out=out) is out
            assert (out == 5).all()
    assert gone == ["offer", "receive"]


def test_many_variables_go_together(gone: list[str]) -> None:
    """Small, large and empty ones, as one snapshot and one commit."""
    values = {f"v{n}": bits("uint8", size) for n, size in enumerate([3 * MIB, 10, MIB, 0, 77])}
    variables = [FakeVariable(name, value.copy()) for name, value in values.items()]
    with serving(*variables) as (address, _), varserve.connect(address) as client:
        model = client.model("counter")
        snapshot = model.read(list(values))
        assert all(snapshot[name].tobytes() == values[name].tobytes() for name in values)
        model.assign({name: value[::-1].copy() for name, value in values.items()})
        for each in variables:
            assert each.array is not None
            assert each.array.tobytes() == values[each.spec.name][::-1].tobytes()
    assert gone == ["receive", "offer"]


@pytest.mark.parametrize("connections", [2, 3, 4])
def test_several_connections_carry_one_call(
    connections: int, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both machines have the cores: pieces in turn, of large and small and empty tensors."""
    monkeypatch.setattr(lane, "most_connections", lambda: connections)
    sizes = [7 * MIB + 3, 10, MIB, 0, 77, 5 * MIB]
    values = {f"v{n}": bits("uint8", size) for n, size in enumerate(sizes)}
    variables = [FakeVariable(name, value.copy()) for name, value in values.items()]
    seen: list[int] = []
    with serving(*variables) as (address, server), varserve.connect(address) as client:
        port = server._backend.port
        assert port is not None
        offered = port.offer
        monkeypatch.setattr(
            port, "offer", lambda each: seen.append(len(each.tickets)) or offered(each)
        )
        model = client.model("counter")
        snapshot = model.read(list(values))
        assert all(snapshot[name].tobytes() == values[name].tobytes() for name in values)
        told: list[tuple[int, int]] = []
        turned = {name: value[::-1].copy() for name, value in values.items()}
        with reporting(lambda done, total: told.append((done, total))):
            model.assign(turned)
        assert told[-1] == (sum(sizes), sum(sizes))
        for each in variables:
            assert each.array is not None
            assert each.array.tobytes() == turned[each.spec.name].tobytes()
        assert not port.refusals
    assert gone == ["receive", "offer"]
    assert seen == [connections] * 2


@pytest.mark.parametrize("mutual", [False, True])
def test_under_tls(tmp_path: Path, gone: list[str], mutual: bool) -> None:
    """With the certificates of the service; and with the client's own where it needs one."""
    place = Place(tmp_path)
    authenticator = CallerAuthenticator(certificates=True, tokens=()) if mutual else None
    access = Access(tls=place.watched(mutual=mutual), authenticator=authenticator)
    tls = (
        place.caller("ann", place.authority.issue_cert("ann.example.org"))
        if mutual
        else place.anybody
    )
    variable = FakeVariable("big", bits("float32", MIB))
    with serving(variable, access=access) as (address, server):
        with varserve.connect(address, tls=tls) as client:
            handle = client.model("counter").variables["big"]
            assert handle.numpy().tobytes() == variable.array.tobytes()  # type: ignore[union-attr]
            handle.assign(np.full(MIB, 5, np.float32))
            assert (variable.array == 5).all()
        assert gone == ["receive", "offer"]
        assert not server._backend.port.refusals  # type: ignore[union-attr]


@pytest.mark.parametrize("fault", ["closed", "another service", "off"])
def test_without_it_values_go_through_grpc(fault: str) -> None:
    """Where the port is not reached, somebody else is there, or it is not wanted."""
    variable = FakeVariable("big", bits("float32", MIB))
    options: dict[str, Any] = {"lane": False} if fault == "off" else {}
    with serving() as (_, other), serving(variable) as (address, server):
        assert server._backend.port is not None
        if fault == "closed":
            server._backend.port.close()
        elif fault == "another service":
            assert other._backend.port is not None
            server._backend.port.number = other._backend.port.number
        with varserve.connect(address, **options) as client:
            handle = client.model("counter").variables["big"]
            assert handle.numpy().tobytes() == variable.array.tobytes()  # type: ignore[union-attr]
            client_lane._unusable.clear()
            handle.assign(np.full(MIB, 5, np.float32))
            assert (variable.array == 5).all()
            assert bool(client_lane._unusable) is (fault != "off")


def test_progress_is_reported() -> None:
    """For each piece."""
    moved: list[tuple[int, int]] = []
    variable = FakeVariable("big", bits("uint8", 2 * MIB))
    with serving(variable) as (address, _), varserve.connect(address) as client:
        handle = client.model("counter").variables["big"]
        with reporting(lambda done, total: moved.append((done, total))):
            value = handle.numpy()
            handle.assign(value)
    assert moved == [(MIB, 2 * MIB), (2 * MIB, 2 * MIB)] * 2


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("localhost:8500", "localhost"),
        ("[::1]:8500", "::1"),
        ("dns:///varserve.example.org:8500", "varserve.example.org"),
        ("ipv4:10.0.0.1:8500", "10.0.0.1"),
        ("ipv4:10.0.0.1:8500,10.0.0.2:8500", ""),
        ("unix:/run/varserve", ""),
    ],
)
def test_which_host_a_target_names(target: str, host: str) -> None:
    """One alone, which the lane's port can be asked at."""
    assert single_host(target) == host
