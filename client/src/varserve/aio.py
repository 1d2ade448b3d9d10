"""The client for asyncio: `varserve.aio.connect`, and the rest is the same with `await`.

    async with varserve.aio.connect("localhost:8500") as client:
        model = await client.model("basic_pitch")
        kernel = model.variables["conv2d_1/kernel"]
        value = await kernel.numpy()

One client belongs to one event loop at a time: when that loop has ended, to the next one.
"""

from __future__ import annotations

from typing import TypeAlias

from ._client import admin, client
from ._client.connect import ADMIN_SECONDS, CLIENT_SECONDS, ConnectOptions, options_of
from ._client.handles import functions, leases, models, transactions, variables, watches
from ._client.transport.drivers import Async

AdminClient: TypeAlias = admin.AdminClient[Async]
Client: TypeAlias = client.Client[Async]
Function: TypeAlias = functions.Function[Async]
Lease: TypeAlias = leases.Lease[Async]
Model: TypeAlias = models.Model[Async]
Region: TypeAlias = variables.Region[Async]
Transaction: TypeAlias = transactions.Transaction[Async]
Variable: TypeAlias = variables.Variable[Async]
Watch: TypeAlias = watches.Watch[Async]


@options_of(ConnectOptions)
def connect(target: str, options: ConnectOptions) -> Client:
    """A client of the service at `HOST:PORT`, `unix:PATH`, or another target of gRPC.

    Without a target, as `varserve.connect` finds it. The keywords are those of `ConnectOptions`.
    """
    return client.Client(Async(options.endpoint(target)), options.defaults(target, CLIENT_SECONDS))


@options_of(ConnectOptions, default="admin_server")
def connect_admin(target: str, options: ConnectOptions) -> AdminClient:
    """A client of the admin port at `HOST:PORT`; without one, as `varserve.connect` finds it.

    The keywords are those of `ConnectOptions`.
    """
    return admin.AdminClient(
        Async(options.endpoint(target, admin=True)), options.defaults(target, ADMIN_SECONDS)
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
