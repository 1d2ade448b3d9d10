"""Large transfers and summaries give way to small calls."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import numpy as np

from varserve_service.access.policy import Verb
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import HistogramSpec, summarize
from varserve_service.rpc.calls import giving_way, transfers
from varserve_service.rpc.calls.giving_way import Pace, SmallCalls
from varserve_service.rpc.calls.method import Method
from varserve_service.rpc.calls.transfers import DOWNLOAD, Transfers


def started(kind: str, verb: Verb = Verb.READ) -> mock.Mock:
    return mock.Mock(method=Method("s", "M", kind, verb))


def test_there_is_no_rest_while_nobody_else_calls() -> None:
    """Nor for calls that are transfers themselves."""
    calls = SmallCalls()
    pace = Pace(calls)
    calls.started(started("bidi_stream"))
    calls.started(started("unary", Verb.SUMMARIZE))
    time.sleep(0.002)
    with mock.patch.object(time, "sleep", side_effect=AssertionError):
        assert pace.give_way_on_thread() is False
        asyncio.run(pace.give_way())


def test_a_rest_is_as_long_as_the_part_before_it() -> None:
    """While small calls come; and no longer than the bound."""
    calls = SmallCalls()
    now = [100.0]

    def clock() -> float:
        return now[0]

    slept: list[float] = []
    with (
        mock.patch.object(giving_way.time, "monotonic", clock),
        mock.patch.object(giving_way.time, "sleep", slept.append),
    ):
        pace = Pace(calls)
        calls.started(started("unary"))
        now[0] += 0.001
        assert pace.give_way_on_thread()
        now[0] += 0.01
        assert pace.give_way_on_thread()
        now[0] += 1
        assert not pace.give_way_on_thread()
    np.testing.assert_allclose(slept, [0.001, 0.004])


def test_a_summary_is_the_same_while_others_call() -> None:
    """By one thread, part by part, or by all: the same numbers, hash and histogram, to the bit."""
    array = np.random.default_rng(1).normal(size=3_000_001).astype(np.float32)
    wish = HistogramSpec(7, (-2.0, 2.0))
    alone = summarize(HostValue(array), histogram=wish, content_hash=True)
    for crowded in ([True] * 100, [False, True] * 50, [True, False, False] * 40):
        turns = iter(crowded)
        found = summarize(
            HostValue(array), histogram=wish, content_hash=True, go_on=lambda t=turns: next(t)
        )
        assert found.moments == alone.moments
        assert found.content_hash == alone.content_hash
        assert found.histogram is not None
        assert alone.histogram is not None
        assert found.histogram.counts.tolist() == alone.histogram.counts.tolist()


async def test_memory_of_messages_is_given_back_when_transfers_rest() -> None:
    """After much was moved, and not while anything is moved."""
    trimmed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def trim() -> None:  # on a thread
        loop.call_soon_threadsafe(trimmed.set)

    with (
        mock.patch.object(transfers, "IDLE_SECONDS", 0.01),
        mock.patch.object(transfers, "trim", trim),
    ):
        all_transfers = Transfers(60, 1, SmallCalls())
        for nbytes in (2**20, 100 * 2**20, 100 * 2**20):
            async with all_transfers.begin(DOWNLOAD) as transfer:
                transfer.moved(nbytes)
                await asyncio.sleep(0.05)
                assert not trimmed.is_set()
        await asyncio.wait_for(trimmed.wait(), 30)
