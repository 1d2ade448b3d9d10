"""The parts of the program that are sampled, and the tests that are run on their mutants."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (Path("client/src"), Path("service/src"))

SERVICE = Path("service/src/varserve_service")
ROOMS = {
    "core": SERVICE / "core",
    "journal": SERVICE / "journal",
    "access": SERVICE / "access",
    "rpc": SERVICE / "rpc",
    "lifecycle": SERVICE / "lifecycle",
    "client": Path("client/src/varserve"),
}
# Generated code, and what has tests of its own kind: the command line and the pages.
EXCLUDED = tuple(Path("client/src/varserve") / name for name in ("v1", "cli", "web"))

# They run in seconds to minutes, in one process; only inspection needs TensorFlow to be tested.
TESTS = (
    *("access", "contract", "core", "journal", "client", "lifecycle", "rpc"),
    "savedmodel/test_inspection.py",
)


def files_of(room: str) -> list[Path]:
    """The modules of a room, relative to the root."""
    found = sorted((ROOT / ROOMS[room]).rglob("*.py"))
    relative = [path.relative_to(ROOT) for path in found]
    return [path for path in relative if not any(path.is_relative_to(e) for e in EXCLUDED)]
