"""Writes that are killed: a journal over fakes in a process of its own.

`journal_writers.py DIRECTORY WRITERS COMMITS`: each of the writers commits, as fast as it can and
until it has that many commits in all, to variables of its own. Before a commit it says
`try WRITER NUMBER`, after it `ack WRITER NUMBER` or `refused WRITER NUMBER REASON`, and tries the
same number again. A single writer does everything on one thread, compaction included, so that its
calls are the same in each run; it speaks by writev, so that all it writes otherwise is the state.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import Array, kept
from tests.waiting import join
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read
from varserve_service.journal.compaction import Compactor
from varserve_service.logs import configure_logs

# Small enough that all that a journal does happens within a few commits.
OPTIONS: dict[str, Any] = {"inline_bytes": 1000, "history_commits": 6, "answer_count": 200}
ROWS = 200
REFUSALS = 100


def model(writers: int) -> FakeModel:
    """For each writer a counter, a table that is inline or a file, and one of which rows change."""
    variables = []
    for writer in range(writers):
        variables.append(FakeVariable(f"count{writer}", np.zeros((), np.int64)))
        variables.append(FakeVariable(f"table{writer}", np.zeros((ROWS, 2), np.float32)))
        variables.append(FakeVariable(f"rows{writer}", np.zeros((ROWS, 2), np.float32)))
    return FakeModel(variables)


def table(writer: int, number: int) -> Array:
    """What a writer's table holds after its commit of this number: all of 1600 bytes or a part."""
    seed = number - number % 3
    if not seed:
        return np.zeros((ROWS, 2), np.float32)
    return np.random.default_rng((writer, seed)).random((ROWS, 2), np.float32)


def rows(writer: int, number: int) -> Array:
    """What its rows hold."""
    expected = np.zeros((ROWS, 2), np.float32)
    for each in range(max(1, number - ROWS), number + 1):
        expected[each % ROWS] = each
    return expected


def commit(live: LiveModel, writer: int, number: int) -> Any:
    """The commit of this number, all of which happens or nothing."""
    where = Rows(np.array([number % ROWS]))
    writes = [
        Write(f"count{writer}", Operation.ADD, np.ones((), np.int64)),
        Write(f"rows{writer}", Operation.SET, np.full((1, 2), number, np.float32), where),
    ]
    if number % 3 == 0:
        writes.append(Write(f"table{writer}", Operation.SET, table(writer, number)))
    return live.assign(
        writes, request=WriteRequest(f"{writer}-{number}", b""), read_back=Read(f"count{writer}")
    )


def main(directory: Path, writers: int, commits: int) -> None:
    def say(*words: object) -> None:
        os.writev(1, [(" ".join(map(str, words)) + "\n").encode()])

    def write(live: LiveModel, writer: int) -> None:
        (entry,) = live.read([Read(f"count{writer}")]).entries
        assert entry.value is not None
        number, refusals = int(entry.value.numpy()) + 1, 0
        while number <= commits and refusals < REFUSALS:
            say("try", writer, number)
            try:
                commit(live, writer, number)
            except RequestError as error:
                refusals += 1
                say("refused", writer, number, error.reason.value)
            else:
                say("ack", writer, number)
                number += 1

    if writers == 1:
        compact_on_the_writers_thread()
    with kept(directory, lambda: model(writers), **OPTIONS) as (live, _):
        say("ready", live.header.revision)
        if writers == 1:
            write(live, 0)
            say("done")
            return
        threads = [threading.Thread(target=write, args=(live, w)) for w in range(writers)]
        for thread in threads:
            thread.start()
        join(threads, seconds=3600)
    say("done")


def compact_on_the_writers_thread() -> None:
    """So that the calls of a process come in one order."""

    def compact(compactor: Compactor) -> None:
        if compactor.is_due():
            compactor.try_to_compact()

    Compactor.wake_when_due = compact  # type: ignore[method-assign]


if __name__ == "__main__":
    configure_logs("warning")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
