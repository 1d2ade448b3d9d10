"""What makes a client usable in a forked child, while the parent's threads make calls.

gRPC takes its threads and sockets through a fork only when no thread is inside it at that moment,
and hangs in the child otherwise. So the threads of blocking clients pass a gate on their way into
gRPC; a fork closes the gate and waits, for a bounded time, until no thread is inside. In the child
each client makes a channel, locks and streams of its own.

A thread that is inside may enter again, also while a fork waits for it. A thread that holds a lock
which is taken inside, too, must be inside: outside it would keep the lock while the gate is closed.
"""

from __future__ import annotations

import os
import threading
import time
from threading import get_ident
from types import TracebackType
from typing import Any
from weakref import ref

from varserve._client import errors

_LONGEST_WAIT = 5.0
"""Seconds that a fork waits for calls in progress."""


class Renewable:
    """Has locks, channels or streams that a child must not share with its parent."""

    polls = False
    """gRPC has a thread for it that never leaves gRPC."""

    def _before_fork(self) -> None:
        """This process will be forked, and nobody is inside gRPC: close what need not be open."""

    def _after_fork(self) -> None:
        """This is a forked child: replace them."""


class Gate:
    """Counts the threads that are inside gRPC. A fork waits until there are none."""

    def __init__(self) -> None:
        self._renew_lock()
        self._inside: dict[int, int] = {}
        """By thread, how often it has entered and not left."""
        self._forking = 0
        self._streams: set[Any] = set()
        # By identity: some of them compare by their content.
        self._renewables: dict[int, ref[Renewable]] = {}
        self._abandoned: list[Any] = []
        self.forked = False
        """This process is a forked child."""
        self._broken = ""

    def _renew_lock(self) -> None:
        # A signal's handler may make calls while its thread holds it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def renew_in_child(self, renewable: Renewable) -> None:
        """Call `renewable` in the child of each fork."""
        key = id(renewable)
        self._renewables[key] = ref(renewable, lambda _: self._renewables.pop(key, None))

    def abandon(self, inherited: Any) -> None:
        """Keep what belongs to the parent from being destroyed here: gRPC would wait for it."""
        self._abandoned.append(inherited)

    def check(self) -> None:
        """Raises FailedPrecondition where gRPC would hang, in a child that was forked too early."""
        if self._broken:
            raise errors.FailedPrecondition(
                f"this process was forked while {self._broken}, and gRPC would hang in it: start "
                "processes with 'spawn' or 'forkserver'",
                reason="FORKED",
            )

    # Every call passes here: the lock itself, without the functions of the condition around it.

    def __enter__(self) -> None:
        me = get_ident()
        with self._lock:
            entered = self._inside.get(me, 0)
            while self._forking and not entered:
                self._changed.wait()
            self._inside[me] = entered + 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        me = get_ident()
        with self._lock:
            left = self._inside[me] - 1
            if left:
                self._inside[me] = left
                return
            del self._inside[me]
            if self._forking:
                self._changed.notify_all()

    def receive(self, stream: Any) -> Any:
        """The next message of a stream that may be silent for long; None when it has ended.

        A fork cancels the stream, as a lost connection would end it.
        """
        self._streams.add(stream)  # before the gate: a fork must not wait for this stream
        try:
            with self:
                return next(stream, None)
        finally:
            self._streams.discard(stream)

    def _alive(self) -> list[Renewable]:
        renewables = [each() for each in list(self._renewables.values())]
        return [each for each in renewables if each is not None]

    # ---- around a fork ----

    def before(self) -> None:
        """In the parent, by the thread that forks."""
        deadline = time.monotonic() + _LONGEST_WAIT
        me = get_ident()  # a signal's handler may fork during its thread's call
        with self._changed:
            self._forking += 1
            for stream in list(self._streams):
                stream.cancel()
            while self._inside.keys() - {me} and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            idle = not self._inside
        if idle:
            for renewable in self._alive():
                renewable._before_fork()

    def after_in_parent(self) -> None:
        """In the parent."""
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """In the child, whose only thread this is."""
        alive = self._alive()
        if self._inside:
            self._broken = "a call was in progress"
        elif os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() in ("0", "false", "no"):
            self._broken = "GRPC_ENABLE_FORK_SUPPORT was off"
        elif any(each.polls for each in alive):
            self._broken = "an asyncio client was open"
        self.forked = True
        self._renew_lock()
        self._inside.clear()
        self._forking = 0
        self._streams.clear()
        for each in alive:
            each._after_fork()


GATE = Gate()
os.register_at_fork(
    before=GATE.before,
    after_in_parent=GATE.after_in_parent,
    after_in_child=GATE.after_in_child,
)
