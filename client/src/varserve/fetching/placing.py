"""A model into a repository: whole or not at all, checked by what was read.

Files are written into a hidden folder beside the versions, synced, and the folder is renamed: a
service that looks at the repository meanwhile sees no version, or the whole one.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from varserve.fetching.errors import FetchError
from varserve.fetching.sources import File, Source, check_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[0-9]{1,18}")
_SHARD = re.compile(r"variables/variables\.data-[0-9]{5}-of-([0-9]{5})")


class Fetched(NamedTuple):
    """A version that was placed. `digests`: SHA-256 in hexadecimal of each file, by path."""

    path: Path
    name: str
    version: int
    digests: Mapping[str, str]
    nbytes: int

    def manifest(self) -> str:
        """Lines as `sha256sum` writes them, for the service's list of allowed models."""
        prefix = f"{self.name}/{self.version}"
        return "".join(f"{digest}  {prefix}/{path}\n" for path, digest in self.digests.items())


def target_of(text: str) -> tuple[Path, str, int | None]:
    """Repository, name and version of `REPOSITORY/NAME[/VERSION]`. Raises FetchError."""
    path = Path(text)
    version = int(path.name) if _VERSION.fullmatch(path.name) and len(path.parts) > 1 else None
    folder = path.parent if version is not None else path
    if not _NAME.fullmatch(folder.name):
        raise FetchError(
            f"{text}: expected REPOSITORY/NAME or REPOSITORY/NAME/VERSION; a name has letters, "
            f"digits, '.', '_' and '-', found {folder.name!r}"
        )
    return folder.parent, folder.name, version


def place(
    source: Source,
    repository: Path,
    name: str,
    version: int | None = None,
    *,
    expected: Mapping[str, str] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Fetched:
    """Fetch a SavedModel as a version of a repository; None: the next one.

    expected: digests by path, all of which and no others must be there. progress: told of bytes.
    Raises FetchError; nothing is left then.
    """
    if not repository.is_dir():
        raise FetchError(
            f"{repository}: expected the folder of a model repository, found none; mkdir makes one"
        )
    files = source.files()
    _check_whole(files)
    folder = repository / name
    folder.mkdir(exist_ok=True)
    if version is not None and (folder / str(version)).exists():
        raise FetchError(f"{folder / str(version)} exists; a version is never changed")
    temporary = folder / f".fetching-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        digests = _copy(source, files, temporary, progress)
        if expected is not None:
            _compare(digests, expected)
        path = _rename(temporary, folder, version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Fetched(path, name, int(path.name), digests, sum(file.size for file in files))


def _check_whole(files: list[File]) -> None:
    names = {file.path for file in files}
    for path in names:
        check_path(path)
    if not names:
        raise FetchError("there is nothing: expected a folder with saved_model.pb")
    if "saved_model.pb" not in names and "saved_model.pbtxt" not in names:
        inner = sorted(path for path in names if path.endswith("/saved_model.pb"))
        hint = f"; is it {inner[0].rpartition('/')[0]}?" if inner else ""
        kind = (
            "; a .keras file is exported with model.export(FOLDER)"
            if any(path.endswith((".keras", ".h5")) for path in names)
            else ""
        )
        raise FetchError(f"expected a folder with saved_model.pb, found none{hint}{kind}")
    shards = [match for path in names if (match := _SHARD.fullmatch(path))]
    for match in shards:
        if sum(other[1] == match[1] for other in shards) == int(match[1]):
            break
    else:
        if shards or "variables/variables.index" in names:
            raise FetchError("the SavedModel is not whole: files of variables/ are missing")


def _copy(
    source: Source, files: list[File], folder: Path, progress: Callable[[int, int], object]
) -> dict[str, str]:
    total, done = sum(file.size for file in files), 0
    digests = {}
    folders = {folder}
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("xb") as written:
                for part in source.read(file.path):
                    written.write(part)
                    digest.update(part)
                    size += len(part)
                    done += len(part)
                    progress(done, total)
                written.flush()
                os.fsync(written.fileno())
        except OSError as error:
            raise FetchError(f"{path}: {error.strerror or error}") from None
        if size != file.size:
            raise FetchError(f"{file.path}: expected {file.size} bytes, found {size}; try again")
        digests[file.path] = digest.hexdigest()
    for each in folders:
        _sync(each)
    return digests


def _compare(digests: Mapping[str, str], expected: Mapping[str, str]) -> None:
    wrong = sorted(digests.keys() ^ expected.keys())
    wrong = wrong or sorted(path for path in digests if digests[path] != expected[path])
    if wrong:
        raise FetchError(f"the files are not those of the manifest: {', '.join(wrong[:5])}")


def _rename(temporary: Path, folder: Path, version: int | None) -> Path:
    while True:
        number = _next(folder) if version is None else version
        path = folder / str(number)
        try:
            # Of two at once for one number one fails: a folder that has files is not replaced.
            temporary.rename(path)
        except OSError as error:
            if version is None and path.exists():
                continue
            raise FetchError(f"{path}: {error.strerror or error}") from None
        _sync(folder)
        return path


def _next(folder: Path) -> int:
    versions = [int(each.name) for each in folder.iterdir() if _VERSION.fullmatch(each.name)]
    return max(versions, default=0) + 1


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["FetchError", "Fetched", "place", "target_of"]
