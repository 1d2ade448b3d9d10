"""The client on the lane: the same values, without their bytes on the way."""

from __future__ import annotations

import contextvars
import gc
import mmap
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import varserve
import varserve.aio
from tests.fakes import FakeVariable
from tests.rpc.models import counter, strings
from tests.serving import serve_here
from tests.waiting import until
from varserve import lane, tensors
from varserve._client.transport import lane as client_lane
from varserve._client.transport.bodies import reporting
from varserve._client.transport.buffers import _memory_of, sealed_memory, shared_empty
from varserve_service.rpc import Server

MIB = 2**20
DTYPES = sorted(set(tensors.DTYPES) - {tensors.STRING})


def bits(dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Any bits that the dtype can have, NaNs with payloads among them."""
    random = np.random.default_rng(7)
    kind = tensors.numpy_dtype(dtype)
    if dtype == "bool":
        return random.integers(0, 2, count).astype(bool)
    return random.integers(0, 256, count * kind.itemsize, np.uint8).view(kind)


class Found:
    def __init__(self, address: str, server: Server) -> None:
        self.address = address
        self.server = server

    @property
    def lane(self) -> Any:
        return self.server.lane


@contextmanager
def serving(path: str, *variables: FakeVariable) -> Iterator[Found]:
    servers: list[Server] = []
    with serve_here(counter(*variables), lane_socket=path, prepare=servers.append) as address:
        yield Found(address, servers[0])


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    client_lane._unusable.clear()
    yield str(tmp_path / "lane")
    client_lane._unusable.clear()


def mapped_memories() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:varserve")


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_the_same_to_the_last_bit(path: str, dtype: str) -> None:
    """Of every dtype of a fixed size: read, read as memory, assigned, and assigned as memory."""
    count = 2 * MIB // tensors.numpy_dtype(dtype).itemsize
    value = bits(dtype, count)
    variable = FakeVariable("big", value.copy())
    with serving(path, variable) as found, varserve.connect(found.address) as client:
        model = client.model("counter")
        handle = model.variables["big"]
        assert handle.numpy().tobytes() == value.tobytes()
        mapped = handle.numpy(copy=False)
        assert (mapped.dtype, mapped.shape) == (value.dtype, value.shape)
        assert mapped.tobytes() == value.tobytes()
        assert not mapped.flags.writeable
        assert found.lane.lent_bytes == 2 * MIB
        other = value[::-1].copy()
        handle.assign(other)
        assert variable.array is not None
        assert variable.array.tobytes() == other.tobytes()
        buffer = model.buffer(value.shape, value.dtype)
        buffer[...] = value
        handle.assign(buffer)
        assert variable.array.tobytes() == value.tobytes()
        assert not found.lane.refusals


async def test_the_asyncio_client_goes_the_same_way(path: str) -> None:
    """Reads and assigns, without holding up its event loop."""
    variable = FakeVariable("big", bits("float32", MIB))
    with serving(path, variable) as found:
        async with varserve.aio.connect(found.address) as client:
            model = await client.model("counter")
            handle = model.variables["big"]
            mapped = await handle.numpy(copy=False)
            assert found.lane.lent_bytes == 4 * MIB
            assert mapped.tobytes() == variable.array.tobytes()  # type: ignore[union-attr]
            buffer = model.buffer(MIB)
            buffer[:] = 5
            await handle.assign(buffer)
            assert (await handle.numpy() == 5).all()


def test_memory_is_given_back_with_the_last_array(path: str) -> None:
    """A view keeps it; the service counts it until then, and not for values that were copied."""
    with serving(path, FakeVariable("big", bits("float32", MIB))) as found:
        with varserve.connect(found.address) as client:
            handle = client.model("counter").variables["big"]
            handle.numpy()
            until(lambda: found.lane.lent_bytes == 0)
            view = handle.numpy(copy=False)[5:6]
        assert found.lane.lent_bytes == 4 * MIB
        assert view.base is not None
        del view
        gc.collect()
        until(lambda: found.lane.lent_bytes == 0)


def test_what_was_read_as_memory_stays_what_it_is(path: str) -> None:
    """Whatever is assigned afterwards."""
    value = bits("int32", MIB)
    with (
        serving(path, FakeVariable("big", value.copy())) as found,
        varserve.connect(found.address) as client,
    ):
        handle = client.model("counter").variables["big"]
        mapped = handle.numpy(copy=False)
        handle.assign(np.zeros(MIB, np.int32))
        handle[3:5].assign([7, 7])
        assert mapped.tobytes() == value.tobytes()
        with pytest.raises(ValueError, match="read-only"):
            mapped[0] = 1


def test_a_buffer_may_be_written_to_after_it_was_assigned(path: str) -> None:
    """That is its owner's own; a second assign sends what it has then."""
    variable = FakeVariable("big", np.zeros(MIB, np.float32))
    with serving(path, variable) as found, varserve.connect(found.address) as client:
        model = client.model("counter")
        handle = model.variables["big"]
        buffer = model.buffer(MIB)
        buffer[:] = 1
        handle.assign(buffer)
        buffer[:] = 2
        assert (handle.numpy() == 1).all()
        assert (buffer == 2).all()
        handle.assign(buffer)
        buffer[:] = 3
        assert (handle.numpy() == 2).all()


def test_a_part_of_a_buffer_is_copied() -> None:
    """And so is one that another process may write to, and one that is small."""
    buffer = shared_empty((2 * MIB,), np.uint8)
    assert sealed_memory(buffer[:MIB]) is None
    assert sealed_memory(buffer[::2]) is None
    assert sealed_memory(buffer[1:]) is None
    assert sealed_memory(np.zeros(2 * MIB, np.uint8)) is None
    assert sealed_memory(shared_empty((10,), np.uint8)) is None
    assert sealed_memory(buffer.view(np.float32).reshape(2, -1)) is not None
    assert sealed_memory(buffer) is None
    shared = shared_empty((2 * MIB,), np.uint8)
    memory = _memory_of(shared)
    assert memory is not None
    with mmap.mmap(memory.fd, len(memory)):
        assert sealed_memory(shared) is None
    shared[:] = 1


@pytest.mark.parametrize("dtype", ["object", "datetime64[s]", "S4", "nonsense"])
def test_a_buffer_has_a_dtype_of_the_contract(path: str, dtype: str) -> None:
    """Others are refused."""
    with serving(path) as found, varserve.connect(found.address) as client:
        model = client.model("counter")
        with pytest.raises(varserve.InvalidRequest, match="buffer"):
            model.buffer((3,), dtype)
        assert model.buffer(3, ml_dtypes.bfloat16).shape == (3,)
        assert model.buffer((2, 0)).size == 0


def test_many_variables_go_together(path: str) -> None:
    """Large ones in memories of their own, small and empty ones in one, strings by gRPC."""
    values = {f"v{n}": bits("uint8", size) for n, size in enumerate([3 * MIB, 10, MIB, 0, 77])}
    many = {f"m{n}": bits("uint8", MIB + n) for n in range(70)}
    variables = [FakeVariable(name, value.copy()) for name, value in (values | many).items()]
    words = FakeVariable("words", strings(b"a", b"bb"))
    with serving(path, *variables, words) as found, varserve.connect(found.address) as client:
        model = client.model("counter")
        for names in (list(values), [*values, *many]):
            snapshot = model.read(names)
            assert found.lane.lent_bytes or not found.lane.refusals
            for name in names:
                assert snapshot[name].tobytes() == (values | many)[name].tobytes()
        mapped = model.read(list(values), copy=False)
        total = sum(value.nbytes for value in values.values())
        until(lambda: found.lane.lent_bytes >= total)
        for name, value in values.items():
            assert mapped[name].tobytes() == value.tobytes()
            assert not mapped[name].flags.writeable
        turned = {name: value[::-1].copy() for name, value in (values | many).items()}
        model.assign(turned)
        for each in variables:
            assert each.array is not None
            assert each.array.tobytes() == turned[each.spec.name].tobytes()
        with model.transaction() as transaction:
            transaction.assign("words", [b"c", b"d"])
            transaction.assign("m0", values["v0"][:MIB])
        assert model.variables["words"].numpy().tolist() == [b"c", b"d"]


def test_parts_and_casts_are_lent_as_well(path: str) -> None:
    """As copies, which nobody else has."""
    value = np.arange(MIB, dtype=np.float32) / MIB
    with (
        serving(path, FakeVariable("big", value)) as found,
        varserve.connect(found.address) as client,
    ):
        handle = client.model("counter").variables["big"]
        part = handle[1000 : MIB // 2].numpy(copy=False)
        assert (part == value[1000 : MIB // 2]).all()
        half = handle.numpy(copy=False, dtype=np.float16)
        assert (half == value.astype(np.float16)).all()
        assert not part.flags.writeable
        assert not half.flags.writeable


@pytest.mark.parametrize("gone", ["socket", "service's", "off", "elsewhere"])
def test_without_a_lane_values_are_sent(path: str, gone: str, tmp_path: Path) -> None:
    """Where the socket is not there, is another service's, or is not wanted; read-only all the
    same."""
    value = bits("float32", MIB)
    with serving(path, FakeVariable("big", value.copy())) as found:
        options: dict[str, Any] = {"lane": False} if gone == "off" else {}
        other = str(tmp_path / "other")
        if gone == "elsewhere":
            options["lane"] = str(tmp_path / "nowhere")
        with serving(other) as second, varserve.connect(found.address, **options) as client:
            if gone == "socket":
                Path(path).unlink()
            elif gone == "service's":
                Path(path).unlink()
                shutil.move(other, path)
            handle = client.model("counter").variables["big"]
            mapped = handle.numpy(copy=False)
            assert mapped.tobytes() == value.tobytes()
            assert not mapped.flags.writeable
            assert found.lane.lent_bytes == 0
            client_lane._unusable.clear()
            handle.assign(np.zeros(MIB, np.float32))
            assert not handle.numpy().any()
            # The last read does not try what has just failed.
            assert second.lane.refusals == ({"ticket": 2} if gone == "service's" else {})


def test_a_lane_at_another_path_here_is_named(path: str, tmp_path: Path) -> None:
    """As where a container has the socket elsewhere."""
    there = tmp_path / "there"
    there.symlink_to(path)
    with serving(path, FakeVariable("big", bits("float32", MIB))) as found:
        Path(path).rename(f"{path}.moved")
        there.unlink()
        there.symlink_to(f"{path}.moved")
        with varserve.connect(found.address, lane=str(there)) as client:
            mapped = client.model("counter").variables["big"].numpy(copy=False)
            assert found.lane.lent_bytes == mapped.nbytes


def test_copy_and_out_do_not_go_together(path: str) -> None:
    """One is the caller's memory, the other is not."""
    with serving(path) as found, varserve.connect(found.address) as client:
        v = client.model("counter").variables["v"]
        with pytest.raises(varserve.InvalidRequest, match="copy=False or out"):
            v.numpy(copy=False, out=np.empty(3, np.float32))
        small = v.numpy(copy=False)
        assert small.tolist() == [1, 1, 1]
        assert not small.flags.writeable


def test_a_bool_that_is_none_is_refused(path: str) -> None:
    """A byte 2 in a memory, as in a chunk."""
    variable = FakeVariable("flags", np.zeros(MIB, bool))
    with serving(path, variable) as found, varserve.connect(found.address) as client:
        buffer = client.model("counter").buffer(MIB, bool)
        buffer.view(np.uint8)[5] = 2
        with pytest.raises(varserve.InvalidRequest, match="bool"):
            client.model("counter").variables["flags"].assign(buffer)
        assert not variable.array.any()  # type: ignore[union-attr]


def test_progress_is_reported(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part of a read that is copied, by several threads; at once where nothing moves."""
    monkeypatch.setattr(lane, "cores", lambda: 3)
    moved: list[tuple[int, int]] = []
    nbytes = 40 * MIB
    with (
        serving(path, FakeVariable("big", bits("uint8", nbytes))) as found,
        varserve.connect(found.address) as client,
    ):
        handle = client.model("counter").variables["big"]
        with reporting(lambda done, total: moved.append((done, total))):
            value = handle.numpy()
            assert sorted(moved) == moved
            assert len(moved) == 3
            assert moved.pop() == (nbytes, nbytes)
            assert np.array_equal(value, bits("uint8", nbytes))
            handle.assign(value)
    assert moved[2:] == [(nbytes, nbytes)]


def test_other_threads_go_on_while_a_value_is_copied() -> None:
    """A mapping brings no pages with it: to have them takes long, and holds the interpreter."""
    fd = lane.new_memory(8 * MIB)
    lane.write(fd, [bytes(MIB)] * 8)
    lane.seal(fd)
    mapped = client_lane._mapped(fd, 8 * MIB, client_lane._Connection(socket.socket()))
    os.close(fd)
    _, _, here = Path("/proc/self/smaps").read_text().partition(f"{mapped.ctypes.data:x}-")
    assert here.partition("Rss:")[2].split()[:2] == ["0", "kB"]


def test_a_report_that_is_given_up_ends_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is left behind, as an interrupted command's is, may be collected anywhere."""
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def enter() -> Any:
        block = reporting(lambda done, total: None)
        block.__enter__()
        return block

    left = contextvars.copy_context().run(enter)
    del left
    gc.collect()
    assert said == []
