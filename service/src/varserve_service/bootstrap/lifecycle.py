"""Wires the lifecycle: what loads, replaces and saves models while they are served."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.journal import save_safetensors
from varserve_service.lifecycle import (
    Lifecycle,
    LifecycleOptions,
    Saver,
    SaveRoom,
    SwitchOrder,
)
from varserve_service.rpc import (
    Server,
)
from varserve_service.settings import Settings

from .loading import Loader, host_memory

T = TypeVar("T")


def make_lifecycle(
    loader: Loader,
    models: Models,
    server: Server,
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
) -> Lifecycle:
    """The lifecycle that the settings ask for."""
    room = None
    if settings.save_dir is not None:
        savers: dict[SaveFormat, Saver] = {
            SaveFormat.SAVED_MODEL: loader.savedmodel.save_saved_model,
            SaveFormat.CHECKPOINT: loader.savedmodel.save_checkpoint,
            SaveFormat.SAFETENSORS: save_safetensors,
        }
        room = SaveRoom(settings.save_dir, savers)
        room.sweep()
    return Lifecycle(
        models,
        loader.repository,
        ServerOnThreads(server, loop),
        loader.load_warm,
        check=loader.check,
        room=room,
        budgets=(
            host_memory(settings.memory_limit, settings.memory_reserve),
            MemoryBudget("device", loader.placement.memory),
        ),
        options=LifecycleOptions(settings.drain, SwitchOrder(settings.switch_order)),
    )


class ServerOnThreads:
    """The server, for callers on other threads."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    def serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        return self._wait(self._server.serve(live, label))

    def withdraw(self, name: str, label: str | None) -> list[LiveModel]:
        return self._wait(self._server.withdraw(name, label))

    def retire(self, live: LiveModel, seconds: float) -> None:
        self._wait(self._server.retire(live, seconds))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
