"""Where models are saved: one folder that the operator names, and a new one in it for each save.

Owns that a save is whole or not there, overwrites nothing and leads nowhere else, and that what a
killed process left half done goes. What is written into the folder is up to the writer of its
format. Knows the core and the file system.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import structlog

from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.commit.partwise import PartwiseValue
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.administration import Saved, SaveFormat
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import Header, Read
from varserve_service.repository import NOTE

log = structlog.get_logger("varserve.lifecycle")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_FOLDER = re.compile(rf"({_NAME})(?:/([0-9]{{1,18}}))?")
_TEMPORARY = ".saving-"
_LEFT = re.compile(rf"{re.escape(_TEMPORARY)}[0-9a-f]{{16}}")


class Saver(Protocol):
    """Writes one format."""

    def __call__(
        self,
        folder: Path,
        values: Mapping[VariableSpec, Value],
        header: Header,
        source: Path | None,
        fingerprint: str,
    ) -> None:
        """Write the values of a state into an empty folder.

        `source`: where the SavedModel with this fingerprint was loaded from, None when that is not
        known any more. Raises RequestError SAVE_UNSUPPORTED, OSError.
        """
        ...


class SaveRoom:
    """The folder that saves go to."""

    def __init__(self, folder: Path, savers: Mapping[SaveFormat, Saver]) -> None:
        self._folder = folder
        self._savers = savers

    def save(
        self,
        live: LiveModel,
        source: Path | None,
        folder: str,
        form: SaveFormat,
        deadline: float | None = None,
    ) -> Saved:
        """Save what a model is now in a new folder; see Administration.save."""
        target = self._target(folder)
        header, values = _snapshot(live, deadline)
        try:
            with _brought_to_host(live, values), self._temporary() as temporary:
                self._savers[form](temporary, values, header, source, live.fingerprint)
                _note(temporary, header, form)
                nbytes = _synced(temporary)
                _into_place(temporary, target, folder)
        except OSError as error:
            log.warning("model not saved", model=live.name, folder=folder, error=str(error))
            raise RequestError(
                Reason.SAVE_FAILED,
                f"{folder!r} could not be written: {error.strerror or 'an error of the disk'}",
                model=live.name,
            ) from error
        log.info(
            "saved model",
            model=live.name,
            version=header.version,
            revision=header.revision,
            format=form.value,
            folder=str(target),
        )
        return Saved(header, len(values), nbytes)

    def sweep(self) -> None:
        """Remove what processes that ended in the middle of a save left behind.

        Not what another service that has the same folder is writing.
        """
        try:
            left = [path for path in self._folder.iterdir() if _LEFT.fullmatch(path.name)]
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("unfinished saves cannot be looked for", error=str(error))
            return
        for path in left:
            try:
                descriptor = _open(path)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                finally:
                    os.close(descriptor)
            except (BlockingIOError, FileNotFoundError):  # it is being written, or done
                continue
            except OSError as error:
                log.warning("unfinished save not removed", folder=str(path), error=str(error))
            else:
                log.info("unfinished save removed", folder=str(path))

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A new folder that no sweep takes away, and that is not there afterwards."""
        path, descriptor = self._begin()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _begin(self) -> tuple[Path, int]:
        while True:
            path = self._folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
            path.mkdir(parents=True)
            with suppress(FileNotFoundError):
                descriptor = _open(path)
                # The kernel takes it back, however the process ends. Where folders have no locks,
                # nobody sweeps.
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if path.exists():
                    return path, descriptor
                os.close(descriptor)  # swept before it was locked

    def _target(self, folder: str) -> Path:
        match = _FOLDER.fullmatch(folder)
        if match is None:
            raise RequestError(
                Reason.REQUEST_MALFORMED,
                "folder: expected NAME or NAME/VERSION of letters, digits, '.', '_' and '-', a "
                f"letter or digit first, found {folder[:200]!r}",
            )
        name, version = match.groups()
        parent = self._folder if version is None else self._folder / name
        # What a link in there leads to is not this folder.
        if parent.exists() and parent.resolve() != (
            self._folder.resolve() if version is None else self._folder.resolve() / name
        ):
            raise RequestError(
                Reason.REQUEST_MALFORMED, f"folder: {name!r} leads out of the folder for saves"
            )
        target = parent / (name if version is None else version)
        _check_free(target, folder)
        return target


def _brought_to_host(
    live: LiveModel, values: Mapping[VariableSpec, Value]
) -> AbstractContextManager[object]:
    """Room for the values that a writer copies: those on a device, and those read by parts.

    Raises OutOfMemory.
    """
    copied = sum(
        least_bytes(spec.dtype, value.shape)
        for spec, value in values.items()
        if live.memory.of(spec.device) is not live.memory.host or isinstance(value, PartwiseValue)
    )
    return live.memory.host.reserve(copied, "the save")


def _snapshot(
    live: LiveModel, deadline: float | None
) -> tuple[Header, Mapping[VariableSpec, Value]]:
    """All values of one revision, as references: written out when no lock is held any more.

    Small ones that are written in place are copied, which takes memory. Raises OutOfMemory.
    """
    found = live.describe(deadline)
    # A variable that has a value keeps having one.
    specs = [state.spec for state in found.variables if state.shape is not None]
    with live.memory.reserve({}, "the save") as copies:

        def admit(spec: VariableSpec, read: Read, shape: tuple[int, ...], copied: bool) -> None:
            if copied:
                nbytes = least_bytes(spec.dtype, shape)
                copies.add(nbytes, f"a copy of variable {spec.name!r}", on=spec.device)

        reads = [Read(spec.path) for spec in specs]
        snapshot = live.read(reads, admit=admit, deadline=deadline)
    values = {}
    for spec, entry in zip(specs, snapshot.entries, strict=True):
        assert entry.value is not None
        values[spec] = entry.value
    return snapshot.header, values


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _note(folder: Path, header: Header, form: SaveFormat) -> None:
    note = {
        "model": header.model,
        "version": header.version,
        "epoch": header.epoch,
        "revision": header.revision,
        "format": form.value,
        "time": time.time_ns(),
    }
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n")


def _synced(folder: Path) -> int:
    """Make everything below a folder durable; the bytes of all files."""
    nbytes = 0
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        nbytes += 0 if path.is_dir() else path.stat().st_size
    return nbytes


def _into_place(temporary: Path, target: Path, folder: str) -> None:
    target.parent.mkdir(exist_ok=True)
    _check_free(target, folder)
    try:
        # A folder takes the place of an empty folder at the most.
        temporary.rename(target)
    except OSError as error:
        if target.exists() or target.is_symlink():
            raise _exists(folder) from error
        raise
    for path in (target.parent, target.parent.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_free(target: Path, folder: str) -> None:
    if target.exists() or target.is_symlink():
        raise _exists(folder)


def _exists(folder: str) -> RequestError:
    return RequestError(
        Reason.SAVE_EXISTS, f"{folder!r} is there already; nothing is ever overwritten"
    )
