"""A session as bytes: calls and cancellations go out as they are asked for, answers come back.

On its stream, or on a connection of the lane.
"""

from __future__ import annotations

import itertools
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from tests.rpc.wire import Outcome
from varserve import lane
from varserve.reasons import Failure, read_details
from varserve.v1 import session_pb2 as pb

PATH = "/varserve.v1.ModelService/Session"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class SessionWire:
    """One session on a channel. `end` has its end, once it has ended, `text` what was told then."""

    def __init__(self, channel: grpc.Channel, **metadata: str) -> None:
        self._messages: queue.SimpleQueue[pb.SessionRequest | None] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._answers: dict[int, pb.SessionAnswer] = {}
        self._changed = threading.Condition()
        self.end: Any = None
        self.text = ""
        self.messages = 0
        self.offer: pb.SessionLane | None = None
        self.connection: socket.socket | None = None
        self._receiver: threading.Thread | None = None
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
                self._take(response)
        except grpc.RpcError:
            pass
        if self._receiver is not None:
            self._receiver.join(30)  # it has the last answers
        with self._changed:
            self.text = self.stream.details()
            self.end = self.stream.code()
            self._changed.notify_all()

    def _take(self, response: pb.SessionResponse) -> None:
        with self._changed:
            self.messages += 1
            if response.HasField("lane"):
                assert self.offer is None
                self.offer = response.lane
            for answer in response.answers:
                assert answer.id not in self._answers
                self._answers[answer.id] = answer
            self._changed.notify_all()

    def ask_for_lane(self) -> pb.SessionLane:
        """What the service offers."""
        self._messages.put(pb.SessionRequest(lane=True))
        with self._changed:
            assert self._changed.wait_for(lambda: self.offer is not None, 30)
        assert self.offer is not None
        return self.offer

    def connect(self) -> None:
        """Send and receive on the lane from now on."""
        self.connection = shown(self.ask_for_lane())
        self._receiver = threading.Thread(target=self._receive)
        self._receiver.start()

    def _receive(self) -> None:
        assert self.connection is not None
        messages = lane.Messages(1 << 30)
        try:
            while data := self.connection.recv(1 << 16):
                messages.add(data)
                while (message := messages.next()) is not None:
                    self._take(pb.SessionResponse.FromString(message))
        except ConnectionResetError:
            pass  # it had not read all

    def send(self, *calls: pb.SessionCall, cancelled: tuple[int, ...] = ()) -> None:
        """Send one message."""
        request = pb.SessionRequest(calls=calls, cancelled_ids=cancelled)
        if self.connection is None:
            self._messages.put(request)
        else:
            self.connection.sendall(lane.with_length(request.SerializeToString()))

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
        if self.connection is None:
            self._messages.put(None)
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
        self._reader.join(60)
        assert not self._reader.is_alive()
        self._messages.put(None)
        if self.connection is not None:
            self.connection.close()


def shown(offer: pb.SessionLane) -> socket.socket:
    """The connection that an offer is for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(30)
        peer.connect(offer.socket)
        peer.send(lane.HELLO + offer.ticket.ticket)
        proof, fds, _, _ = socket.recv_fds(peer, 64, 2)
    assert proof == offer.ticket.proof
    return socket.socket(fileno=fds[0])


def outcome_of_answer(answer: pb.SessionAnswer) -> Outcome:
    """The outcome of an answer, as that of a call that came alone."""
    if answer.WhichOneof("outcome") == "response":
        return Outcome(grpc.StatusCode.OK, responses=(answer.response,))
    failure: Failure | None = read_details(answer.error.SerializeToString())
    return Outcome(CODES[answer.error.code], answer.error.message, failure)


@contextmanager
def in_session(address: str, *, by_lane: bool = False, **metadata: str) -> Iterator[SessionWire]:
    """A session on a connection of its own, with metadata; its messages on the lane, or not."""
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        wire = SessionWire(channel, **metadata)
        try:
            if by_lane:
                wire.connect()
            yield wire
        finally:
            wire.stream.cancel()
            wire.close()
