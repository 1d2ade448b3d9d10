"""gRPC in C++ (`benchmarks/cpp/echo.cc`): its server, asked by Python and by a client in C++.

`make bench-peers` builds it. What the client in C++ measures are its own seconds, without the line
on a pipe that asks for them.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import numpy as np

from benchmarks.sides import PROGRAM, echo

_READ = "/benchmarks.Peer/Read"
_UNLIMITED = [("grpc.max_receive_message_length", -1)]


class Client(echo.Client):
    """Python's works, blocking and asyncio's, and those of the client in C++."""

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], None]]:
        """Messages of 1 MiB, copied into warm memory by Python."""
        request, memory = struct.pack("=Q", nbytes), np.ones(nbytes, np.uint8).data
        with grpc.insecure_channel(self._address, options=_UNLIMITED) as channel:
            call = channel.unary_stream(_READ)

            def act() -> None:
                got = 0
                for message in call(request):
                    memory[got : got + len(message)] = message
                    got += len(message)
                assert got == nbytes

            yield act

    @contextmanager
    def native(self, what: str, *numbers: int) -> Iterator[Callable[[], float]]:
        """One measurement of the client in C++: `echo`, `stream` or `read`, with its numbers."""
        command = [str(PROGRAM), "call", self._address]
        line = " ".join(map(str, (what, *numbers)))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def act() -> float:
                print(line, file=process.stdin, flush=True)
                return float(process.stdout.readline())

            yield act
            process.stdin.close()

    @contextmanager
    def native_echo(self, nbytes: int, times: int, in_flight: int) -> Iterator[Callable[[], float]]:
        """So many unary calls, so many of them in flight."""
        with self.native("echo", nbytes, times, in_flight) as act:
            yield act

    @contextmanager
    def native_stream(self, nbytes: int, times: int) -> Iterator[Callable[[], float]]:
        """So many messages there and back on one stream, one after the other."""
        with self.native("stream", nbytes, times) as act:
            yield act

    @contextmanager
    def native_read(self, nbytes: int) -> Iterator[Callable[[], float]]:
        """Messages of 1 MiB, copied into warm memory."""
        with self.native("read", nbytes) as act:
            yield act
