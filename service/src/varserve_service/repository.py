"""Which SavedModels there are: named paths, and a repository in TensorFlow Serving's layout.

A repository is `NAME/VERSION/saved_model.pb`. A version counts when it is complete: a copy in
progress does not exist yet. Knows the file system; opens no file, and never leaves the folders that
the operator named, whatever names or links lead out of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .model_kinds import problem

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

NOTE = "varserve.json"
"""File that tells which state a saved folder has."""

_VERSION_PATTERN = re.compile(r"[0-9]{1,18}")
_SHARD_PATTERN = re.compile(r"variables\.data-[0-9]{5}-of-([0-9]{5})")

Look: TypeAlias = frozenset[tuple[str, int, int, int]]
"""Path, size, and times of modification and of change of each file of a SavedModel.

A copy that is under way changes them. The last one changes also where a copy keeps the others, and
with a file's mode.
"""


class RepositoryError(Exception):
    """A model is not where the operator said. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is. `version` is 0 for a model with its own path."""

    name: str
    version: int
    path: Path


class Repository:
    """Everything that the operator allows to be loaded."""

    def __init__(self, named: Mapping[str, Path], root: Path | None, marker: str = "") -> None:
        """`named`: SavedModels by model name. `root`: a repository.

        `marker`: name of a file that says that the version which it is in is complete; empty: a
        version is when it has all files that belong to a SavedModel.
        """
        self._named = dict(named)
        self._root = root
        self._marker = marker

    @property
    def has_root(self) -> bool:
        """Whether there is a repository beside named paths."""
        return self._root is not None

    def incomplete(self) -> list[str]:
        """Models of the repository that have no complete version yet."""
        root = self._root
        if root is None:
            return []
        inside = [name for name in self._names(root) if _is_inside(root / name, root.resolve())]
        return [
            name
            for name in inside
            if not self._complete(root, name, outside=True)
            and not self._has_saves_alone(root, name)
        ]

    def all(self, but: Collection[str] = ()) -> list[ModelSource]:
        """What to serve at the start: of each model the highest version.

        `but`: models of the repository that are not looked at. Raises RepositoryError.
        """
        sources = [_named(name, path) for name, path in self._named.items()]
        root = self._root
        if root is not None:
            names = [
                name
                for name in self._names(root)
                if name not in but and not self._has_saves_alone(root, name)
            ]
            sources += [self._highest(root, name) for name in names]
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise RepositoryError(f"model {name!r} is given both by path and in the repository")
        return sorted(sources, key=lambda source: source.name)

    def find(self, name: str, version: int | None = None) -> ModelSource:
        """A complete version of a model, the highest if none is named. Raises RepositoryError."""
        if not NAME_PATTERN.fullmatch(name):
            raise RepositoryError(f"{name[:200]!r} is not a name of a model")
        if name in self._named:
            if version:
                raise RepositoryError(f"model {name!r} has a path of its own, and no version")
            return _named(name, self._named[name])
        if self._root is None or name not in self._names(self._root):
            raise RepositoryError(f"no model {name!r} in the repository")
        if version is None:
            return self._highest(self._root, name)
        for source in self._complete(self._root, name):
            if source.version == version:
                _check_tree(source.path, self._root.resolve())
                return source
        raise RepositoryError(f"no complete version {version} of model {name!r} in the repository")

    def loadable(self) -> list[ModelSource]:
        """Every complete version of every model, sorted by name and version."""
        sources = [ModelSource(name, 0, path) for name, path in self._named.items()]
        if self._root is not None:
            for name in self._names(self._root):
                sources += self._complete(self._root, name)
        return sorted(sources, key=lambda source: (source.name, source.version))

    def newest(self) -> dict[str, ModelSource]:
        """The highest complete version of each model in the repository that has one."""
        root = self._root
        if root is None or not root.is_dir():
            return {}
        return {
            name: versions[-1]
            for name in self._names(root)
            if (versions := self._complete(root, name))
        }

    def _names(self, root: Path) -> list[str]:
        if not root.is_dir():
            raise RepositoryError(f"model repository {root} is not a folder")
        return sorted(
            folder.name
            for folder in root.iterdir()
            if NAME_PATTERN.fullmatch(folder.name) and folder.is_dir()
        )

    def _has_saves_alone(self, root: Path, name: str) -> bool:
        """Whether the folder has only saves of other formats, so that it is no wrong layout."""
        folder = root / name
        if not _is_inside(folder, root.resolve()) or self._complete(root, name, outside=True):
            return False
        return any((each / NOTE).is_file() for each in (folder, *folder.iterdir()))

    def _highest(self, root: Path, name: str) -> ModelSource:
        folder = root / name
        _check_inside(folder, root.resolve())
        # Including links that lead outside: they are refused, not ignored.
        versions = self._complete(root, name, outside=True)
        if not versions:
            raise RepositoryError(
                f"model {name!r}: expected folders named by version numbers in {folder}, each with "
                f"a complete SavedModel{self._marker and f' and a file {self._marker}'}, found none"
            )
        _check_tree(versions[-1].path, root.resolve())
        return versions[-1]

    def _complete(self, root: Path, name: str, *, outside: bool = False) -> list[ModelSource]:
        folder, inside = root / name, root.resolve()
        if not _is_inside(folder, inside):
            return []
        versions = [
            ModelSource(name, int(version.name), version)
            for version in folder.iterdir()
            if _VERSION_PATTERN.fullmatch(version.name)
            and (self._is_complete(version) if _is_inside(version, inside) else outside)
        ]
        return sorted(versions, key=lambda source: source.version)

    def _is_complete(self, folder: Path) -> bool:
        if self._marker:
            return (folder / self._marker).is_file()
        return is_complete(folder)


def find_models(named: Mapping[str, Path], repository: Path | None) -> list[ModelSource]:
    """All models to serve, sorted by name. Raises RepositoryError."""
    return Repository(named, repository).all()


def is_complete(folder: Path) -> bool:
    """Whether a folder has all files that belong to a SavedModel.

    TensorFlow writes `saved_model.pb` last; a copy may not, so the variables' files count too.
    """
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return False
    variables = folder / "variables"
    names = {path.name for path in variables.iterdir()} if variables.is_dir() else set()
    shards = [shard for name in names if (shard := _SHARD_PATTERN.fullmatch(name))]
    if "variables.index" not in names:
        return not shards
    count = _shard_count(variables / "variables.index")
    if count is None:
        return bool(shards) and all(len(shards) == int(shard[1]) for shard in shards)
    # Shards of another count are what an earlier checkpoint left.
    return sum(int(shard[1]) == count for shard in shards) == count


def _shard_count(index: Path) -> int | None:
    """How many shards the index of a checkpoint says that there are; None: it does not tell.

    The index is a table of LevelDB without compression. Its first entry has an empty key, and a
    BundleHeaderProto for its value, whose field 1 is the number of shards.
    """
    with index.open("rb") as file:
        head = file.read(32)
    if len(head) < 5 or head[:2] != b"\0\0" or head[2] > len(head) - 3 or head[3] != 0x08:
        return None
    count = shift = 0
    for byte in head[4 : 3 + head[2]]:
        count |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return count
    return None


def look(folder: Path) -> Look:
    """The state of a SavedModel's files now; it differs when a file was changed."""
    return frozenset(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    for path in sorted((folder, *folder.rglob("*"))):
        stat = path.lstat()
        name = path.relative_to(folder).as_posix()
        yield name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _named(name: str, path: Path) -> ModelSource:
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"model name {name!r}: expected letters, digits, '.', '_' and '-', "
            "and a letter or digit first"
        )
    wrong = problem(path)
    if wrong is not None:
        raise RepositoryError(f"model {name!r}: {wrong}")
    return ModelSource(name, 0, path)


def _check_tree(folder: Path, root: Path) -> None:
    """Check every path that a loader may open below a folder."""
    seen = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        _check_inside(path, root)
        if path.is_dir() and path.resolve() not in seen:
            seen.add(path.resolve())
            waiting += path.iterdir()


def _check_inside(path: Path, root: Path) -> None:
    if not _is_inside(path, root):
        raise RepositoryError(f"{path} leads outside the model repository {root}")


def _is_inside(path: Path, root: Path) -> bool:
    # A link inside the repository is fine: Kubernetes mounts consist of links. A link that leads
    # out would serve files that nobody put there.
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a cycle of links
        return False
