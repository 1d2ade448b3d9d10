"""Prints of a plain run: dropped, or given to the call that they belong to, at plain speed.

TensorFlow writes what a function prints to the process's own standard error. Instead a version of
the function is called that has no prints, or whose prints call back. A version that calls back
serves one run at a time, so that each run gets its own lines: others are made as they are needed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from varserve_service.core.ports.function_messages import (
    FunctionMessage,
    MessageKind,
    MessageListener,
)
from varserve_service.savedmodel.runtime import (
    CancellationManager,
    FlatCall,
    name_of,
    register_python,
)

from .rewriting import Version, prints, with_prints_to, without_prints

_MOST_KEPT = 8
_MOST_MESSAGES = 10_000
_MOST_CHARACTERS = 2**20


class Printing:
    """Calls one concrete function that prints. Any thread may call it."""

    def __init__(self, call: FlatCall, outputs: int) -> None:
        self._name = name_of(call)
        self._outputs = outputs
        self._silent: Version | None = None
        self._free: list[_Speaking] = []
        self._turn = threading.Lock()

    @classmethod
    def of(cls, call: FlatCall, outputs: int, known: dict[str, bool]) -> Printing | None:
        """None for a function that does not print. `known`: as of `rewriting.prints`."""
        return cls(call, outputs) if prints(name_of(call), known) else None

    def call(
        self,
        inputs: list[Any],
        cancellation: CancellationManager | None = None,
        *,
        on_message: MessageListener | None,
    ) -> Sequence[Any]:
        """Call it flat; without a listener its prints are dropped."""
        if on_message is None:
            return self._without().call(inputs, cancellation)
        with self._turn:
            free = self._free.pop() if self._free else None
        # As many as there are runs at once, which the model's threads bound.
        speaking = free or _Speaking(self._name, self._outputs)
        try:
            return speaking.call(inputs, cancellation, on_message)
        finally:
            with self._turn:
                if len(self._free) < _MOST_KEPT:
                    self._free.append(speaking)

    def _without(self) -> Version:
        with self._turn:
            if self._silent is None:
                self._silent = without_prints(self._name, self._outputs)
            return self._silent


class _Speaking:
    """A version whose prints come to whoever calls it."""

    def __init__(self, name: str, outputs: int) -> None:
        self._listener: MessageListener | None = None
        self._count = self._characters = 0
        self._printers: list[Mapping[str, str]] = []
        # TensorFlow has a weak reference alone: a bound method would be gone at once.
        self._printed = lambda number, text: self._print(int(number), text)
        token = register_python(self._printed)
        self._version, self._printers = with_prints_to(token, name, outputs)

    def call(
        self,
        inputs: list[Any],
        cancellation: CancellationManager | None,
        on_message: MessageListener,
    ) -> Sequence[Any]:
        self._listener = on_message
        self._count = self._characters = 0
        try:
            return self._version.call(inputs, cancellation)
        finally:
            self._listener = None

    def _print(self, number: int, text: bytes) -> list[Any]:
        """One line, on a thread of TensorFlow's."""
        listener = self._listener
        if listener is None or self._count > _MOST_MESSAGES:
            return []
        printer = self._printers[number]
        line = bytes(text).decode(errors="replace")
        self._count += 1
        self._characters += len(line)
        if self._count > _MOST_MESSAGES or self._characters > _MOST_CHARACTERS:
            self._count = _MOST_MESSAGES + 1
            line = "more was printed than the service keeps of one run"
        listener(FunctionMessage(MessageKind.PRINT, printer["op"], (), line, (), **_where(printer)))
        return []


def _where(printer: Mapping[str, str]) -> dict[str, str]:
    return {"stream": printer["stream"], "end": printer["end"]}
