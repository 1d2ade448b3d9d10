"""A service over fakes, and its metrics beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.serving import serve_here
from tests.telemetry.scrape import Scrape, scrape
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.observer import Observer
from varserve_service.rpc import methods
from varserve_service.telemetry import Sources, Telemetry


def sources(models: Models, **others: Any) -> Sources:
    """The state of these models, and of nothing else."""
    return replace(
        Sources(
            models=models,
            ready=lambda: True,
            pending=lambda _: 0,
            staged=lambda: 0,
            staged_limit=1,
            admitted=dict,
            connections=dict,
            health_watches=lambda: 0,
            reloads=list,
            expiries=dict,
            state_dir=None,
            graph_functions=lambda: 0,
        ),
        **others,
    )


@dataclass(frozen=True)
class Watched:
    """Where it is served, where it is scraped, and what it serves."""

    address: str
    metrics: str
    telemetry: Telemetry
    models: Models

    def scrape(self) -> Scrape:
        return scrape(self.metrics)


@contextmanager
def watched(
    make: Callable[[Observer], LiveModel], *, options: dict[str, Any] | None = None, **others: Any
) -> Iterator[Watched]:
    """Serve the model that `make(observer)` gives, as version 1; every scrape is fresh.

    `options` are the server's, `others` replace Sources.
    """
    telemetry = Telemetry(methods())
    metrics = telemetry.export("127.0.0.1", 0, keep_seconds=0.0)
    live = make(telemetry.model("counter", 1))
    models = Models([live])
    telemetry.watch(sources(models, **others))
    try:
        with serve_here(live, observers=telemetry.call_observers, **(options or {})) as address:
            yield Watched(address, metrics, telemetry, models)
    finally:
        telemetry.close()
