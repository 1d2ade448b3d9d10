"""The messages and services of the foreign contracts, from `contracts.binpb`.

`make proto` writes that file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    data = Path(__file__).with_name("contracts.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


class EveryPool:
    """Looks descriptors up among the foreign contracts first, then among those of this process.

    Both may have a file of one name (TensorFlow registers its own): what belongs together is then
    found together. Has the look-ups of a DescriptorPool that reflection makes; they raise KeyError.
    """

    def __getattr__(self, look_up: str) -> Callable[..., Any]:
        foreign, own = (getattr(pool, look_up) for pool in (_pool(), descriptor_pool.Default()))

        def find(*arguments: Any) -> Any:
            try:
                return foreign(*arguments)
            except KeyError:
                return own(*arguments)

        return find


def service(name: str) -> Any:
    """The descriptor of a service, by its full name."""
    return _pool().FindServiceByName(name)


@cache
def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(_pool().FindMessageTypeByName(name))
