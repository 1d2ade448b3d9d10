"""A side's client in a process of its own: `python -m benchmarks.agent SIDE ADDRESS`.

Reads commands from standard input, one JSON object a line, and answers each with one line. A work
is a method of the side's `Client` that gives a context manager, blocking or asyncio's; what that
gives is called over and over: a function, or a coroutine function. Standard library only, so that
it runs in every environment that a peer needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


def _time(act: Callable[[], Any]) -> float:
    """Seconds of one call; what a call returns as a float are the seconds that count."""
    started = time.perf_counter()
    said = act()
    took = time.perf_counter() - started
    return said if type(said) is float else took


async def _awaited(act: Callable[[], Any], numbers: Iterator[int], times: list[float]) -> None:
    for _ in numbers:
        started = time.perf_counter()
        await act()
        times.append(time.perf_counter() - started)


def _threads(act: Callable[[], Any], numbers: Iterator[int], count: int) -> list[float]:
    times: list[float] = []
    lock = threading.Lock()

    def take() -> int | None:
        with lock:
            return next(numbers, None)

    def run() -> None:
        while take() is not None:
            times.append(_time(act))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


class Works:
    """The works that are open, by the number that the runner gave them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._open: dict[int, tuple[contextlib.AsyncExitStack, Callable[[], Any]]] = {}
        self._kept: dict[int, tuple[threading.Event, threading.Thread]] = {}

    async def open(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        """Prepare a work: connect, allocate what is reused."""
        stack = contextlib.AsyncExitStack()
        context = getattr(self._client, name)(**arguments)
        if hasattr(context, "__aenter__"):
            act = await stack.enter_async_context(context)
        else:
            act = stack.enter_context(context)
        self._open[number] = stack, act

    async def run(self, number: int, calls: int, in_flight: int) -> dict[str, Any]:
        """Call it, so many calls in flight: seconds of each, and of all of them together."""
        act = self._open[number][1]
        times: list[float] = []
        numbers = iter(range(calls))
        started = time.perf_counter()
        if inspect.iscoroutinefunction(act):
            await asyncio.gather(*(_awaited(act, numbers, times) for _ in range(in_flight)))
        elif in_flight == 1:
            times = [_time(act) for _ in numbers]
        else:
            times = _threads(act, numbers, in_flight)
        return {"times": times, "wall": time.perf_counter() - started}

    async def keep(self, number: int) -> None:
        """Call it again and again on a thread, until `rest`."""
        act = self._open[number][1]
        resting = threading.Event()

        def run() -> None:
            while not resting.is_set():
                act()

        thread = threading.Thread(target=run)
        self._kept[number] = resting, thread
        thread.start()

    async def rest(self, number: int) -> None:
        """End what `keep` began, after the call that is going on."""
        resting, thread = self._kept.pop(number)
        resting.set()
        thread.join()

    async def close(self, number: int) -> None:
        """Let go of what the work holds."""
        stack, _ = self._open.pop(number)
        await stack.aclose()


async def main(side: str, address: str) -> None:
    """Do what standard input says until it closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    client = importlib.import_module(f"benchmarks.sides.{side}").Client(address)
    works = Works(client)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            result = await getattr(works, command.pop("do"))(**command)
            answer = {"result": result}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
