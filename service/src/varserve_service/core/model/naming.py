"""Lookup of variables and functions by name or path.

Knows the ports and the core's errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from varserve_service.core.errors import Reason, RequestError

MAX_NAME_SHOWN = 200  # characters of a caller's name that a message repeats
# With more names no close ones are looked for: it is slow, and others wait meanwhile.
_COMPARED = 200


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...


class _HasSpec(Protocol):
    @property
    def spec(self) -> _Named: ...


T = TypeVar("T", bound=_HasSpec)


class Directory(Generic[T]):
    """Things of one kind by name and path. `kind` names them in messages."""

    def __init__(self, kind: str, things: Iterable[T], not_found: Reason, model: str) -> None:
        self._kind = kind
        self._not_found = not_found
        self._model = model
        self.sorted: Sequence[T] = sorted(things, key=lambda thing: thing.spec.name)
        self._by_key: dict[str, list[T]] = {}
        for thing in self.sorted:
            for key in {thing.spec.name, thing.spec.path}:
                self._by_key.setdefault(key, []).append(thing)

    def find(self, key: str, *, suggest: bool = True) -> T:
        """The thing of this name or path.

        A name wins over another thing's path. Raises RequestError: NOT_FOUND of its kind, with
        similar names where `suggest`, which takes milliseconds; NAME_AMBIGUOUS when two things have
        it, with their paths.
        """
        found = self._by_key.get(key, ())
        if len(found) == 1:
            return found[0]
        if not found:
            few = list(self._by_key) if suggest and len(self._by_key) <= _COMPARED else []
            names = difflib.get_close_matches(key[:MAX_NAME_SHOWN], few, n=3)
            hint = f"; close names: {', '.join(names)}" if names else ""
            raise RequestError(
                self._not_found,
                f"model {self._model!r} has no {self._kind} {key[:MAX_NAME_SHOWN]!r}{hint}",
                model=self._model,
                **{self._kind: key[:MAX_NAME_SHOWN]},
            )
        by_name = [thing for thing in found if thing.spec.name == key]
        if len(by_name) == 1:
            return by_name[0]
        paths = ", ".join(thing.spec.path for thing in found)
        raise RequestError(
            Reason.NAME_AMBIGUOUS,
            f"{self._kind} name {key[:MAX_NAME_SHOWN]!r} fits more than one in model "
            f"{self._model!r}; expected one of the paths {paths}",
            model=self._model,
            **{self._kind: key[:MAX_NAME_SHOWN]},
        )
