"""Which SavedModels may be loaded, by the digest of every file of theirs.

The list is what `sha256sum` writes, with paths as in the repository: `DIGEST  NAME/VERSION/FILE`,
or `DIGEST  NAME/FILE` for a model with a path of its own. Reads the files; loads nothing.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from varserve_service.core.errors import Reason, RequestError
from varserve_service.repository import ModelSource, RepositoryError

_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
_SHOWN = 3


class AllowedModels:
    """The list, read from its file at each load."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self, source: ModelSource) -> None:
        """Compare every file of a SavedModel with the list.

        Raises RequestError MODEL_NOT_ALLOWED, also when the list itself is wrong.
        """
        prefix = f"{source.name}/{source.version}/" if source.version else f"{source.name}/"
        expected = {
            path.removeprefix(prefix): digest
            for path, digest in self._listed(source).items()
            if path.startswith(prefix)
        }
        files = {
            path.relative_to(source.path).as_posix(): path
            for path in source.path.rglob("*")
            if not path.is_dir()
        }
        wrong = sorted(expected.keys() ^ files.keys())
        wrong = wrong or [
            name for name, path in sorted(files.items()) if _digest(path) != expected[name]
        ]
        if not expected or wrong:
            shown = ", ".join(wrong[:_SHOWN])
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            differing = f"; it differs in {shown}{more}" if expected else ""
            raise RequestError(
                Reason.MODEL_NOT_ALLOWED,
                f"model {source.name!r}, version {source.version}: expected the files of a "
                f"SavedModel that is allowed{differing}",
                model=source.name,
                version=source.version,
            )

    def stamp(self) -> str:
        """Identifies the list's content; empty while the file cannot be read."""
        try:
            return _digest(self._file)
        except OSError:
            return ""

    def _listed(self, source: ModelSource) -> dict[str, str]:
        try:
            return self._read()
        except RepositoryError as error:
            raise RequestError(
                Reason.MODEL_NOT_ALLOWED,
                f"model {source.name!r}, version {source.version}: {error}",
                model=source.name,
                version=source.version,
            ) from error

    def _read(self) -> dict[str, str]:
        digests: dict[str, str] = {}
        try:
            lines = self._file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"allowed models {self._file}: cannot be read: {error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise RepositoryError(
                    f"allowed models {self._file}, line {number}: expected a SHA-256 digest and a "
                    f"path, as sha256sum writes them, found {line[:100]!r}"
                )
            digest, path = match.groups()
            if digests.setdefault(path, digest) != digest:
                raise RepositoryError(
                    f"allowed models {self._file}, line {number}: a second digest of {path!r}"
                )
        return digests


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
