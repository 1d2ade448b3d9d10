"""A session as bytes: calls and cancellations go out as they are asked for, answers come back."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tests.rpc.wire import Outcome
from varserve.reasons import Failure, read_details
from varserve.v1 import session_pb2 as pb

PATH = "/varserve.v1.ModelService/Session"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class SessionWire:
    """One session on a channel. `end` has its end, once it has ended."""

    def __init__(self, channel: grpc.Channel, **metadata: str) -> None:
        self._messages: queue.SimpleQueue[pb.SessionRequest | None] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._answers: dict[int, pb.SessionAnswer] = {}
        self._changed = threading.Condition()
        self.end: Any = None
        self.messages = 0
        call = channel.stream_stream(
            PATH,
            request_serializer=pb.SessionRequest.SerializeToString,
            response_deserializer=pb.SessionResponse.FromString,
        )
        self.stream: Any = call(
            iter(self._messages.get, None), metadata=tuple(metadata.items()), timeout=120
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self.stream:
                with self._changed:
                    self.messages += 1
                    for answer in response.answers:
                        assert answer.id not in self._answers
                        self._answers[answer.id] = answer
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        with self._changed:
            self.end = self.stream.code()
            self._changed.notify_all()

    def send(self, *calls: pb.SessionCall, cancelled: tuple[int, ...] = ()) -> None:
        """Send one message."""
        self._messages.put(pb.SessionRequest(calls=calls, cancelled_ids=cancelled))

    def call(self, method: str, request: bytes, **fields: Any) -> pb.SessionCall:
        """A call with an id of its own, to be sent."""
        return pb.SessionCall(id=next(self._ids), method=method, request=request, **fields)

    def begin(self, method: str, request: Any, **fields: Any) -> int:
        """Send a call; its id."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        call = self.call(method, data, **fields)
        self.send(call)
        return call.id

    def answer(self, ident: int, seconds: float = 30) -> Outcome | None:
        """What became of a call; None: the session ended without an answer to it."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: ident in self._answers or self.end is not None, seconds
            )
            assert found, f"no answer to call {ident} within {seconds} seconds"
            answer = self._answers.pop(ident, None)
        return None if answer is None else outcome_of_answer(answer)

    def ask(self, method: str, request: Any, **fields: Any) -> Outcome:
        """One call, and what became of it."""
        outcome = self.answer(self.begin(method, request, **fields))
        assert outcome is not None, self.end
        return outcome

    def close(self) -> None:
        """Send no more, and wait for the end."""
        self._messages.put(None)
        self._reader.join(60)
        assert not self._reader.is_alive()


def outcome_of_answer(answer: pb.SessionAnswer) -> Outcome:
    """The outcome of an answer, as that of a call that came alone."""
    if answer.WhichOneof("outcome") == "response":
        return Outcome(grpc.StatusCode.OK, responses=(answer.response,))
    failure: Failure | None = read_details(answer.error.SerializeToString())
    return Outcome(CODES[answer.error.code], answer.error.message, failure)


@contextmanager
def in_session(address: str, **metadata: str) -> Iterator[SessionWire]:
    """A session on a connection of its own, with metadata."""
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        wire = SessionWire(channel, **metadata)
        try:
            yield wire
        finally:
            wire.stream.cancel()
            wire.close()
