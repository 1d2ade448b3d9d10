"""Starts the sides that figures need, and measures figure by figure, the sides in turn."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .figures import Figure, Work, size
from .processes import Agent, Failed, Process
from .samples import KEPT_SERVER, Round, Rounds, Usage
from .sides import Side

ROUNDS_LEAST, ROUNDS_MOST = 5, 40
SLOW_SECONDS, SLOW_ROUNDS = 60, 3
"""A figure that has taken so long is content with so many rounds."""
CALLS_MOST = 2000
MEMORY_SPARE = 2**30


@dataclass(frozen=True)
class Budget:
    """How long a figure is measured: at least ROUNDS_LEAST rounds, then until so many seconds."""

    seconds: float = 3.0

    def spent(self, rounds: int, seconds: float) -> bool:
        """Whether so many rounds in so many seconds are enough."""
        if seconds > SLOW_SECONDS:
            return rounds >= SLOW_ROUNDS
        return rounds >= ROUNDS_LEAST and seconds > self.seconds


@dataclass
class Result:
    """What came of a figure: rounds for each of its works, in its order; or why nothing did."""

    figure: Figure
    rounds: list[Rounds] = field(default_factory=list)
    problem: str = ""

    def of(self, work: Work) -> Rounds:
        """The rounds of one work of the figure."""
        return self.rounds[self.figure.works.index(work)]


class Pool:
    """Running sides: a server and a client each, and a second client where one is asked for."""

    def __init__(self, sides: Mapping[str, Side], logs: Path) -> None:
        self._sides = sides
        self._logs = logs
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, Process] = {}
        self._addresses: dict[str, str] = {}
        self._agents: dict[tuple[str, int], Agent] = {}
        self._environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _started(self, kind: type[Process], name: str, command: list[str]) -> Any:
        process = kind(command, self._logs / f"{name}.log", self._environment)
        self._stack.callback(process.end)
        return process

    def start(self, names: Iterable[str]) -> None:
        """Start sides all at once: most of them spend seconds on an import of TensorFlow."""
        for name in names:
            side = self._sides[name]
            if side.scratch is not None:
                shutil.rmtree(side.scratch, ignore_errors=True)
                self._stack.callback(shutil.rmtree, side.scratch, ignore_errors=True)
            if side.address:
                self._addresses[name] = side.address
                self.agent(name)
            else:
                self._servers[name] = self._started(Process, f"{name}-server", side.server)
        for name, server in self._servers.items():
            self._addresses[name] = server.line().rpartition(" ")[2]
            self.agent(name)

    def server(self, name: str) -> Process | None:
        """The server of a side, where it has one."""
        return self._servers.get(name)

    def agent(self, name: str, number: int = 1) -> Agent:
        """A client of a side."""
        if (name, number) not in self._agents:
            command = self._sides[name].client(self._addresses[name])
            self._agents[name, number] = self._started(Agent, f"{name}-client-{number}", command)
        return self._agents[name, number]


_numbers = itertools.count()


class OpenWork:
    """A work that its clients have prepared."""

    def __init__(self, work: Work, pool: Pool, figure: Figure) -> None:
        self._agent = pool.agent(work.side)
        self._server = pool.server(work.side)
        self._nbytes, self._in_flight = figure.nbytes, figure.in_flight
        self._at_rest = KEPT_SERVER in (*figure.measures, *figure.costs)
        self._number = next(_numbers)
        self._agent.ask("open", number=self._number, name=work.name, arguments=work.arguments)
        self._beside: tuple[Agent, int] | None = None
        if work.beside is not None:
            beside, number = pool.agent(work.side, 2), next(_numbers)
            beside.ask(
                "open", number=number, name=work.beside.name, arguments=work.beside.arguments
            )
            beside.ask("run", number=number, calls=1, in_flight=1)
            self._beside = beside, number
        self.calls = self._in_flight

    def settle(self, seconds: float) -> None:
        """Warm up, and find how many calls a round takes to last so long."""
        self._ask(self._in_flight)
        for _ in range(3):
            wall = self._ask(self.calls)["wall"]
            if wall > seconds / 3:
                break
            self.calls = min(CALLS_MOST, max(self.calls + 1, int(self.calls * seconds / wall)))

    def _ask(self, calls: int) -> Any:
        return self._agent.ask("run", number=self._number, calls=calls, in_flight=self._in_flight)

    def round(self) -> Round:
        """One round."""
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(self._agent.watched())
            server = [Usage()]
            if self._server is not None:
                server = stack.enter_context(self._server.watched(at_rest=self._at_rest))
            if self._beside is not None:
                beside, number = self._beside
                beside.ask("keep", number=number)
                stack.callback(beside.ask, "rest", number=number)
            answer = self._ask(self.calls)
        return Round(answer["times"], answer["wall"], self._nbytes, client[-1], server[-1])

    def close(self) -> None:
        """Have its clients let go of it, those that still can."""
        with contextlib.suppress(Failed):
            self._agent.ask("close", number=self._number)
            if self._beside is not None:
                self._beside[0].ask("close", number=self._beside[1])


def by_pool(figures: Sequence[Figure]) -> list[list[int]]:
    """The numbers of the figures that share their sides: a large one has sides of its own."""
    large = [[number] for number, figure in enumerate(figures) if figure.is_large]
    others = [number for number, figure in enumerate(figures) if not figure.is_large]
    return [*large, others] if others else large


def measure(
    figures: Iterable[Figure], pool: Pool, budget: Budget, say: Callable[[str], None]
) -> Iterator[Result]:
    """Each figure's result, in order. A figure that fails, or has not the memory, says so."""
    for figure in figures:
        spare = psutil.virtual_memory().available - MEMORY_SPARE
        if figure.needs > spare:
            needs = f"needs {size(figure.needs)} of memory, {spare / 2**30:.1f} GiB are there"
            needs += f"; {figure.else_try}" if figure.else_try else ""
            yield Result(figure, problem=needs)
            continue
        say(figure.name)
        try:
            yield Result(figure, _rounds(figure, pool, budget))
        except Failed as error:
            yield Result(figure, problem=str(error))


def _rounds(figure: Figure, pool: Pool, budget: Budget) -> list[Rounds]:
    with contextlib.ExitStack() as stack:
        works = []
        for work in figure.works:
            works.append(OpenWork(work, pool, figure))
            stack.callback(works[-1].close)
        for each in works:
            if figure.calls:
                each.calls = figure.calls
            else:
                each.settle(figure.round_seconds)
        rounds: list[list[Round]] = [[] for _ in works]
        started = time.monotonic()
        for count in range(ROUNDS_MOST):
            if figure.rounds and count == figure.rounds:
                break
            if not figure.rounds and budget.spent(count, time.monotonic() - started):
                break
            for measured, each in zip(rounds, works, strict=True):
                measured.append(each.round())
    return list(rounds)
