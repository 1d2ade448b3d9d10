"""Clients and watchers of a real service, which may be killed and started again, and what they saw.

Owns how calls are chosen, made over the wire and recorded. Knows the client and the contract;
judges nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import varserve
from tests.faults.histories import Call, Inconsistent, Logged, Start
from tests.faults.watched import Heard, Watched
from tests.serving import ServiceProcess
from varserve import tensors
from varserve.v1 import history_pb2, model_pb2
from varserve.v1 import model_service_pb2_grpc as pb_grpc

MODEL = "ledger"
SCALARS = ("a", "b", "c", "d", "tally")
TABLE = "table"
NAMES = (*SCALARS, TABLE)
ROWS = varserve.Rows(np.arange(64))
TORN = -1
"""What a table is recorded as whose elements are not all the same."""

_LOST = (varserve.Unavailable, varserve.DeadlineExceeded)
PATTERNS = (("*",), ("t*",), ("a", "tally"))


def number_in(value: Any) -> int:
    """The one integer that a value stands for."""
    elements = np.asarray(value).reshape(-1)
    return int(elements[0]) if (elements == elements[0]).all() else TORN


def value_for(name: str, number: int) -> Any:
    """A value that stands for an integer."""
    return np.full((64, 32), number, np.int64) if name == TABLE else np.int64(number)


class Service:
    """The service over a ledger: where it is now.

    `connecting`: options of clients beside its address; `reading`: options of each of their reads.
    """

    connecting: Mapping[str, Any] = {}
    reading: Mapping[str, Any] = {}

    def __init__(self, model: Path, log: Path, *arguments: str, **options: Any):
        """`options`: of ServiceProcess."""
        self.kills = 0
        self._start = lambda: ServiceProcess(
            f"--model={MODEL}={model}", *arguments, log=log, **options
        )
        self._moved = threading.Condition()
        self._process: ServiceProcess | None = self._start()
        self.address = self._process.address

    def kill(self) -> None:
        """SIGKILL, and start it again with what it kept."""
        assert self._process is not None
        self._process.process.kill()
        self._process.close()
        self.kills += 1
        process = self._start()
        with self._moved:
            self._process, self.address = process, process.address
            self._moved.notify_all()

    def wait_elsewhere(self, than: str) -> None:
        """Until it is at another address than this one."""
        with self._moved:
            assert self._moved.wait_for(lambda: self.address != than, 300), "it never came back"

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.close()


@contextmanager
def service(*arguments: Any, **options: Any) -> Iterator[Service]:
    """A Service that is ended with the block."""
    running = Service(*arguments, **options)
    try:
        yield running
    finally:
        running.close()


class Client:
    """One client: chooses calls, makes them, and records what it is told.

    When the service is killed, what it asked for is asked again of the next one with the same
    request id, or left alone with nobody knowing whether it was done.
    """

    def __init__(self, run: str, number: int, service: Service, seed: int) -> None:
        """`run` tells the ids of this history's calls from those of another."""
        self.calls: list[Call] = []
        self.failure: BaseException | None = None
        self._name = f"{run}-{number}"
        self._client_number = number
        self._service = service
        self._chance = random.Random(seed)
        self._known: dict[str, int] = dict.fromkeys(NAMES, 0)
        self._model_revision = 0
        self._number = 0
        self._at = ""
        self._open = ExitStack()
        self._client: Any = None

    def act(self, count: int) -> None:
        """So many calls, one after the other."""
        try:
            for _ in range(count):
                self._one()
        except BaseException as error:
            self.failure = error

    def close(self) -> None:
        """Hang up."""
        self._open.close()

    # What to do.

    def _one(self) -> None:
        self._number += 1
        call = Call(f"{self._name}-{self._number}", 0.0)
        chosen = self._chance.choices(_KINDS, _WEIGHTS)[0]
        self.make(call, getattr(self, f"_{chosen}")(call))

    def _fresh(self) -> int:
        """A number that nobody else writes."""
        return self._number * 1000 + self._client_number

    def _some(self, least: int, most: int) -> list[str]:
        return self._chance.sample(NAMES, self._chance.randint(least, most))

    def _read(self, call: Call) -> Callable[[], None]:
        (name,) = call.variables = tuple(self._some(1, 1))

        def ask() -> None:
            reading = self._client.read_variable(MODEL, name, **self._service.reading)
            assert reading.value is not None
            self._told(call, reading.revision, {name: number_in(reading.value)})
            self._learn(call, {name: reading.variable_revision})

        return ask

    def _snapshot(self, call: Call) -> Callable[[], None]:
        call.variables = tuple(self._some(2, 4))

        def ask() -> None:
            found = self._client.read_variables(MODEL, call.variables, **self._service.reading)
            self._told(call, found.revision, {name: number_in(found[name]) for name in found})
            self._learn(call, dict(found.revisions))

        return ask

    def _assign(self, call: Call) -> Callable[[], None]:
        (name,) = self._some(1, 1)
        adds = self._chance.random() < 0.3
        target = call.add if adds else call.set
        target[name] = self._fresh()
        return lambda: self._assign_one(call, name)

    def _compare(self, call: Call) -> Callable[[], None]:
        (name,) = self._some(1, 1)
        call.set[name] = self._fresh()
        if self._chance.random() < 0.3:
            call.if_model = self._model_revision
        else:
            call.if_variables[name] = self._known[name]
        return lambda: self._assign_one(call, name)

    def _assign_one(self, call: Call, name: str) -> None:
        commit = self._client.assign_variable(
            MODEL,
            name,
            value_for(name, {**call.set, **call.add}[name]),
            operation=_operation(call, name),
            region=ROWS if name == TABLE else None,
            request_id=call.id,
            if_revision_match=call.if_variables.get(name),
            if_model_revision_match=call.if_model,
            read_back=name != TABLE,
            message=call.id,
        )
        values = {} if commit.value is None else {name: number_in(commit.value)}
        self._told(call, commit.revision, values)
        self._learn(call, {name: commit.revision})

    def _transaction(self, call: Call) -> Callable[[], None]:
        for name in self._some(2, 4):
            target = call.add if self._chance.random() < 0.3 else call.set
            target[name] = self._fresh()
        if self._chance.random() < 0.5:
            name = self._chance.choice([*call.set, *call.add])
            call.if_variables[name] = self._known[name]
        elif self._chance.random() < 0.2:
            call.if_model = self._model_revision

        def ask() -> None:
            commit = self._client.assign_variables(
                MODEL,
                [
                    varserve.Write(
                        name,
                        value_for(name, number),
                        _operation(call, name),
                        ROWS if name == TABLE else None,
                        call.if_variables.get(name),
                    )
                    for name, number in {**call.set, **call.add}.items()
                ],
                request_id=call.id,
                if_model_revision_match=call.if_model,
                message=call.id,
            )
            self._told(call, commit.revision, {})
            self._learn(call, dict.fromkeys([*call.set, *call.add], commit.revision))

        return ask

    def _count(self, call: Call) -> Callable[[], None]:
        call.add["tally"] = self._fresh()
        return lambda: self._run(call, "count", {"n": np.int64(call.add["tally"])})

    def _break_off(self, call: Call) -> Callable[[], None]:
        call.set.update(dict.fromkeys("ab", self._fresh()))
        return lambda: self._run(call, "break_off", {"value": np.int64(call.set["a"])})

    def _run(self, call: Call, function: str, inputs: dict[str, Any]) -> None:
        outputs = self._client.run_function(
            MODEL, function, inputs, request_id=call.id, message=call.id
        )
        self._told(call, outputs.revision, {name: number_in(outputs[name]) for name in outputs})

    # How it is done.

    def make(self, call: Call, ask: Callable[[], None]) -> None:
        """Make a call and record it."""
        self.calls.append(call)
        call.called = time.monotonic()
        while True:
            if self._at != self._service.address:
                self._connect()
            try:
                ask()
            except varserve.RevisionMismatch as error:
                call.outcome, call.current = "refused", int(error.metadata["current_revision"])
                call.refused_for = error.metadata.get("variable", "")
            except (varserve.FunctionFailed, varserve.OutOfMemory):
                call.outcome = "failed"
            except _LOST as error:
                if error.from_service:
                    raise
                self._service.wait_elsewhere(self._at)
                if call.writes and self._chance.random() < 0.5:
                    return
                continue
            call.returned = time.monotonic()
            return

    def _connect(self) -> None:
        self._open.close()
        self._at = self._service.address
        # Of a service that is killed nothing is retried here: whoever asks decides.
        self._client = self._open.enter_context(
            varserve.connect(self._at, retries=0, timeout=120, **self._service.connecting)
        )

    def _told(self, call: Call, revision: int, values: dict[str, int]) -> None:
        call.outcome, call.revision, call.values = "done", revision, values
        self._model_revision = revision

    def _learn(self, call: Call, revisions: dict[str, int]) -> None:
        call.revisions = revisions
        self._known |= revisions

    def snapshot(self) -> Call:
        """All variables, read as a call like any other."""
        call = Call(f"{self._name}-start", 0.0, variables=NAMES)

        def ask() -> None:
            found = self._client.read_variables(MODEL, NAMES, **self._service.reading)
            self._told(call, found.revision, {name: number_in(found[name]) for name in found})
            self._learn(call, dict(found.revisions))

        self.make(call, ask)
        return call

    def write_everything(self) -> Call:
        """One commit of all variables."""
        self._number += 1
        call = Call(f"{self._name}-{self._number}", 0.0)
        call.set = dict.fromkeys(NAMES, self._fresh())
        writes = {name: value_for(name, number) for name, number in call.set.items()}

        def ask() -> None:
            commit = self._client.assign_variables(
                MODEL, writes, request_id=call.id, message=call.id
            )
            self._told(call, commit.revision, {})

        self.make(call, ask)
        return call

    def log(self, since: int) -> list[Logged]:
        """All commits after a revision, as the service lists them."""
        found: list[Logged] = []
        before: int | None = None
        while True:
            page = self._client.list_commits(MODEL, limit=1000, before=before)
            found += [Logged(e.revision, e.info.message, e.variables) for e in page]
            if not page or page[-1].revision <= since + 1:
                return [entry for entry in found if entry.revision > since]
            before = page[-1].revision


_KINDS = ("read", "snapshot", "assign", "compare", "transaction", "count", "break_off")
_WEIGHTS = (30, 15, 18, 14, 12, 7, 4)


def _operation(call: Call, name: str) -> str:
    return "add" if name in call.add else "set"


class Watcher:
    """Follows the ledger on a thread of its own, and hangs up and comes again now and then."""

    def __init__(self, service: Service, after: int, patterns: Sequence[str], seed: int) -> None:
        self.watched = Watched(after, tuple(patterns))
        self.failure: BaseException | None = None
        self.epochs: set[str] = set()
        self._service = service
        self._chance = random.Random(seed)
        self._until: int | None = None
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self, revision: int) -> None:
        """Follow up to this revision, which changes what everybody watches, and no further."""
        self._until = revision
        if self._done():  # It would only hear of it again with the next bookmark.
            self._stream.cancel()
        self._thread.join(120)
        late = self._thread.is_alive()
        self._until = -1
        with suppress(AttributeError):
            self._stream.cancel()
        self._thread.join(60)
        if self.failure is not None:
            raise self.failure
        assert not late, f"the watch only came to {self.watched.reached} of {revision}"

    def _run(self) -> None:
        try:
            while not self._done():
                address = self._service.address
                try:
                    with grpc.insecure_channel(address) as channel:
                        self._follow(pb_grpc.ModelServiceStub(channel))
                except grpc.RpcError as error:
                    if self._done():
                        return
                    code = error.code()  # type: ignore[attr-defined]
                    if code is grpc.StatusCode.UNAVAILABLE:
                        self._service.wait_elsewhere(address)
                    elif code is grpc.StatusCode.OUT_OF_RANGE:
                        raise Inconsistent(f"heard of what is not there: {error}") from error
                    elif code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                self.watched.resumed += 1
        except BaseException as error:
            self.failure = error

    def _done(self) -> bool:
        return self._until is not None and self.watched.reached >= self._until

    def _follow(self, stub: pb_grpc.ModelServiceStub) -> None:
        """One stream, until it has heard as much as it wants to."""
        self._stream = stub.WatchVariables(
            history_pb2.WatchVariablesRequest(
                model=MODEL,
                after_revision=self.watched.reached,
                epoch=next(iter(self.epochs), ""),
                patterns=self.watched.patterns,
                values=True,
                previous_values=True,
                # Another replica may answer than the one that told of the last commit.
                consistency=model_pb2.Consistency(min_revision=self.watched.reached),
            )
        )
        wanted = self._chance.randrange(50, 2000)
        changes: dict[str, tuple[int, int]] = {}
        for message in self._stream:
            self.epochs.add(message.header.epoch)
            for change in message.changes:
                pair = (change.value, change.previous)
                value, previous = (number_in(tensors.from_tensor(each)) for each in pair)
                changes[change.variable] = (value, previous)
            if message.more:
                continue
            revision, told = message.header.revision, time.monotonic()
            if message.HasField("commit"):
                heard = Heard(revision, message.commit.message, changes, told)
                changes = {}
            else:
                heard = Heard(revision, at=told)
            self.watched.heard.append(heard)
            wanted -= 1
            if not wanted or self._done():
                self._stream.cancel()
                return


class Traffic:
    """Everybody at once: clients, watchers of different patterns, and what is known before."""

    def __init__(self, service: Service, clients: int, seed: int) -> None:
        self.calls: list[Call] = []
        self._service = service
        run = f"{seed:x}"
        self._main = Client(run, clients, service, seed)
        self._clients = [Client(run, n, service, seed + n + 1) for n in range(clients)]
        self.start = self.know()
        self._watchers = [
            Watcher(service, self.start.revision, patterns, seed + number)
            for number, patterns in enumerate(PATTERNS)
        ]

    @property
    def watched(self) -> list[Watched]:
        """What the watchers heard."""
        return [watcher.watched for watcher in self._watchers]

    def know(self) -> Start:
        """All there is, while nobody writes."""
        call = self._main.snapshot()
        self.calls.append(call)
        return Start(call.revision, call.values, call.revisions)

    def round(self, count: int, beside: Callable[[], None] = lambda: None) -> list[Call]:
        """So many calls of each client, all clients at once; what they were told."""
        before = [len(client.calls) for client in self._clients]
        threads = [threading.Thread(target=client.act, args=(count,)) for client in self._clients]
        for thread in threads:
            thread.start()
        beside()
        for thread in threads:
            thread.join(600)
            assert not thread.is_alive(), "a client hangs"
        for client in self._clients:
            if client.failure is not None:
                raise client.failure
        made = [
            call
            for client, since in zip(self._clients, before, strict=True)
            for call in client.calls[since:]
        ]
        self.calls += made
        return made

    def end(self) -> list[Logged]:
        """A last commit that everybody hears of; then the log of all."""
        last = self._main.write_everything()
        self.calls.append(last)
        for watcher in self._watchers:
            watcher.finish(last.revision)
        return self._main.log(self.start.revision)

    def close(self) -> None:
        """Hang up, whatever happened."""
        for client in (self._main, *self._clients):
            client.close()
        for watcher in self._watchers:
            with suppress(BaseException):
                watcher.finish(-1)
