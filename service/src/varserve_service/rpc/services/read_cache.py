"""Answers to reads of small variables that nobody has written since the last read.

Such a read needs no thread, no TensorFlow and no message object: what was sent for it is sent
again, under the header of the state as it is now.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.entry.observing import note, note_header
from varserve_service.rpc.messages import translate


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    live: LiveModel
    model: str
    variable: str
    revision: int
    body: bytes
    nbytes: int
    """Of the value in it."""


class ReadCache:
    """The last answers by the bytes of their requests, bounded by count and by size.

    `resolve` tells which live model a name means now. Used from the event loop alone.
    """

    def __init__(
        self,
        resolve: Callable[[str], LiveModel | None],
        max_count: int = 1024,
        max_bytes: int = 16 * 1024,
    ) -> None:
        self._resolve = resolve
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def answer(self, data: bytes) -> bytes | None:
        """The ReadVariableResponse to a request that was answered before, when it can be had now.

        None when the name means another version, the variable was written since, or a write is in
        progress.
        """
        kept = self._kept.get(data)
        if kept is None or self._resolve(kept.model) is not kept.live:
            return None
        header = kept.live.header_unless_written(kept.variable, since=kept.revision)
        if header is None:
            return None
        note_header(header)
        note(read_bytes=kept.nbytes)
        # Two parts of one message: protobuf takes the bytes of one after those of the other.
        response = pb.ReadVariableResponse(header=translate.header(header))
        return response.SerializeToString() + kept.body

    def keep(self, data: bytes, live: LiveModel, response: pb.ReadVariableResponse) -> None:
        """Remember an answer to a request for a whole variable as it is."""
        request = pb.ReadVariableRequest.FromString(data)
        if self._resolve(request.model) is not live:
            return
        if any(map(request.HasField, ("region", "if_newer_than", "at_revision"))):
            return
        if len(data) + response.ByteSize() > self._max_bytes:
            return
        body = pb.ReadVariableResponse(
            variable_revision=response.variable_revision, value=response.value
        )
        self._kept[data] = _Kept(
            live,
            request.model,
            request.variable,
            response.variable_revision,
            body.SerializeToString(),
            len(response.value.data) + sum(8 + len(s) for s in response.value.strings),
        )
        self._kept.move_to_end(data)
        if len(self._kept) > self._max_count:
            self._kept.popitem(last=False)

    def forget(self, live: LiveModel) -> None:
        """Answer nothing for this model any more, and let go of it."""
        for data in [data for data, kept in self._kept.items() if kept.live is live]:
            del self._kept[data]
