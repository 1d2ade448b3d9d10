"""The real service with fakes in place of TensorFlow, so that it starts in a second.

`python -m MODULE serve FLAGS`: settings, journal, core, server, signals and exit codes are those of
the service; what is behind the port of loaded models is a counter and one large variable, whose
bytes are in the environment, as is a bug that a test must find.

Lines on standard input ask for stops by SIGSTOP, from now on: `stop before N` and `stop after N` at
the Nth statement on the connection that commits, `stop reading N` while the Nth part of large
values comes, which are read for a commit. Until then this replica does not follow. `stop
before-alone N`, `answered-alone` and `after-alone` are at the Nth commit of one statement: before
it, when its answer begins to come, and with all of that; `stop told N` is when it has told others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psycopg

from tests.fakes import FakeModel, FakeVariable

MODEL = "fake"
VALUE_BYTES, BUG = "REPLICA_VALUE_BYTES", "REPLICA_BUG"


def model(value_bytes: int = 4) -> FakeModel:
    made = FakeModel(
        [
            FakeVariable("count", np.zeros((), np.int64)),
            FakeVariable("large", np.zeros(value_bytes, np.uint8)),
        ],
        name=MODEL,
    )
    made.version = 0  # as of a model with a path of its own
    return made


def replace_tensorflow() -> None:
    """The room of SavedModels, as far as a service without functions needs it."""
    room: Any = ModuleType("varserve_service.savedmodel")
    room.configure_devices = lambda *_: SimpleNamespace(memory=lambda: None)
    room.prepare_thread = lambda: None
    room.check_operations = lambda *_, **__: None
    room.graph_functions = lambda: 0
    room.load = lambda *_, **__: model(int(os.environ.get(VALUE_BYTES, "4")))
    sys.modules[room.__name__] = room


def stop() -> None:
    """Until somebody lets this process go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def stopping(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Psycopg's wait for an answer, which stops when the answer begins to come."""
    wanted, stopped = next(generator), False
    while True:
        ready = yield wanted
        if not stopped and ready & psycopg.waiting.Ready.R:
            stopped = True
            stop()
        try:
            wanted = generator.send(ready)
        except StopIteration as end:
            return end.value


class Stops:
    """Counts the statements of one connection, and stops at the one that was asked for."""

    def __init__(self) -> None:
        from varserve_service.journal.postgres.appending import Appender
        from varserve_service.journal.postgres.blobs import BlobReader
        from varserve_service.journal.postgres.following import Listener
        from varserve_service.journal.postgres.telling import Teller

        self._when, self._left = "", 0
        self._appender: Any = None
        self._reads: Any = None
        self._is_alone = False
        wait, begin = psycopg.Connection.wait, Appender.__init__
        append, tell = Appender._append_optimistically, Teller.tell
        news, read = Listener.news, BlobReader.read

        def made(appender: Any, *arguments: Any, **options: Any) -> None:
            self._appender = appender
            begin(appender, *arguments, **options)

        def waited(connection: Any, *arguments: Any, **options: Any) -> Any:
            if not self._when or not self._is_the_one(connection):
                return wait(connection, *arguments, **options)
            when, self._when = self._when, ""
            if when.startswith("before"):
                stop()
            if when in ("reading", "answered-alone"):
                generator, *arguments_left = arguments
                arguments = (stopping(generator), *arguments_left)
            answer = wait(connection, *arguments, **options)
            if when.startswith("after"):
                stop()
            return answer

        def alone(appender: Any, *arguments: Any) -> Any:
            self._is_alone = True
            try:
                return append(appender, *arguments)
            finally:
                self._is_alone = False

        def told(teller: Any, *arguments: Any) -> None:
            tell(teller, *arguments)
            if self._when == "told":
                self._left -= 1
                if not self._left:
                    self._when = ""
                    stop()

        def heard(listener: Any, known: Any) -> Any:
            if self._when == "reading":
                time.sleep(0.02)
                return []
            found = news(listener, known)
            return [] if self._when == "reading" else found

        def reading(reader: Any, *arguments: Any) -> Any:
            before, self._reads = self._reads, reader._connection
            try:
                return read(reader, *arguments)
            finally:
                self._reads = before

        psycopg.Connection.wait = waited  # type: ignore[method-assign, assignment]
        Appender.__init__ = made  # type: ignore[method-assign]
        Appender._append_optimistically = alone  # type: ignore[method-assign]
        Teller.tell = told  # type: ignore[method-assign]
        Listener.news = heard  # type: ignore[method-assign]
        BlobReader.read = reading  # type: ignore[method-assign]

    def listen(self) -> None:
        """Do what lines on standard input ask for."""
        for line in sys.stdin:
            _, when, number = line.split()
            self._left = int(number)
            self._when = when
            print("asked", flush=True)

    def _is_the_one(self, connection: Any) -> bool:
        if self._appender is None or connection is not self._appender._open:
            return False
        if threading.current_thread().name == "varserve-guard":  # a ping
            return False
        if self._when == "reading" and connection is not self._reads:
            return False
        if (self._when.endswith("alone") and not self._is_alone) or self._when == "told":
            return False
        self._left -= 1
        return self._left == 0


def plain_log_read() -> None:
    """What became of an undecided commit is looked up without the lock, and not made durable."""
    from varserve_service.journal.postgres.appending import Appender
    from varserve_service.journal.postgres.reading import commits_of, rows_after

    def resolve(appender: Any, known: Any) -> Any:
        connection, key = appender._connection(), appender._key
        missed = commits_of(connection, key, rows_after(connection, key, known))
        return any(commit.append == appender.last_append for commit in missed), missed

    Appender._resolve = resolve  # type: ignore[method-assign]


BUGS = {bug.__name__: bug for bug in (plain_log_read,)}

if __name__ == "__main__":
    from varserve_service.__main__ import main

    replace_tensorflow()
    BUGS.get(os.environ.get(BUG, ""), lambda: None)()
    threading.Thread(target=Stops().listen, daemon=True).start()
    main()
