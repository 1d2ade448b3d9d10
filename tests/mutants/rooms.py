"""The parts of the program that are sampled, and the tests that are run on their mutants."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (Path("client/src"), Path("service/src"))

SERVICE = Path("service/src/varserve_service")
CLIENT = Path("client/src/varserve")
ROOMS = {
    "core": SERVICE / "core",
    "journal": SERVICE / "journal",
    "access": SERVICE / "access",
    "guard": SERVICE / "rpc/authorization",
    "rpc": SERVICE / "rpc",
    "lifecycle": SERVICE / "lifecycle",
    "client": CLIENT,
}
# Generated code, and what has tests of its own kind: the command line and the pages.
EXCLUDED = {
    "rpc": [ROOMS["guard"]],
    "client": [CLIENT / name for name in ("v1", "checkpoint", "cli", "web")],
}

# They run in seconds to minutes, in one process; only inspection needs TensorFlow to be tested.
TESTS = (
    *("access", "contract", "core", "journal", "postgres", "client", "lifecycle", "rpc"),
    "savedmodel/test_inspection.py",
)


# Where coverage sees nothing, in processes of their own: they are tried on what the others leave.
BESIDE = {
    "journal": [
        "tests/faults/test_power_cuts.py::test_every_answer_comes_after_the_syncs_that_it_needs",
        "tests/faults/test_journal_crashes.py::test_a_sync_that_fails_once_ends_the_process",
    ],
    # What gRPC calls on a thread of its own.
    "guard": ["tests/rpc/test_tls.py::test_certificates_are_taken_while_it_runs"],
}


# Where the tests of each room's own are.
OWN = {room: (f"tests/{room}/",) for room in ROOMS} | {
    "journal": ("tests/journal/", "tests/postgres/"),
    "guard": ("tests/rpc/",),
}


def files_of(room: str) -> list[Path]:
    """The modules of a room, relative to the root."""
    found = sorted((ROOT / ROOMS[room]).rglob("*.py"))
    relative = [path.relative_to(ROOT) for path in found]
    excluded = EXCLUDED.get(room, [])
    return [path for path in relative if not any(path.is_relative_to(e) for e in excluded)]


def test_files() -> list[Path]:
    """The selected files of tests, relative to the root."""
    found = [
        path
        for name in TESTS
        for path in sorted((ROOT / "tests" / name).rglob("test_*.py")) or [ROOT / "tests" / name]
    ]
    return [path.relative_to(ROOT) for path in found]
