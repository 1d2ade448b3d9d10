"""A service over fakes whose models come from a repository of files that nothing reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import varserve
from tests.fakes import FakeVariable
from tests.rpc.models import counter_model
from varserve_service.bootstrap.lifecycle import ServerOnThreads
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.lifecycle import Lifecycle, SaveRoom
from varserve_service.repository import ModelSource, Repository
from varserve_service.rpc import OPEN, Access, Server, ServerOptions


def saved_model(folder: Path, content: bytes = b"") -> Path:
    """Files of the names that a SavedModel has."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    (folder / "variables" / "variables.index").write_bytes(b"")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    return folder


@dataclass
class Loads:
    """Loads fakes; those whose file says so fail, and one may be made to wait."""

    done: list[tuple[str, int]] = field(default_factory=list)
    before: Callable[[ModelSource], None] = lambda source: None
    more: Callable[[], tuple[FakeVariable, ...]] = tuple

    def __call__(self, source: ModelSource) -> LiveModel:
        self.before(source)
        if (source.path / "saved_model.pb").read_bytes() == b"bad":
            raise ModelLoadError(f"model {source.name!r}: {source.path} is bad")
        loaded = counter_model(*self.more())
        loaded.name, loaded.version = source.name, source.version
        self.done.append((source.name, source.version))
        return LiveModel(loaded)


@dataclass
class Administered:
    """A running service, and both clients of it."""

    models: Models
    lifecycle: Lifecycle
    repository: Path
    loads: Loads
    client: varserve.Client
    admin: varserve.AdminClient
    address: str
    admin_address: str

    def version(self, name: str) -> int:
        """Of the model that answers."""
        return self.client.model(name).version

    def states(self) -> Mapping[tuple[str, int], str]:
        """By name and version."""
        return {(each.name, each.version): each.state.value for each in self.models.statuses}


@contextmanager
def administered(
    root: Path, room: SaveRoom | None = None, access: Access = OPEN, **options: Any
) -> Iterator[Administered]:
    """A service without a model, whose repository is the folder `repository` below the root."""
    repository = root / "repository"
    repository.mkdir(exist_ok=True)
    models, loads = Models(), Loads()
    loop = asyncio.new_event_loop()
    started: list[Any] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        server = Server(models, ServerOptions(port=0), access)
        found = Repository({}, repository)
        front = ServerOnThreads(server, loop)
        lifecycle = Lifecycle(models, found, front, loads, room=room, **options)
        server.administer(lifecycle)
        started.extend((lifecycle, await server.start(), server.admin_address))
        ready.set()
        await stop.wait()
        await server.stop(1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    lifecycle, address, admin_address = started
    try:
        with (
            varserve.connect(address, retries=0) as client,
            varserve.connect_admin(admin_address, retries=0) as admin,
        ):
            yield Administered(
                models, lifecycle, repository, loads, client, admin, address, admin_address
            )
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
