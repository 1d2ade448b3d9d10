"""A TCP proxy that cuts connections after the service has done what it was asked.

It reads the frames that the service sends: the headers of an answer come when the call is done, and
at that moment, on request, the connection is cut before a byte of the answer reaches the client.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_HEADERS = 0x1
_FRAME_HEADER = 9


class CuttingProxy:
    """Forwards to `target`, a HOST:PORT that may change. `cuts` counts."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.cuts = 0
        self._cut_next = threading.Event()
        self.was_cut = threading.Event()

    async def close(self) -> None:
        """Cut all connections."""
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def cut_next_answer(self) -> None:
        """The next answer is the last thing that its connection would have carried."""
        self.was_cut.clear()
        self._cut_next.set()

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        host, port = self.target.rsplit(":", 1)
        try:
            service, requests = await asyncio.open_connection(host, int(port))
        except OSError:
            answers.transport.abort()
            return
        try:
            up = asyncio.create_task(self._forward(client, requests))
            down = asyncio.create_task(self._forward_answers(service, answers))
            with suppress(asyncio.CancelledError):  # the proxy is closed
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            for task in (up, down):
                task.cancel()
        finally:
            requests.transport.abort()
            answers.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()

    async def _forward_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                header = await reader.readexactly(_FRAME_HEADER)
                length, kind = int.from_bytes(header[:3], "big"), header[3]
                if kind == _HEADERS and self._cut_next.is_set():
                    self._cut_next.clear()
                    self.cuts += 1
                    self.was_cut.set()
                    return
                writer.write(header + await reader.readexactly(length))
                await writer.drain()


@contextmanager
def cutting_proxy(target: str) -> Iterator[CuttingProxy]:
    """A proxy on a thread of its own."""
    proxy, loop = CuttingProxy(target), asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    host, port = server.sockets[0].getsockname()[:2]
    proxy.address = f"{host}:{port}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
