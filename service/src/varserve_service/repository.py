"""Which SavedModels to serve: named paths, and a repository in TensorFlow Serving's layout.

A repository is `NAME/VERSION/saved_model.pb`; of each name the highest version is served. Knows
the file system; opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RepositoryError(Exception):
    """A model cannot be found where the operator said; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is. `version` is 0 for a model of a path of its own."""

    name: str
    version: int
    path: Path


def find_models(named: Mapping[str, Path], repository: Path | None) -> list[ModelSource]:
    """All models to serve, sorted by name. Raises RepositoryError."""
    sources = [_named(name, path) for name, path in named.items()]
    if repository is not None:
        sources += _in_repository(repository)
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise RepositoryError(f"model {name!r} is given both by path and in the repository")
    return sorted(sources, key=lambda source: source.name)


def _named(name: str, path: Path) -> ModelSource:
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"model name {name!r}: expected letters, digits, '.', '_' and '-', "
            "and a letter or digit first"
        )
    if not path.is_dir():
        raise RepositoryError(f"model {name!r}: {path} is not a folder")
    return ModelSource(name, 0, path)


def _in_repository(repository: Path) -> list[ModelSource]:
    if not repository.is_dir():
        raise RepositoryError(f"model repository {repository} is not a folder")
    root = repository.resolve()
    found = []
    for folder in sorted(repository.iterdir()):
        if not NAME_PATTERN.fullmatch(folder.name) or not folder.is_dir():
            continue
        _check_inside(folder, root)
        versions = [
            version
            for version in folder.iterdir()
            if re.fullmatch(r"[0-9]{1,18}", version.name) and version.is_dir()
        ]
        if not versions:
            raise RepositoryError(
                f"model {folder.name!r}: expected folders named by version numbers in {folder}, "
                "found none"
            )
        highest = max(versions, key=lambda version: int(version.name))
        _check_tree(highest, root)
        found.append(ModelSource(folder.name, int(highest.name), highest))
    return found


def _check_tree(folder: Path, root: Path) -> None:
    """Check all that a loader may open below a folder."""
    seen = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        _check_inside(path, root)
        if path.is_dir() and path.resolve() not in seen:
            seen.add(path.resolve())
            waiting += path.iterdir()


def _check_inside(path: Path, root: Path) -> None:
    # A link inside the repository is fine, Kubernetes mounts are made of them; one that leads out
    # would serve what nobody put there.
    try:
        inside = path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise RepositoryError(f"{path} leads outside the model repository {root}")
