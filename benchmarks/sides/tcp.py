"""A bare TCP socket: `sendall` from a warm buffer, `recv_into` a warm one (or a fresh one)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.sides import Ready

_REQUEST = struct.Struct("<cQ")
_DONE = b"."


def _buffer(nbytes: int) -> memoryview:
    return np.ones(nbytes, np.uint8).data


def _receive(connection: socket.socket, buffer: memoryview) -> None:
    got = 0
    while got < len(buffer):
        count = connection.recv_into(buffer[got:])
        if not count:
            raise ConnectionError(f"closed after {got} of {len(buffer)} bytes")
        got += count


def serve(ready: Ready) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ready(f"127.0.0.1:{listener.getsockname()[1]}")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Answer a client until it goes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = _buffer(0)
    head = memoryview(bytearray(_REQUEST.size))
    with connection:
        while True:
            try:
                _receive(connection, head)
            except ConnectionError:
                return
            kind, nbytes = _REQUEST.unpack(head)
            if len(buffer) != nbytes:
                buffer = _buffer(nbytes)
            if kind == b"r":
                connection.sendall(buffer)
            else:
                _receive(connection, buffer)
                connection.sendall(_DONE)


class Client:
    """Works over one connection each."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._address = host, int(port)

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self._address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection

    @contextmanager
    def read(self, nbytes: int, fresh: bool = False) -> Iterator[Callable[[], None]]:
        request, warm = _REQUEST.pack(b"r", nbytes), _buffer(nbytes)
        with self._connected() as connection:

            def act() -> None:
                connection.sendall(request)
                _receive(connection, np.empty(nbytes, np.uint8).data if fresh else warm)

            yield act

    @contextmanager
    def assign(self, nbytes: int) -> Iterator[Callable[[], None]]:
        request, value = _REQUEST.pack(b"w", nbytes), _buffer(nbytes)
        done = memoryview(bytearray(1))
        with self._connected() as connection:

            def act() -> None:
                connection.sendall(request)
                connection.sendall(value)
                _receive(connection, done)

            yield act

    @contextmanager
    def transform(self, nbytes: int) -> Iterator[Callable[[], None]]:
        """So many bytes there, and as many back."""
        with self.assign(nbytes) as send, self.read(nbytes) as receive:

            def act() -> None:
                send()
                receive()

            yield act
