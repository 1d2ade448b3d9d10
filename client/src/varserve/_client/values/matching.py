"""Which served variable each weight of a trainer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from varserve._client.errors import InvalidRequest

Names = Mapping[str, str] | Callable[[str], str | None]
"""Served names by the trainer's; a function may return None for a weight that is not served."""


def match(
    weights: Mapping[str, tuple[int, ...]],
    variables: Mapping[str, Any],
    names: Names | None = None,
    *,
    strict: bool = True,
) -> dict[str, str]:
    """The served variable's name for each weight, by name and shape.

    weights: shapes by name. variables: what is served, by name, each with a `shape`. names: instead
    of what is found by name. A weight is served under its own name, or under one that differs in
    the first part alone (`sequential_1/dense/kernel` and `sequential/dense/kernel`), which Keras
    counts anew in each process, or that only one of the two has: a model that Keras loads from a
    file has `dense/kernel`. strict: every weight must be served; otherwise those that are not
    are left out.
    Raises InvalidRequest that names each weight that has no variable, or one of another shape.
    """
    inner = Counter(_inner(name) for name in variables)
    by_inner = {_inner(name): name for name in variables if inner[_inner(name)] == 1}
    mine = Counter(_inner(name) for name in weights)
    found: dict[str, str] = {}
    problems: list[str] = []
    for weight, shape in weights.items():
        name, wanted = _named(weight, names)
        if not wanted:
            continue
        if name is None:
            name = weight if weight in variables else by_inner.get(weight)
            inside = _inner(weight)
            if name is None and mine[inside] == 1:
                name = by_inner.get(inside) or (inside if inside in variables else None)
        if name is None or name not in variables:
            if not strict and name is None:
                continue
            problems.append(_absent(weight, name, variables))
        elif not _fits(shape, variables[name].shape):
            problems.append(
                f"{weight} has the shape {list(shape)}, and {name} {_text(variables[name].shape)}"
            )
        else:
            found[weight] = name
    repeated = [name for name, count in Counter(found.values()).items() if count > 1]
    problems += [f"several weights are {name}" for name in repeated]
    if problems:
        listed = "; ".join(problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InvalidRequest(
            f"weights that do not match: {listed}{more}; say which is which: names="
        )
    return found


def _named(weight: str, names: Names | None) -> tuple[str | None, bool]:
    """The name that the caller gives, and whether the weight is served at all."""
    if names is None:
        return None, True
    if callable(names):
        name = names(weight)
        return name, name is not None
    return names.get(weight), True


def _inner(name: str) -> str:
    return name.partition("/")[2] or name


def _absent(weight: str, name: str | None, variables: Mapping[str, Any]) -> str:
    import difflib  # for this alone

    shown = weight if name is None else f"{weight} (as {name})"
    close = difflib.get_close_matches(name or weight, list(variables)[:5000], 1)
    return f"{shown} is not served" + (f", did you mean {close[0]}?" if close else "")


def _fits(shape: tuple[int, ...], served: tuple[int | None, ...] | None) -> bool:
    if served is None:
        return True
    return len(shape) == len(served) and all(
        size in (None, mine) for mine, size in zip(shape, served, strict=True)
    )


def _text(shape: tuple[int | None, ...] | None) -> str:
    return str([] if shape is None else ["?" if size is None else size for size in shape])
