"""Answers to reads of small variables that nobody has written since the last read.

Such a read needs no thread, no TensorFlow and no new tensor message: the same answer is sent again,
with the header of the present state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate

# Model, variable and dtype, as the request names them.
_Key: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    live: LiveModel
    revision: int
    body: bytes
    nbytes: int
    """Of the value in it."""


class ReadCache:
    """The last answers by what their requests name, bounded by count and by size.

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
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()

    def answer(self, request: pb.ReadVariableRequest, call: RpcCall) -> bytes | None:
        """The ReadVariableResponse to a request that was answered before, where it still holds.

        None when the name means another version, the variable was written since, or a write is in
        progress.
        """
        answer = self._answers.get((request.model, request.variable, request.dtype))
        if answer is None or not _is_plain(request):
            return None
        if self._resolve(request.model) is not answer.live:
            return None
        header = answer.live.header_unless_written(request.variable, since=answer.revision)
        if header is None:
            return None
        call.note(
            model=header.model,
            version=header.version,
            revision=header.revision,
            read_bytes=answer.nbytes,
        )
        # Two parts of one message: protobuf merges the fields of one with those of the other.
        response = pb.ReadVariableResponse(header=translate.header(header))
        header_bytes: bytes = response.SerializeToString()
        return header_bytes + answer.body

    def keep(
        self,
        request: pb.ReadVariableRequest,
        live: LiveModel,
        response: pb.ReadVariableResponse,
    ) -> None:
        """Keep an answer to a request for a whole variable as it is now."""
        if not _is_plain(request) or self._resolve(request.model) is not live:
            return
        if request.ByteSize() + response.ByteSize() > self._max_bytes:
            return
        body = pb.ReadVariableResponse(
            variable_revision=response.variable_revision, value=response.value
        )
        key = request.model, request.variable, request.dtype
        self._answers[key] = _Answer(
            live,
            response.variable_revision,
            body.SerializeToString(),
            len(response.value.data) + sum(8 + len(s) for s in response.value.strings),
        )
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_count:
            self._answers.popitem(last=False)

    def forget(self, live: LiveModel) -> None:
        """Drop the answers of a model."""
        for key in [key for key, answer in self._answers.items() if answer.live is live]:
            del self._answers[key]


def _is_plain(request: pb.ReadVariableRequest) -> bool:
    """Whether a request asks for a whole variable, as it is now, in any case."""
    return not any(map(request.HasField, ("region", "if_newer_than", "at_revision")))
