"""Functions with the probed tensors as further outputs: the engine for probes that come again.

TensorFlow optimizes and runs such a version as a whole, nearly as fast as the function itself; the
interpreter takes about twice as long. To make one takes up to seconds and some megabytes: it is
made when the same probes are asked for again, and few are kept.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from varserve_service.core.memory import LateTrim

from .rewriting import Place, Version, with_outputs

_log = logging.getLogger(__name__)

MOST_KEPT = 8
"""Versions that are kept of one model."""
_ASKED_BEFORE = 2
_REMEMBERED = 256

# Graphs are many small pieces, which leave gaps that nothing else fits into, and so does the first
# run of one, for which TensorFlow optimizes it.
_trim = LateTrim()


class RebuiltGraphs:
    """The versions of one model's functions, the least recently used of which make room."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._turn = threading.Lock()
        self._asked: OrderedDict[tuple[str, frozenset[int]], int] = OrderedDict()
        self._kept: OrderedDict[tuple[str, frozenset[int]], Rebuilt | None] = OrderedDict()

    def find(
        self, function: str, outputs: int, probes: frozenset[int], places: Sequence[Place]
    ) -> Rebuilt | None:
        """The version for these probes; None where they are new, or it is being made, or cannot be.

        `function` is the name of the definition; `places` are those of the probes.
        """
        key = (function, probes)
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            asked = self._asked.pop(key, 0)
            self._asked[key] = asked + 1
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            if asked < _ASKED_BEFORE:
                return None
            self._kept[key] = None  # Other calls use the interpreter meanwhile.
        made = None
        try:
            made = Rebuilt(with_outputs(function, outputs, places), outputs)
        except (ValueError, KeyError, tf.errors.OpError) as error:
            _log.debug("function %s cannot be rebuilt for its probes: %s", function, error)
        with self._turn:
            self._kept[key] = made
            while len(self._kept) > self._most:
                # A version is freed when the last run of it ends.
                self._kept.popitem(last=False)
        return made


class Rebuilt:
    """A version with more outputs."""

    def __init__(self, version: Version, outputs: int) -> None:
        self._version = version
        self._outputs = outputs
        self._has_run = False

    def call(self, inputs: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The function's own outputs, and the probed tensors in their order."""
        found = self._version.call(inputs)
        if not self._has_run:
            self._has_run = True
            _trim.ask()
        return found[: self._outputs], found[self._outputs :]
