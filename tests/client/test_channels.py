"""Several servers behind one target, connections that end, and servers that come later."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from varserve._client.transport.endpoint import channel_options
from varserve_service.core.model.live_model import LiveModel

from .served import fake_model


def target(*addresses: str) -> str:
    return f"ipv4:{','.join(addresses)}"


def epoch_of(client: varserve.Client) -> str:
    """Which server answers: each has an epoch of its own."""
    return client.read_variable("fake", "counter").header.epoch


@pytest.mark.parametrize(
    ("name", "asked", "spreads"),
    [
        ("localhost:8500", None, False),
        ("127.0.0.1:8500", None, False),
        ("dns:///varserve:8500", None, True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", None, True),
        ("dns:///varserve:8500", False, False),
        ("localhost:8500", True, True),
    ],
)
def test_which_targets_are_spread_over(name: str, asked: bool | None, spreads: bool) -> None:
    """A target with its scheme means all its servers, a bare one means one; both can be asked."""
    assert ("grpc.service_config" in dict(channel_options(name, asked))) is spreads


def test_calls_go_to_all_servers_and_go_on_when_one_ends() -> None:
    """Both servers of a target answer; when one shuts down, no call fails, and the other does."""
    models = [LiveModel(fake_model()) for _ in range(2)]
    epochs = [live.header.epoch for live in models]
    with ExitStack() as first, serve_here(models[1]) as stays:
        goes = first.enter_context(serve_here(models[0]))
        with varserve.connect(target(goes, stays)) as client:
            client.wait_ready()
            seen: Counter[str] = Counter()
            while len(seen) < 2:  # the second one may not be connected yet
                seen[epoch_of(client)] += 1
            found = Counter(epoch_of(client) for _ in range(100))
            assert min(found.values()) >= 40, found
            stop = threading.Event()
            with ThreadPoolExecutor(1) as threads:

                def call() -> list[str]:
                    answered = []
                    while not stop.is_set():
                        answered.append(epoch_of(client))
                    return answered

                calls = threads.submit(call)
                first.close()
                stop.set()
                assert epochs[1] in calls.result(30)
            assert {epoch_of(client) for _ in range(20)} == {epochs[1]}


def test_one_server_keeps_all_calls_of_a_bare_target() -> None:
    """Without round robin there is one state: that of the server that is connected."""
    models = [LiveModel(fake_model()) for _ in range(2)]
    with (
        serve_here(models[0]) as one,
        serve_here(models[1]) as other,
        varserve.connect(target(one, other), round_robin=False) as client,
    ):
        assert {epoch_of(client) for _ in range(50)} == {models[0].header.epoch}


def test_a_call_waits_for_a_server_that_comes_later() -> None:
    """With wait_for_ready a call is answered when the server is there; without it, it fails."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with (
        varserve.connect(address, retries=0, wait_for_ready=True) as patient,
        varserve.connect(address, retries=0) as hasty,
        ThreadPoolExecutor(1) as threads,
    ):
        early = threads.submit(patient.models, timeout=60)
        with pytest.raises(varserve.Unavailable):
            hasty.models(timeout=60)
        assert not early.done()
        with serve_here(LiveModel(fake_model()), port=port):
            assert [model.name for model in early.result(60)] == ["fake"]


def test_the_async_client_waits_as_well() -> None:
    """The same options with await; without a server the deadline ends the call."""

    async def ask(address: str) -> None:
        async with varserve.aio.connect(address, wait_for_ready=True) as client:
            with pytest.raises(varserve.DeadlineExceeded):
                await client.models(timeout=0.3)

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        asyncio.run(ask(f"127.0.0.1:{reserved.getsockname()[1]}"))


def test_a_watch_outlives_its_connections() -> None:
    """Connections end after half a second; no commit is left out and none comes twice."""
    options = {"max_connection_age": 0.5, "connection_grace": 0.1}
    with serve_here(LiveModel(fake_model()), **options) as address:
        # The writer has a channel of its own, and is sent away from time to time, too.
        own = [("grpc.use_local_subchannel_pool", 1)]
        with (
            varserve.connect(address, options=own) as writer,
            varserve.connect(address, options=own) as reader,
        ):
            counter = writer.model("fake").variables["counter"]
            with reader.model("fake").watch() as watch:
                deadline, n, streams = time.monotonic() + 60, 0, set()
                while n <= 20 or len(streams) < 3:
                    assert time.monotonic() < deadline, "the connections did not end"
                    n += 1
                    counter.assign(n)
                    event = next(watch)
                    assert (event.revision, int(event["counter"].value)) == (n, n)
                    streams.add(id(watch._stream))


def test_a_stream_is_not_cut_within_its_grace() -> None:
    """A large read or write that lasts longer than its connection should, is finished."""
    big = FakeVariable("big", np.zeros(32 * 2**20, np.uint8))
    options = {"max_connection_age": 0.1, "chunk_bytes": 2**14}
    with (
        serve_here(LiveModel(FakeModel([big])), **options) as address,
        varserve.connect(address, retries=0) as client,
    ):
        variable = client.model("fake").variables["big"]
        value = np.arange(32 * 2**20).astype(np.uint8)
        began = time.monotonic()
        variable.assign(value, timeout=120)
        np.testing.assert_array_equal(variable.numpy(timeout=120), value)
        assert time.monotonic() - began > 0.2, "it was over before a connection ended"
