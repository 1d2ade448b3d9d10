"""Memory, budgeted before it is allocated: a call that asks for more than there is, is refused.

Owns what was reserved and is not used yet. The creator of a budget provides how much there is.
Before a call is refused, what other callers keep alive and do not move is given up (`holdings`).
Knows nothing of what the memory is for.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

from .errors import OutOfMemory, Reason, RequestError
from .holdings import Holdings
from .threads import started

SMALL_BYTES = 4 * 2**20
"""What takes less is not budgeted: to look costs more than it could do harm."""


_TRIM_SECONDS = 0.2
"""Between two looks for freed memory: each takes a while."""


def is_budgeted(nbytes: int) -> bool:
    """Whether so many bytes of one call are reserved before they are taken."""
    return nbytes >= SMALL_BYTES


def trim() -> None:
    """Return what was freed to the system: the C library keeps it until it is told to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class LateTrim:
    """Trims some time after it was asked to: what is freed until then goes back, too.

    Once in `seconds` at most, however often it is asked. May be used from any thread.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()
        self._asked = False
        self._is_waiting = False

    def ask(self) -> None:
        """Memory was freed, or is about to be."""
        with self._turn:
            self._asked = True
            if not self._is_waiting:
                self._wait()

    def _wait(self) -> None:
        self._asked = False
        timer = threading.Timer(self._seconds, self._act)
        timer.daemon = True
        self._is_waiting = started(timer)

    def _act(self) -> None:
        trim()
        with self._turn:
            self._is_waiting = False
            if self._asked:
                self._wait()


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of one memory: those that are left now, of those that there may be."""

    available: int
    limit: int


class MemoryBudget:
    """What of one memory may still be taken. May be used from any thread.

    `place` names it in messages: "host", "GPU:0". `look` tells the room that there is now; None
    when it cannot tell: then nothing is refused. `reserve` bytes stay free whatever is asked for.
    """

    def __init__(
        self, place: str, look: Callable[[], Room | None] = lambda: None, reserve: int = 0
    ) -> None:
        self._place = place
        self._look = look
        self._reserve = reserve
        self._lock = threading.Lock()
        self._reserved = 0
        self._trimmed_at = -math.inf
        self.holdings = Holdings(self._limit)
        """What callers keep alive in it."""

    @property
    def place(self) -> str:
        """Which memory it is."""
        return self._place

    @property
    def reserved(self) -> int:
        """Bytes that were reserved and are not used yet."""
        return self._reserved

    def room(self) -> Room | None:
        """What may be taken now, after what is kept free and what was reserved."""
        room = self._look()
        if room is None:
            return None
        return Room(max(0, room.available - self._reserve - self._reserved), room.limit)

    def reserve(self, nbytes: int, thing: str) -> Reservation:
        """Reserve bytes for a thing. Raises OutOfMemory with `needed`, `available`, `limit`."""
        reservation = Reservation(self)
        reservation.add(nbytes, thing)
        return reservation

    def _take_bytes(self, nbytes: int, thing: str) -> None:
        room = self._short_of(nbytes)
        if room is not None and self._trims():
            room = self._short_of(nbytes)
        if room is None:
            return
        for _ in self.holdings.relief():
            self._trims()
            room = self._short_of(nbytes)
            if room is None:
                return
        might_fit = nbytes + self._reserve < room.limit
        raise OutOfMemory(
            f"{thing} needs {nbytes} bytes of {self._place} memory; {room.available} are "
            f"available, of {room.limit}; nothing was changed; "
            f"{'try again when less is in use, or ' if might_fit else ''}give the service more",
            needed=nbytes,
            available=room.available,
            limit=room.limit,
        )

    def _trims(self) -> bool:
        """Return what the C library keeps of freed memory. Whether that was done: not again soon.

        Of the many small pieces that callers left, it keeps gigabytes.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._trimmed_at < _TRIM_SECONDS:
                return False
            self._trimmed_at = now
        trim()
        return True

    def _short_of(self, nbytes: int) -> Room | None:
        """Reserve bytes; or the room that there is, when it does not suffice."""
        with self._lock:
            room = self.room()
            if room is not None and nbytes > room.available:
                return room
            self._reserved += nbytes
            return None

    def _limit(self) -> int | None:
        room = self._look()
        return None if room is None else room.limit

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._reserved -= nbytes


class Reservation:
    """Bytes reserved for one call, until they are used or its block ends.

    A thread that works for the call may go on after that, when its caller has gone.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held = 0
        self._small = 0
        self._turn = threading.Lock()
        self._ended = False

    def add(self, nbytes: int, thing: str) -> None:
        """Reserve more. Raises OutOfMemory; DEADLINE_EXCEEDED when the call has ended."""
        self._small += nbytes
        if not is_budgeted(self._small):
            return
        nbytes, self._small = self._small, 0
        self._budget._take_bytes(nbytes, thing)
        with self._turn:
            if not self._ended:
                self._held += nbytes
                return
        # No one else would return this.
        self._budget._give_back(nbytes)
        raise RequestError(Reason.DEADLINE_EXCEEDED, "the call has ended; nothing was changed")

    def used(self, nbytes: int) -> None:
        """Bytes were written to: from now on the system itself counts them as taken."""
        with self._turn:
            nbytes = min(nbytes, self._held)
            self._held -= nbytes
        if nbytes:
            self._budget._give_back(nbytes)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._turn:
            self._ended = True
        self.used(self._held)


@dataclass(frozen=True, slots=True)
class ModelReservation:
    """Bytes of a model's memories reserved for one call, until its block ends."""

    memory: ModelMemory
    host: Reservation
    device: Reservation

    def add(self, nbytes: int, thing: str, *, on: str) -> None:
        """Reserve more, for a value on a device. Raises as Reservation.add."""
        (self.device if self.memory.of(on) is self.memory.device else self.host).add(nbytes, thing)


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """The memories that a model's calls take from.

    `host`: of the process. `device`: where its values live; the same object on a host.
    """

    host: MemoryBudget
    device: MemoryBudget

    @property
    def is_host(self) -> bool:
        """The values live in host memory."""
        return self.device is self.host

    def of(self, device: str) -> MemoryBudget:
        """What a value on a device takes from: of some dtypes TensorFlow keeps all on the host."""
        return self.device if device == self.device.place else self.host

    @contextmanager
    def reserve(self, taken: Mapping[str, int], thing: str) -> Iterator[ModelReservation]:
        """Reserve bytes, by the device of the values that take them, and what the block adds."""
        with self.host.reserve(0, thing) as host, self.device.reserve(0, thing) as device:
            reservation = ModelReservation(self, host, device)
            for place, nbytes in taken.items():
                reservation.add(nbytes, thing, on=place)
            yield reservation

    @contextmanager
    def reserve_both(self, nbytes: int, thing: str) -> Iterator[None]:
        """Reserve bytes for what is worked out on the host and then brought to the device."""
        with self.host.reserve(nbytes, thing):
            if self.is_host:
                yield
            else:
                with self.device.reserve(nbytes, thing):
                    yield
