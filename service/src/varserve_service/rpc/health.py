"""grpc.health.v1, with bounds: it answers anybody who has a connection.

Knows gRPC; knows nothing of models but what they may be called.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

MAX_WATCHES = 1024
"""`Watch` streams of the whole service at once; each takes about 20 KiB."""
MAX_WATCHES_PER_CONNECTION = 32
# Characters of a service's name: of a watch it is kept.
_MAX_NAME = 512


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """Health of the service, of its models, and of their labels and versions."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: Counter[str] = Counter()

    @property
    def watches(self) -> int:
        """`Watch` streams that are open. From any thread."""
        return sum(list(self._connections.values()))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the health now, and each time that it changes.

        RESOURCE_EXHAUSTED beyond the bounds; `Check` has none.
        """
        if len(request.service) > _MAX_NAME:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"service: expected at most {_MAX_NAME} characters, found {len(request.service)}",
            )
        connection = context.peer()
        for found, most, where in (
            (self.watches, MAX_WATCHES, "in all"),
            (self._connections[connection], MAX_WATCHES_PER_CONNECTION, "on a connection"),
        ):
            if found >= most:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{found} watches of health are open; expected at most {most} {where}; "
                    "use Check, or retry later",
                )
        self._connections[connection] += 1
        try:
            await super().Watch(request, context)
        finally:
            self._connections[connection] -= 1
            if not self._connections[connection]:
                del self._connections[connection]
