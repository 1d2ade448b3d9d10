"""Watches of threads that share a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from varserve._client import errors
from varserve._client.transport.calls import Call
from varserve._client.transport.endpoint import Metadata
from varserve.v1 import session_pb2 as pb

from .base import (
    MOST_ITEMS,
    Alone,
    Item,
    Outgoing,
    Session,
    SharedWatch,
    Watches,
    request_of,
    stub_of,
)


class _SyncWatch(SharedWatch):
    """For one thread at a time."""

    def __init__(self, session: Session, call: Call, alone: Callable[[], Any]) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()
        super().__init__(session, call, alone)

    def put(self, item: Item) -> None:
        self._items.put(item)

    def cancel(self) -> None:
        super().cancel()
        self.put(errors.Unavailable("the watch was ended here"))

    def __next__(self) -> Any:
        if self._alone is not None:
            return next(self._alone)
        seconds = self._longest_wait()
        try:
            item = self._items.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        except Empty:
            item = self._late()
        try:
            return self._taken(item)
        except Alone:
            return next(self._go_alone())


class _SyncSession(Session):
    """A thread reads, and one of gRPC's asks for what is to be sent."""

    def __init__(
        self, channel: Any, metadata: Metadata, wait_for_ready: bool, read: Callable[[bytes], Any]
    ) -> None:
        super().__init__(metadata, read)
        self._outgoing: SimpleQueue[Outgoing] = SimpleQueue()
        self._stream = stub_of(channel)(
            self._requests(), metadata=metadata or None, wait_for_ready=wait_for_ready
        )
        self._reader = threading.Thread(target=self._read, name="varserve-watches", daemon=True)
        self._reader.start()

    def send(self, item: Outgoing) -> None:
        self._outgoing.put(item)

    def close(self) -> None:
        self.ended = True
        self._stream.cancel()
        self.send(None)
        if threading.current_thread() is not self._reader:
            self._reader.join(1.0)

    def _requests(self) -> Iterator[pb.WatchSessionRequest]:
        while True:
            items = [self._outgoing.get()]
            with suppress(Empty):
                while items[-1] is not None and len(items) < MOST_ITEMS:
                    items.append(self._outgoing.get_nowait())
            if items[-1] is None:
                return
            yield request_of(items)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for response in self._stream:
                self._deliver(response)
        except grpc.RpcError as raised:
            error = raised
        self._finish(error)
        self.send(None)


class SyncWatches(Watches):
    """Of a blocking driver."""

    _session = _SyncSession
    _watch = _SyncWatch

    @staticmethod
    def _is_over(stream: Any) -> bool:
        return not stream.is_active()
