"""What an operation is made of: the steps that it asks a driver for, and what it may use up.

An operation is a generator: it yields steps (`Call`, `Sleep`, ...), is sent what each gave, and
returns its result. It does no I/O of its own, so that one description serves both drivers. Steps
are named tuples, which are made at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from varserve._client import errors, wording

from .retries import Throttle

if TYPE_CHECKING:
    from .endpoint import LaneUse

T = TypeVar("T")


class Method(NamedTuple):
    """An RPC: its path, its name in its service, how its answers are read, which sides stream."""

    path: str
    name: str
    read: Callable[[bytes], Any]
    streams_requests: bool = False
    streams_responses: bool = False
    small: bool = False
    """Its requests and answers are small as a rule, and its calls come often."""

    @property
    def shape(self) -> str:
        """The name of grpc.Channel's method for it."""
        sides = (self.streams_requests, self.streams_responses)
        return "_".join("stream" if streams else "unary" for streams in sides)


def positive_seconds(given: Any, name: str = "timeout") -> float:
    """A time that a caller gave as the argument `name`. Raises InvalidRequest unless above 0."""
    try:
        seconds = math.nan if isinstance(given, (str, bytes)) else float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not seconds > 0:
        raise errors.InvalidRequest(
            f"{name}: expected seconds above 0 that a float can hold, found {wording.shown(given)}"
        )
    return seconds


class Budget:
    """What an operation may use: seconds and retries, counted from now, and the lane.

    `throttle` is shared by all operations of a client. `lane`: None: not at all.
    """

    def __init__(
        self,
        timeout: float,
        retries: int,
        throttle: Throttle | None = None,
        lane: LaneUse | None = None,
    ) -> None:
        self.lane = lane
        self.timeout = timeout
        self.retries = retries
        self.throttle = throttle or Throttle()
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds left, not below 0; infinity when there is no deadline."""
        left = self._end - time.monotonic()
        return left if left > 0 else 0.0


class Receiver(Protocol):
    """Takes the messages of one answering stream and makes one answer of them."""

    def blocks(self, message: Any) -> bool:
        """Whether `take` may wait, so that an event loop leaves it to a thread."""

    def take(self, message: Any) -> None:
        """One message, in order."""

    def finish(self) -> Any:
        """The stream has ended well: the answer."""


class LaneFailed(errors.VarserveError):
    """The lane gave nothing: the same call goes another way. Never reaches a caller."""


class Call(NamedTuple):
    """One attempt at an RPC.

    `request` is the message, or for a streaming request what makes its messages. `receive` makes
    the receiver of a streaming answer. `hand_over` is for a streaming request whose body may go
    another way: given the ticket for it, it tells whether it did. It blocks.
    """

    method: Method
    request: Any
    budget: Budget
    receive: Callable[[], Receiver] | None = None
    hand_over: Callable[[bytes], bool] | None = None


class Sleep(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


class Work(NamedTuple):
    """Do something that blocks, such as reading a file: on a thread where a loop must go on."""

    do: Callable[[], Any]


class Open(NamedTuple):
    """Begin a watch: a call whose answer is a stream without a foreseeable end; gives the stream.

    The stream's `cancel()` ends it, with either driver, from any thread and without waiting.
    """

    call: Call


class Receive(NamedTuple):
    """Wait for the next message of a stream; gives None when the stream has ended."""

    stream: Any


class Close:
    """Close the channel."""


Step: TypeAlias = Call | Open | Receive | Sleep | Work | Close
Op: TypeAlias = Generator[Step, Any, T]
"""Returns a T from a blocking client; is awaited for a T from an asyncio client."""
