"""The checked-in stubs are what the generator writes: never edited, never forgotten."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATOR_PYTHON = ROOT / ".venv-proto" / "bin" / "python"
SOURCES = ROOT / "client" / "src"


def check(stubs: Path) -> subprocess.CompletedProcess[str]:
    assert GENERATOR_PYTHON.exists(), "the generator is not set up: run `make proto-check` once"
    return subprocess.run(
        [GENERATOR_PYTHON, ROOT / "proto" / "generate.py", "--check", stubs],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def copied_stubs(tmp_path: Path) -> Path:
    for package in ("v1", "checkpoint/v1", "examples/v1"):
        shutil.copytree(SOURCES / "varserve" / package, tmp_path / "varserve" / package)
    return tmp_path


def test_checked_in_stubs_are_what_the_generator_writes() -> None:
    """Generating the stubs anew changes no byte of what is checked in."""
    result = check(SOURCES)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("damage", ["edited", "missing", "left over"])
def test_a_stub_that_differs_is_named(copied_stubs: Path, damage: str) -> None:
    """An edited stub, a missing one and one whose .proto is gone each fail the check by name."""
    stub = copied_stubs / "varserve" / "v1" / "tensor_pb2.py"
    if damage == "edited":
        stub.write_text(stub.read_text() + "\n# edited\n")
    elif damage == "missing":
        stub.unlink()
    else:
        stub = stub.with_name("gone_pb2.py")
        stub.touch()
    result = check(copied_stubs)
    assert result.returncode == 1
    stale = [line for line in result.stderr.splitlines() if line.startswith("stale stub")]
    assert stale == [f"stale stub: {stub}"]


def test_packages_beside_the_stubs_are_none(copied_stubs: Path) -> None:
    """A package of the client's own is neither a stub nor left over from one."""
    package = copied_stubs / "varserve" / "cli" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    assert check(copied_stubs).returncode == 0


def test_every_stub_imports() -> None:
    """The generated code imports on the protobuf and grpc releases that are locked."""
    stubs = sorted(path.stem for path in (SOURCES / "varserve" / "v1").glob("*_pb2*.py"))
    assert len(stubs) >= 4
    for stub in stubs:
        importlib.import_module(f"varserve.v1.{stub}")
