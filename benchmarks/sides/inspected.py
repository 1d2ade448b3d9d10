"""basic-pitch looked into where it is: the core over TensorFlow, without a server and a wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pitch import FUNCTION, PITCH, audio, spread
from varserve_service import savedmodel
from varserve_service.core.inspection.ports import Inspection
from varserve_service.core.model.inspecting import Supposed
from varserve_service.core.model.live_model import LiveModel


class Client:
    """Works on the SavedModel in the folder that stands for an address."""

    def __init__(self, address: str) -> None:
        placement = savedmodel.configure_devices("cpu")
        self._live = LiveModel(savedmodel.load(PITCH, Path(address), placement=placement))

    @contextmanager
    def plain(self) -> Iterator[Callable[[], Any]]:
        """A run, its outputs as arrays."""
        inputs = audio()

        def act() -> None:
            values = self._live.run(FUNCTION, dict(inputs), {}).values
            assert all(value.numpy().size for value in values.values())

        yield act

    @contextmanager
    def everything(self) -> Iterator[Callable[[], Any]]:
        """A run with all inner tensors kept, which the interpreter makes."""
        yield self._look("*", calls=1)

    @contextmanager
    def again(self, tensors: int) -> Iterator[Callable[[], Any]]:
        """A run with so many inner tensors kept, which have been asked for before."""
        found = self._live.inspecting.tensors(FUNCTION).tensors
        yield self._look(*spread(found, tensors), calls=3)

    def _look(self, *probes: str, calls: int) -> Callable[[], Any]:
        inputs, asked = audio(), Inspection(probes=probes)

        def act() -> None:
            seen = self._live.inspecting.inspect(FUNCTION, dict(inputs), {}, asked, Supposed())
            values = [*seen.inspected.outputs.values()]
            values += [probe.value for probe in seen.inspected.probes if probe.value is not None]
            assert all(value.numpy() is not None for value in values)

        for _ in range(calls):
            act()
        return act
