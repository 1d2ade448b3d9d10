"""The client for asyncio: `varserve.aio.connect`, and the rest is the same with `await`.

    async with varserve.aio.connect("localhost:8500") as client:
        model = await client.model("basic_pitch")
        kernel = model.variables["conv2d_1/kernel"]
        value = await kernel.numpy()

One client belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc

from varserve._client import admin, client
from varserve._client.handles import functions, leases, models, variables, watches
from varserve._client.transport import drivers as transport
from varserve._client.transport.credentials import Tls, Token

AdminClient: TypeAlias = admin.AdminClient[transport.Async]
Client: TypeAlias = client.Client[transport.Async]
Function: TypeAlias = functions.Function[transport.Async]
Lease: TypeAlias = leases.Lease[transport.Async]
Model: TypeAlias = models.Model[transport.Async]
Region: TypeAlias = variables.Region[transport.Async]
Transaction: TypeAlias = models.Transaction[transport.Async]
Variable: TypeAlias = variables.Variable[transport.Async]
Watch: TypeAlias = watches.Watch[transport.Async]


def connect(
    target: str,
    *,
    timeout: float = 30.0,
    retries: int = 4,
    tls: Tls | bool = False,
    token: Token | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    options: Sequence[tuple[str, Any]] = (),
    round_robin: bool | None = None,
    wait_for_ready: bool = False,
) -> Client:
    """A client of the service at `HOST:PORT`. All arguments: as of `varserve.connect`."""
    return client.make(
        transport.Async,
        target,
        timeout=timeout,
        retries=retries,
        tls=tls,
        token=token,
        credentials=credentials,
        metadata=metadata,
        options=options,
        round_robin=round_robin,
        wait_for_ready=wait_for_ready,
        of=client.Client[transport.Async],
    )


def connect_admin(
    target: str,
    *,
    timeout: float = 600.0,
    retries: int = 4,
    tls: Tls | bool = False,
    token: Token | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> AdminClient:
    """A client of the admin port at `HOST:PORT`. All arguments: as of `varserve.connect`."""
    return client.make(
        transport.Async,
        target,
        timeout=timeout,
        retries=retries,
        tls=tls,
        token=token,
        credentials=credentials,
        metadata=metadata,
        options=options,
        round_robin=False,
        wait_for_ready=False,
        of=admin.AdminClient[transport.Async],
    )


__all__ = [
    "AdminClient",
    "Client",
    "Function",
    "Lease",
    "Model",
    "Region",
    "Transaction",
    "Variable",
    "Watch",
    "connect",
    "connect_admin",
]
