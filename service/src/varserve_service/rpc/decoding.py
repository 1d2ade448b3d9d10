"""Decodes requests, within bounds, so that none of them holds up the event loop.

Owns what is done on the event loop and what on a thread. Knows rows and protobuf's wire format.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from varserve_service.core.threads import model_executor

from .messages import translate
from .messages.wire_count import NUMBERS_PER_FIELD, STRINGS_PER_FIELD, count_fields, opaque_bytes
from .row import Row

T = TypeVar("T")

# Requests with at most so many fields are decoded and judged on the event loop: others wait for
# that no longer than for a thread. A field takes two bytes at least.
_PAGE_FIELDS = 500
_PAGE_BYTES = 2 * _PAGE_FIELDS
# Beyond it, to decode a request takes a copy that the event loop should not make.
_QUICK_BYTES = 8 << 20
# Fields of one request, where no model is so large that a request about all of its variables has
# more. To decode as many takes milliseconds.
MAX_FIELDS = 100_000
_FIELDS_PER_VARIABLE = 8
# Between two pieces of work on a thread that are about as long as Python lets one have.
_PAUSE_SECONDS = 0.0002
# Variables of a model beyond which a look at all of them is a thread's work.
_PAGE_VARIABLES = 1_000


class Decoder:
    """Decodes the requests of one service."""

    def __init__(
        self,
        message_bytes: int = 4 * 2**20,
        large_messages: Mapping[str, int] | None = None,
        most_variables: Callable[[], int] = lambda: 0,
    ) -> None:
        """`message_bytes`: of one request; `large_messages` has, by service, how many it may have
        with the bytes of tensors in it. `most_variables` tells how many the largest model has.
        """
        self._message_bytes = message_bytes
        self._large_messages = large_messages or {}
        self._most_variables = most_variables
        self._preparing = model_executor(2, "varserve-prepare")

    @property
    def has_large_models(self) -> bool:
        """Whether a look at all variables of a model is work for a thread."""
        return self._most_variables() > _PAGE_VARIABLES

    async def run(self, work: Callable[[], T], *, large: bool) -> T:
        """Do work on a request: on a thread if it is large, else here."""
        if not large:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._preparing, work)

    def close(self) -> None:
        """End the threads."""
        self._preparing.shutdown(wait=False, cancel_futures=True)

    def decode_small(self, row: Row, data: bytes) -> Any | None:
        """The request; None of one that names more than the event loop should look at."""
        if len(data) > _PAGE_BYTES:
            self._check_size(row, data)
            if len(data) > _QUICK_BYTES:
                return None
            if count_fields(data, row.descriptor.input_type, _PAGE_FIELDS) > _PAGE_FIELDS:
                return None
        return row.decode(data)

    async def decode_large(self, row: Row, data: bytes) -> Any:
        """The request, decoded on a thread."""

        def decode() -> Any:
            self._check_fields(row, data)
            return row.decode(data)

        return await self.run(decode, large=True)

    def _check_fields(self, row: Row, data: bytes) -> None:
        """Refuse a request with more fields than any that is of use."""
        most = max(MAX_FIELDS, _FIELDS_PER_VARIABLE * self._most_variables())
        if count_fields(data, row.descriptor.input_type, most, _pause) > most:
            raise translate.malformed(
                f"the request has more than {most} fields, of which {STRINGS_PER_FIELD} strings "
                f"of a list or {NUMBERS_PER_FIELD} numbers count as one; send several requests, "
                "or the values as the bytes of a tensor or by a stream"
            )

    def _check_size(self, row: Row, data: bytes) -> None:
        """Refuse a message that is too large as a whole, or without the bytes of its tensors.

        gRPC has one limit for all services of a port.
        """
        if len(data) <= self._message_bytes:
            return
        method = row.method.name
        limit = self._large_messages.get(row.method.service, self._message_bytes)
        if len(data) > limit:
            raise translate.too_large(f"the request of {method}", len(data), limit)
        structured = len(data) - opaque_bytes(data, row.descriptor.input_type)
        if structured > self._message_bytes:
            thing = f"the request of {method}, without raw bytes of tensors,"
            raise translate.too_large(thing, structured, self._message_bytes)


def _pause() -> None:
    """On a thread, let others run, the event loop above all, before they have to ask for it."""
    time.sleep(_PAUSE_SECONDS)
