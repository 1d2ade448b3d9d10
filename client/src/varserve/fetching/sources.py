"""Where models come from: folders of files, listed and read in parts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from varserve.fetching.errors import FetchError

OBJECT_STORES = ("s3", "gs", "az", "abfs", "abfss")
MLFLOW = ("models", "runs", "mlflow-artifacts")
_PART_BYTES = 8 << 20


class File(NamedTuple):
    """A file of a source. `path` is relative to it, with slashes."""

    path: str
    size: int


class Source(Protocol):
    """A folder, wherever it is."""

    def files(self) -> list[File]:
        """All files below it, sorted by path. Raises FetchError."""
        ...

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, in parts. Raises FetchError."""
        ...


class FolderSource:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FetchError(f"{folder} is not a folder")
        self._folder = folder

    def files(self) -> list[File]:
        """All files below it, those that links lead to included."""
        found = [path for path in self._folder.rglob("*") if path.is_file()]
        return sorted(
            File(path.relative_to(self._folder).as_posix(), path.stat().st_size) for path in found
        )

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file."""
        try:
            with (self._folder / path).open("rb") as file:
                while part := file.read(_PART_BYTES):
                    yield part
        except OSError as error:
            raise FetchError(f"{path}: {error.strerror or error}") from None


class ObjectSource:
    """A prefix of an object store, with the credentials that the environment has for it."""

    def __init__(self, uri: str) -> None:
        import obstore.store

        try:
            self._store: Any = obstore.store.from_url(uri)
        except Exception as error:
            raise FetchError(f"{uri}: {_first_line(error)}") from None
        self._uri = uri

    def files(self) -> list[File]:
        """All objects below the prefix, without the empty ones that stand for folders."""
        import obstore

        try:
            listed = [meta for page in obstore.list(self._store) for meta in page]
        except Exception as error:
            raise FetchError(f"{self._uri}: {_first_line(error)}") from None
        folders = {str(parent) for meta in listed for parent in PurePosixPath(meta["path"]).parents}
        return sorted(
            File(meta["path"], meta["size"])
            for meta in listed
            if meta["size"] or (meta["path"] and meta["path"] not in folders)
        )

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of an object."""
        import obstore

        try:
            for part in obstore.get(self._store, path).stream(min_chunk_size=_PART_BYTES):
                yield bytes(part)
        except Exception as error:
            raise FetchError(f"{self._uri}: {path}: {_first_line(error)}") from None


@contextlib.contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """The source at a URI or path, until the block ends. Raises FetchError."""
    check_installed(uri)
    scheme = _scheme(uri)
    if scheme in OBJECT_STORES:
        yield ObjectSource(uri)
    elif scheme in MLFLOW:
        with _downloaded(uri) as source:
            yield source
    elif scheme in ("", "file"):
        yield FolderSource(Path(urlsplit(uri).path if scheme else uri))
    else:
        known = ", ".join(f"{each}:" for each in (*OBJECT_STORES, *MLFLOW, "file"))
        raise FetchError(f"{uri}: expected a folder, or one of {known}")


class Version(NamedTuple):
    """A version of a model, by its number and where it is."""

    number: int
    uri: str


def newest_version(uri: str) -> Version:
    """The version that `models:/NAME@ALIAS` means now, or the newest in a folder of versions.

    A folder is of this machine or of an object store; a version in it is a number with a
    saved_model.pb. Raises FetchError.
    """
    check_installed(uri)
    if _scheme(uri) in MLFLOW:
        from varserve.fetching import mlflow_models

        return Version(mlflow_models.version_of(uri), uri)
    with open_source(uri) as source:
        paths = [PurePosixPath(file.path) for file in source.files()]
    found = [
        int(path.parent.name)
        for path in paths
        if len(path.parts) == 2 and path.stem == "saved_model" and path.parent.name.isdecimal()
    ]
    if not found:
        raise FetchError(f"{uri}: expected a folder of versions, NUMBER/saved_model.pb, found none")
    return Version(max(found), f"{uri.rstrip('/')}/{max(found)}")


def _downloaded(uri: str) -> AbstractContextManager[Source]:
    from varserve.fetching.mlflow_models import saved_model_of

    @contextlib.contextmanager
    def downloaded() -> Iterator[Source]:
        with tempfile.TemporaryDirectory(prefix="varserve-") as temporary:
            yield FolderSource(saved_model_of(uri, Path(temporary)))

    return downloaded()


def check_installed(uri: str) -> None:
    """Raises FetchError where the package that reads such a source is not installed."""
    scheme = _scheme(uri)
    package, extra = {
        **dict.fromkeys(OBJECT_STORES, ("obstore", "fetch")),
        **dict.fromkeys(MLFLOW, ("mlflow", "mlflow")),
    }.get(scheme, ("", ""))
    if package and find_spec(package) is None:
        raise FetchError(
            f'{uri}: needs {package}, which is not installed: pip install "varserve[{extra}]"'
        )


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme if ":" in uri else ""


def check_path(path: str) -> None:
    """Raises FetchError for a path that leads out of its folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise FetchError(f"a file is named {path[:200]!r}, which leads out of the model's folder")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
