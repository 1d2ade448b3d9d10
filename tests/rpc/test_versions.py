"""Versions that come and go while the service runs, and what calls and watches notice of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import grpc
import pytest

from tests.fakes import Gate
from tests.rpc.models import counter_version
from tests.rpc.requests import MODEL, assign, chunk, manifest, read
from tests.rpc.running import (
    NOT_SERVING,
    SERVING,
    SET_TWOS,
    TWOS,
    WAIT,
    Running,
    gated,
    passed,
    pending,
    reason_of,
    running,
)
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.v1 import history_pb2, model_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models


async def replaced(found: Running, live: LiveModel, label: str = "stable") -> list[LiveModel]:
    return list(await found.server.serve(live, label))


async def versions(found: Running) -> list[tuple[int, str, list[str]]]:
    listed = await found.stub.ListModels(pb.ListModelsRequest())
    return [
        (
            each.header.version,
            model_pb2.ModelState.Name(each.state).removeprefix("MODEL_STATE_"),
            list(each.labels),
        )
        for each in listed.models
    ]


async def header_of(found: Running, model: str = MODEL) -> Any:
    return (await found.stub.ReadVariable(read(model=model))).header


async def test_a_name_means_one_version_or_the_next() -> None:
    """While a version is replaced every call is answered by one of the two, in one direction."""
    old, new = counter_version(1), counter_version(2)
    async with running(old) as found:
        seen: list[int] = []
        go_on = True

        async def read_on() -> None:
            while go_on:
                seen.append((await header_of(found)).version)

        readers = [asyncio.ensure_future(read_on()) for _ in range(8)]
        await until_async(lambda: len(seen) >= 200)
        (ended,) = await replaced(found, new)
        assert ended is old
        await found.server.retire(old, 20)
        count = len(seen)
        await until_async(lambda: len(seen) >= count + 200)
        go_on = False
        await asyncio.gather(*readers)
        assert (await header_of(found)).epoch == new.header.epoch != old.header.epoch
        assert set(seen) == {1, 2}
        # Each of the eight may have had one answer of the old one on its way.
        first = seen.index(2)
        assert seen[first:].count(1) <= len(readers)


async def test_calls_in_progress_finish_on_the_version_they_began_on() -> None:
    """A run and an upload that have begun are done on the old version, and then it ends."""
    gate = Gate()
    old = counter_version(1, functions=(gated(gate),))
    async with running(old) as found:
        call = found.stub.RunFunction(WAIT)
        await passed(gate)
        upload = found.stub.AssignVariables()
        await upload.write(manifest())
        await until_async(lambda: len(found.server._serving.all[0]._in_progress) == 2)
        await replaced(found, counter_version(2))
        retiring = asyncio.ensure_future(found.server.retire(old, 20))
        assert await versions(found) == [(1, "UNLOADING", []), (2, "READY", ["stable"])]
        assert (await header_of(found)).version == 2
        await upload.write(chunk(0, TWOS))
        await upload.done_writing()
        assert not retiring.done()
        gate.opened.set()
        assert (await call).header.version == 1
        assert (await upload).header.version == 1
        await retiring
        assert (await header_of(found)).revision == 0


async def test_what_does_not_end_in_time_is_cut_off_with_a_reason() -> None:
    """After the time that they get, calls of an old version fail with MODEL_NOT_READY."""
    gate = Gate()
    old = counter_version(1, functions=(gated(gate),))
    async with running(old, threads_per_model=1) as found:
        calls = [found.stub.RunFunction(WAIT)]
        await passed(gate)
        calls.append(found.stub.AssignVariable(SET_TWOS))
        await until_async(lambda: pending(found) == 2)
        await replaced(found, counter_version(2))
        await found.server.retire(old, 0.05)
        assert [await reason_of(call) for call in calls] == ["MODEL_NOT_READY"] * 2
        assert (await header_of(found)).version == 2
        gate.opened.set()


async def test_watches_end_with_what_they_need_to_go_on() -> None:
    """A watch of a version that goes is told so, with the revision up to which it knows all."""
    old = counter_version(1)
    async with running(old) as found:
        watch = found.stub.WatchVariables(history_pb2.WatchVariablesRequest(model=MODEL))
        await watch.read()
        await found.stub.AssignVariable(SET_TWOS)
        assert (await watch.read()).header.revision == 1
        await replaced(found, counter_version(2))
        await found.server.retire(old, 20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        failure = outcome_of(caught.value).failure
        assert failure is not None
        assert failure.reason == "MODEL_NOT_READY"
        assert failure.metadata["resume_revision"] == "1"
        assert failure.metadata["epoch"] == old.header.epoch
        again = history_pb2.WatchVariablesRequest(
            model=MODEL, after_revision=1, epoch=old.header.epoch
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.stub.WatchVariables(again).read()
        assert outcome_of(caught.value).reason == "EPOCH_MISMATCH"


async def test_labels_and_numbers_name_versions() -> None:
    """`m` is the stable version, `m@canary` and `m@2` what they say, and others are not found."""
    async with running(counter_version(1)) as found:
        assert await replaced(found, counter_version(2), "canary") == []
        assert await versions(found) == [(1, "READY", ["stable"]), (2, "READY", ["canary"])]
        names = [MODEL, f"{MODEL}@stable", f"{MODEL}@1", f"{MODEL}@canary", f"{MODEL}@2"]
        found_versions = [(await header_of(found, name)).version for name in names]
        assert found_versions == [1, 1, 1, 2, 2]
        headers = [(await header_of(found, name)).model for name in names]
        assert headers == [MODEL] * 5
        for name in (f"{MODEL}@3", f"{MODEL}@", f"{MODEL}@Canary", f"{MODEL}@1@1", "nope@1"):
            assert await reason_of(found.stub.ReadVariable(read(model=name))) == "MODEL_NOT_FOUND"
        await found.stub.AssignVariable(assign(model=f"{MODEL}@canary"))
        assert (await header_of(found)).revision == 0
        assert (await header_of(found, f"{MODEL}@2")).revision == 1
        # A canary that becomes the stable version keeps its state.
        canary = found.server._models.find(f"{MODEL}@canary")
        (ended,) = await replaced(found, canary)
        await found.server.retire(ended, 20)
        assert (await header_of(found)).revision == 1


async def test_an_answer_that_is_kept_is_of_the_version_that_is_meant() -> None:
    """A read that was answered before is answered by the version that its label points to now."""
    async with running(counter_version(1)) as found:
        both = found.server._models.find(MODEL)
        assert await replaced(found, both, "canary") == []
        name = f"{MODEL}@canary"
        for _ in range(2):
            assert (await header_of(found, name)).version == 1
        assert await replaced(found, counter_version(2), "canary") == []
        assert (await header_of(found, name)).version == 2
        assert list(await found.server.withdraw(MODEL, "canary")) != []
        assert await reason_of(found.stub.ReadVariable(read(model=name))) == "MODEL_NOT_FOUND"


async def test_health_follows_the_models() -> None:
    """Names, labels and versions are SERVING while they mean something, then NOT_SERVING."""
    async with running(counter_version(1)) as found:
        await replaced(found, counter_version(2), "canary")
        stables = [MODEL, f"{MODEL}@stable", f"{MODEL}@1"]
        names = [*stables, f"{MODEL}@canary", f"{MODEL}@2"]
        assert [await found.status(name) for name in ("", *names)] == [SERVING] * 6
        (canary,) = await found.server.withdraw(MODEL, "canary")
        await found.server.retire(canary, 20)
        found_now = [await found.status(name) for name in names]
        assert found_now == [SERVING] * 3 + [NOT_SERVING] * 2
        (stable,) = await found.server.withdraw(MODEL, None)
        await found.server.retire(stable, 20)
        assert [await found.status(name) for name in names] == [NOT_SERVING] * 5
        assert await found.status("") == SERVING
        refused = await reason_of(found.stub.ReadVariable(read()))
        assert refused == "MODEL_NOT_READY"
        found.server._models.forget(MODEL, 1)
        found.server._models.forget(MODEL, 2)
        assert await versions(found) == []
        assert await reason_of(found.stub.ReadVariable(read())) == "MODEL_NOT_FOUND"


async def test_a_version_that_went_is_garbage() -> None:
    """Nothing holds a version that was read, run, watched and batched once it has been retired."""
    old = counter_version(1)
    gone = weakref.ref(old)
    async with running() as found:
        await replaced(found, old)
        for _ in range(2):
            await found.stub.ReadVariable(read())
        await found.stub.GetModel(pb.GetModelRequest(model=MODEL))
        watch = found.stub.WatchVariables(history_pb2.WatchVariablesRequest(model=MODEL))
        await watch.read()
        await found.stub.AssignVariable(SET_TWOS)
        await watch.read()
        await replaced(found, counter_version(2))
        await found.server.retire(old, 20)
        old.close()
        found.server._models.forget(MODEL, 1)
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()
        del old
        await until_async(lambda: gc.collect() >= 0 and gone() is None)


def test_a_closed_model_refuses_everything() -> None:
    """After close no read and no write happens, and closing again is nothing."""
    live = counter_version(1)
    live.close()
    live.close()
    with pytest.raises(Exception, match="has been unloaded"):
        live.describe()
    assert Models().sorted == []
