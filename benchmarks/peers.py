"""What varserve is held against, each in a process of its own: `python -m benchmarks.peers KIND`.

`socket NBYTES`: a bare TCP socket that sends so many bytes for each byte that it is sent.
`echo`: a bare grpc.aio server that answers with what it was sent. Both print their port, and end
when standard input closes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading

import grpc
import numpy as np

ECHO = "/benchmarks.Peer/Echo"


def serve_socket(nbytes: int) -> None:
    data = memoryview(np.ones(nbytes, np.uint8).data)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_answer, args=(listener, data), daemon=True).start()
    sys.stdin.read()


def _answer(listener: socket.socket, data: memoryview) -> None:
    connection, _ = listener.accept()
    while connection.recv(1):
        connection.sendall(data)


async def serve_echo() -> None:
    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request

    _, service, method = ECHO.split("/")
    server = grpc.aio.server()
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    if sys.argv[1] == "socket":
        serve_socket(int(sys.argv[2]))
    else:
        asyncio.run(serve_echo())
