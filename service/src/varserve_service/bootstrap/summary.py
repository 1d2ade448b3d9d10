"""What a person at a terminal is told: what is served and what to type next, or a dry run's table.

Programs read the log and the line `varserve ready on ADDRESS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.repository import ModelSource, Repository

_DEFAULT_ADDRESSES = ("127.0.0.1:8500", "localhost:8500")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    version: str
    variables: int
    functions: int
    nbytes: int
    device: str
    path: str


def after_ready(models: Models, address: str) -> str:
    """What is served where, and the first commands to type."""
    served = models.sorted
    option = "" if address in _DEFAULT_ADDRESSES else f" --server {address}"
    lines = [f"serving {_counted(len(served), 'model')} on {address}"]
    for live in served:
        line = _line(live, None)
        about = f"{_counted(line.variables, 'variable')}, {_counted(line.functions, 'function')}"
        lines.append(f"  {line.name}{line.version and f' (version {line.version})'}: {about}")
    lines.append("next, in another terminal:")
    lines.append(f"  varserve{option} models")
    lines += [f"  varserve{option} ls {live.name}" for live in served[:1]]
    return "\n".join(lines)


def dry_run(models: Models, repository: Repository, memory: MemoryBudget) -> str:
    """Each model with its variables, functions and memory, and what memory there is."""
    lines = [_line(live, _source(repository, live)) for live in models.sorted]
    header = ("MODEL", "VERSION", "VARIABLES", "FUNCTIONS", "VALUES", "DEVICE", "PATH")
    rows = [
        (
            line.name,
            line.version or "-",
            str(line.variables),
            str(line.functions),
            size(line.nbytes),
            line.device,
            line.path,
        )
        for line in lines
    ]
    text = _table([header, *rows])
    total = size(sum(line.nbytes for line in lines))
    room = memory.room()
    left = "" if room is None else f"; {size(room.available)} of host memory are still available"
    return f"{text}\n{_counted(len(lines), 'model')} would be served, with {total} of values{left}"


def size(nbytes: int) -> str:
    """Bytes in the largest unit that they have one of."""
    amount, unit = float(nbytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def _line(live: LiveModel, source: ModelSource | None) -> _Line:
    described = live.describe()
    return _Line(
        live.name,
        str(live.version or ""),
        len(described.variables),
        len(described.functions),
        sum(
            least_bytes(state.spec.dtype, state.shape)
            for state in described.variables
            if state.shape is not None
        ),
        described.device,
        "" if source is None else str(source.path),
    )


def _source(repository: Repository, live: LiveModel) -> ModelSource:
    return repository.find(live.name, live.version or None)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
