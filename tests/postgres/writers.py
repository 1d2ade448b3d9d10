"""A replica over fakes in a process of its own: `writers.py ADDRESS NAME WRITERS`.

Each writer adds one to the shared counter and to a row of a table, as fast as it can, with request
ids of its own. It says `ready REVISION` once, `try ID` before each write, `ack ID REVISION` after
it.
"""

from __future__ import annotations

import os
import sys
import threading

import numpy as np

from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import PostgresState
from varserve_service.logs import configure_logs

ROWS = 16


def model() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("count", np.zeros((), np.int64)),
            FakeVariable("table", np.zeros((ROWS, 2), np.int64), in_place=True),
        ]
    )


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write(live: LiveModel, name: str) -> None:
    number = 0
    while True:
        identifier = f"{name}-{number}"
        row = Rows(np.array([number % ROWS]))
        writes = [
            Write("count", Operation.ADD, np.ones((), np.int64)),
            Write("table", Operation.ADD, np.ones((1, 2), np.int64), row),
        ]
        say("try", identifier)
        try:
            answer = live.assign(writes, request=WriteRequest(identifier, b""))
        except RequestError:
            continue
        say("ack", identifier, answer.header.revision)
        number += 1


def main(address: str, name: str, writers: int) -> None:
    state = PostgresState(address, JournalOptions(history_commits=1_000_000))
    live, _ = state.take_up(model, LiveModel)
    say("ready", live.header.revision)
    for writer in range(writers):
        threading.Thread(target=write, args=(live, f"{name}.{writer}"), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    configure_logs("error")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
