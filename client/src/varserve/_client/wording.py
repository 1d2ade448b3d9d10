"""Words for messages: a value that was given, the names that are close, and the first of a list."""

from __future__ import annotations

from collections.abc import Iterable


def shown(value: object) -> str:
    """A value that a caller gave, for a message: a few words on a line, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__


def suggestion(wanted: str, names: Iterable[str]) -> str:
    """What follows "no such thing" in a message: the closest names, or some of them."""
    from difflib import get_close_matches  # only when something went wrong

    known = list(names)
    close = get_close_matches(wanted, known, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not known:
        return "; there is none"
    shown = listed(map(repr, known))
    return f"; there {'is' if len(known) == 1 else 'are'} {shown}"


def listed(names: Iterable[str], total: int | None = None, *, most: int = 5) -> str:
    """The first names of a list, and how many more there are: `a, b and 3 more`.

    total: how many there are, where `names` are not all.
    """
    known = list(names)
    more = (len(known) if total is None else total) - min(most, len(known))
    shown = ", ".join(known[:most])
    return f"{shown} and {more} more" if more else shown
