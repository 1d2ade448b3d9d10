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
# The contract's generated stubs are nobody's work, and the command line has tests of its own kind.
EXCLUDED = (Path("client/src/varserve/v1"), Path("client/src/varserve/cli"))

# They run in seconds to minutes, in one process, without TensorFlow.
TESTS = ("access", "contract", "core", "journal", "client", "lifecycle", "rpc")


def files_of(room: str) -> list[Path]:
    """The modules of a room, relative to the root."""
    found = sorted((ROOT / ROOMS[room]).rglob("*.py"))
    relative = [path.relative_to(ROOT) for path in found]
    return [path for path in relative if not any(path.is_relative_to(e) for e in EXCLUDED)]
