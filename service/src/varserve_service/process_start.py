"""The first moments of the process: standard streams and signals, before anything else is imported.

Imports of the standard library alone, and few: what comes after this takes seconds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_received: list[int] = []


def open_standard_streams() -> None:
    """Open descriptors 0 to 2 where they are closed.

    Otherwise the first file that is opened gets such a number, and what a library writes to
    standard error ends up in it.
    """
    # A new descriptor is the lowest free one: this ends with the first one above.
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    # Python has none where the descriptor was closed when it began.
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def end_on_signals(code: int) -> None:
    """Have every stop signal end the process with this exit code, until an event loop handles them.

    A thread waits for them: a handler in Python would run when the main thread comes back from
    TensorFlow. As the first process of a container, one without a handler is not ended by a signal
    at all.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # First, so that no signal finds a handler and nobody who waits for it.
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, _note)
    threading.Thread(
        target=_end, args=(reader, writer, code), name="varserve-signals", daemon=True
    ).start()


def stop_requested() -> bool:
    """Whether a stop signal came before anything else handled it."""
    return bool(_received)


def _note(number: int, frame: object) -> None:
    _received.append(number)


def _end(reader: socket.socket, writer: socket.socket, code: int) -> None:
    number = reader.recv(1)[0]
    try:
        # Ending must not wait for whoever reads the log.
        if select.select([], [2], [], 0)[1]:
            os.write(2, _line(number))
    finally:
        os._exit(code)


def _line(number: int) -> bytes:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    name = signal.Signals(number).name
    return (
        f'{{"signal": "{name}", "event": "stopped before it was ready", "level": "info", '
        f'"logger": "varserve.process_start", "timestamp": "{at}"}}\n'
    ).encode()
