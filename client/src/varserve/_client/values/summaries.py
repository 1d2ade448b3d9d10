"""Values in a few numbers: summaries, histograms and the content hash. Knows no calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from varserve import tensors
from varserve.tensors import Array

from .results import OfState
from .specs import StateHeader, shape_text

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Histogram:
    """How the finite elements of a value are distributed.

    counts: int64 [bins]. edges: float64 [bins + 1]; a bin has what is at its lower edge, the last
    one also what is at its upper edge. below, above: elements outside.
    """

    counts: Array
    edges: Array
    below: int = 0
    above: int = 0

    def __str__(self) -> str:
        """A line of bars, each as high as its bin is full."""
        top = int(self.counts.max()) if self.counts.size else 0
        heights = [0 if not n else 1 + int(7 * n // max(top, 1)) for n in self.counts.tolist()]
        return "".join(_BARS[height] for height in heights)

    def __repr__(self) -> str:
        outside = f", {self.below} below, {self.above} above" if self.below or self.above else ""
        return f"<varserve.Histogram [{self.edges[0]:.6g}|{self}|{self.edges[-1]:.6g}]{outside}>"

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.histogram(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Summary:
    """One value of a variable, or of a region of it, in a few numbers.

    An element counts as itself, a bool as 0 or 1, a complex number as its modulus, a string as its
    length in bytes. NaN and infinite elements are counted, and are left out of min, max (None when
    there is no other element), mean, standard deviation and norm (the root of the sum of squares).
    """

    variable: str
    variable_revision: int
    """Revision of the variable's last write."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """As numpy shows the value."""
    nbytes: int
    """Of the value, as it travels."""
    count: int
    nans: int
    infinities: int
    zeros: int
    min: bool | int | float | None
    max: bool | int | float | None
    mean: float
    standard_deviation: float
    norm: float
    histogram: Histogram | None
    content_hash: str
    """SHA-256 in hexadecimal, as `varserve.content_hash` of the value; "" when not asked for."""

    @property
    def finite(self) -> bool:
        """No element is a NaN or infinite."""
        return not (self.nans or self.infinities)

    def __repr__(self) -> str:
        numbers = [] if self.min is None else [f"min {_text(self.min)}", f"max {_text(self.max)}"]
        numbers += [
            f"mean {self.mean:.6g}",
            f"std {self.standard_deviation:.6g}",
            f"norm {self.norm:.6g}",
        ]
        numbers += [
            f"{n} {what}"
            for n, what in (
                (self.zeros, "zeros"),
                (self.nans, "NaNs"),
                (self.infinities, "infinities"),
            )
            if n
        ]
        if self.histogram is not None:
            numbers.append(f"histogram |{self.histogram}|")
        if self.content_hash:
            numbers.append(f"hash {self.content_hash[:12]}")
        return (
            f"<varserve.Summary of {self.variable!r} {tensors.dtype_name(self.dtype)} "
            f"{shape_text(self.shape)}: {', '.join(numbers)}>"
        )

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.summary(self)


def _text(number: float | None) -> str:
    return f"{number:.6g}" if isinstance(number, float) else str(number)


class Summaries(OfState, Mapping[str, Summary]):
    """Summaries of several variables at one revision, by the names they were asked for with."""

    def __init__(self, header: StateHeader, found: Mapping[str, Summary]) -> None:
        self.header = header
        self._found = found

    def __getitem__(self, name: str) -> Summary:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._found)

    def __repr__(self) -> str:
        head = f"{len(self)} summaries of {self.model!r} at revision {self.revision}:"
        return "\n".join([head, *(f"  {each!r}" for each in self._found.values())])


def content_hash(value: npt.ArrayLike) -> str:
    """The hash that a service tells of a variable with this value: equal bytes, equal hashes.

    value: an array of the variable's dtype. SHA-256, in hexadecimal, of `DTYPE SHAPE` (`float32
    2,3`), a line feed and the elements' bytes in C order, little-endian; of strings all lengths
    first, 8 bytes each.
    """
    import hashlib  # brings OpenSSL, for this alone

    array = tensors.as_array(value)
    name = tensors.dtype_name(array.dtype)
    digest = hashlib.sha256(f"{name} {','.join(str(size) for size in array.shape)}\n".encode())
    if name == tensors.STRING:
        digest.update(tensors.strings_to_body(array))
    else:
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
