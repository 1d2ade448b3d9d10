"""Runs the application on an address until somebody ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

_DRAIN_SECONDS = 2
"""Pages that listen for changes never end by themselves."""


def serve(app: Starlette, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` is told the URL once browsers can connect.

    Raises OSError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        listener.bind((host, port))
        listener.listen(128)
        bound = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        ready(f"http://{shown}:{bound}/")
        uvicorn.Server(config).run(sockets=[listener])
