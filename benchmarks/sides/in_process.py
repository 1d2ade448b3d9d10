"""The model's function called where the model is: no server, no wire. A floor, not a peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.model import ROW
from benchmarks.sides.ours import numbers_of


class Client:
    """Works on the SavedModel in the folder that stands for an address."""

    def __init__(self, address: str) -> None:
        self._model = tf.saved_model.load(address)

    @contextmanager
    def call(self) -> Iterator[Callable[[], Any]]:
        add, x = self._model.add, np.ones(4, np.float32)
        yield lambda: add(tf.constant(x))["y"].numpy()

    @contextmanager
    def step(self) -> Iterator[Callable[[], Any]]:
        step = self._model.step
        yield lambda: step()["bias"].numpy()

    @contextmanager
    def summarize(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        """The numbers of a summary, by numpy and hashlib."""
        value = np.ones((nbytes // (4 * ROW), ROW), np.float32)
        yield lambda: numbers_of(value)

    @contextmanager
    def transform(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        add, x = self._model.add, np.ones(nbytes // 4, np.float32)
        yield lambda: add(tf.constant(x))["y"].numpy()
