"""Names: what finds variables and functions by name, path or pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from varserve._client import errors, wording


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...


S = TypeVar("S", bound=_Named)


class Lookup(Generic[S]):
    """Specs by name or path. A key that fits two is ambiguous, unless `names_first`."""

    def __init__(
        self,
        found: Iterable[S],
        missing: Callable[[str], errors.VarserveError],
        *,
        names_first: bool = False,
    ) -> None:
        self.by_path = {each.path: each for each in found}
        self._missing = missing
        self._paths: dict[str, list[str]] = {}
        for path, each in self.by_path.items():
            self._paths.setdefault(each.name, []).append(path)
        names = set(self._paths) if names_first else set()
        for path, each in self.by_path.items():
            if path != each.name and path not in names:
                self._paths.setdefault(path, []).append(path)

    @property
    def names(self) -> list[str]:
        """The names, in the service's order."""
        return [each.name for each in self.by_path.values()]

    def __contains__(self, key: object) -> bool:
        return key in self._paths

    def find(self, key: str) -> S:
        """Raises the look-up's own error, or NameAmbiguous."""
        paths = self._paths.get(key)
        if not paths:
            raise self._missing(key)
        if len(paths) > 1:
            raise errors.NameAmbiguous(
                f"{key!r} fits more than one variable: {', '.join(sorted(paths))}"
            )
        return self.by_path[paths[0]]

    def at(self, path: str) -> S:
        """What was found before; raises as `find` when another version has it no more."""
        try:
            return self.by_path[path]
        except KeyError:
            raise self._missing(path) from None

    def key(self, spec: S) -> str:
        """What to call it on the wire: its name where that fits it alone, else its path."""
        return spec.name if len(self._paths[spec.name]) == 1 else spec.path


def names_matching(patterns: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """The names of `names` (each with its path) that, or whose paths, fit a pattern.

    What is a name or path itself stands for that alone. A pattern without `*`, `?` and `[` that
    fits none is given as it is, for the look-up to refuse. Raises VariableNotFound.
    """
    from fnmatch import translate

    matching: dict[str, None] = {}
    known = {*names, *names.values()}
    for pattern in patterns:
        if pattern in known:
            matching[pattern] = None
            continue
        fits = re.compile(translate(pattern)).match
        fit = [name for name, path in names.items() if fits(name) or fits(path)]
        if not fit and not names and pattern == "*":
            continue  # All of no variables: a model may have none.
        if not fit and any(sign in pattern for sign in "*?["):
            raise errors.VariableNotFound(
                f"no variable fits {pattern!r}{wording.suggestion(pattern, names)}",
                metadata={"variable": pattern},
            )
        matching.update(dict.fromkeys(fit or [pattern]))
    return list(matching)
