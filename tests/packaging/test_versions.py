"""The client on every Python and protobuf that it says it works with, and beside other packages.

Its own tests run in an environment of each, against a service in this one. `make test` runs the
extremes, `make test-versions` all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT, clean_environment, run

UV = Path(sys.executable).with_name("uv")
TOOLS = ("hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "trustme")


def interpreter(version: str) -> str | None:
    """A Python of this version: of PATH, or of pyenv's versions; None where there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [str(each / "bin" / "python") for each in sorted(versions.glob(f"{version}.*"))]
    for place in [shutil.which(f"python{version}"), *reversed(places)]:
        command = [place, "--version"] if place else ["false"]
        if subprocess.run(command, capture_output=True, timeout=60).returncode == 0:
            return place
    return None


def newest() -> str:
    """The newest Python that the client works with and this machine has."""
    return next(each for each in ("3.14", "3.13", "3.12", "3.11") if interpreter(each))


def environment(folder: Path, version: str, *requirements: str) -> Path:
    """An environment with the client, its command line and what its tests need; its Python."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}")
    run([UV, "venv", "-q", "--python", python, folder])
    where = folder / "bin" / "python"
    run([UV, "pip", "install", "-q", "--python", where, *requirements])
    run([UV, "pip", "install", "-q", "--python", where, *TOOLS])
    return where


def run_tests(python: Path) -> None:
    """The client's own tests, and a few commands, in an environment without the service."""
    variables = clean_environment() | {
        "VARSERVE_SERVICE_PYTHON": sys.executable,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    tests = [python, "-m", "pytest", "tests/client", "--confcutdir=tests/client", "-q"]
    options = ["-p", "no:cacheprovider", "-k", "not types_for_users"]
    printed = run([*tests, *options], cwd=ROOT, environment=variables)
    # Most of them need no service in their own process.
    assert int(printed.rsplit(" passed", 1)[0].split()[-1]) > 200, printed
    assert "0.1.0" in run([python, "-m", "varserve", "--version"], environment=variables)


LOWEST = [UV, "pip", "install", "-q", "--resolution", "lowest-direct"]


@pytest.mark.slow
def test_the_oldest_of_everything(tmp_path: Path) -> None:
    """On Python 3.10, with the lowest version of each requirement, the client passes its tests."""
    python = environment(tmp_path / "venv", "3.10", "pip")
    run([*LOWEST, "--python", python, f"{ROOT / 'client'}[cli]"])
    run_tests(python)


@pytest.mark.slow
def test_the_newest_of_everything(tmp_path: Path) -> None:
    """On the newest Python, with the newest of each requirement, the client passes its tests."""
    run_tests(environment(tmp_path / "venv", newest(), f"{ROOT / 'client'}[cli]"))


@pytest.mark.versions
@pytest.mark.parametrize("protobuf", ["4.25", "5", "6", "7"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_each_python_with_each_protobuf(tmp_path: Path, version: str, protobuf: str) -> None:
    """The client passes its tests on every Python with every major version of protobuf."""
    major = protobuf.split(".")[0]
    bounds = f"protobuf>={protobuf},<{int(major) + 1}"
    run_tests(environment(tmp_path / "venv", version, f"{ROOT / 'client'}[cli]", bounds))


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param("tensorflow==2.16.*", marks=pytest.mark.slow),
        pytest.param("tensorflow==2.18.*", marks=pytest.mark.versions),
        pytest.param("tensorflow==2.21.*", marks=pytest.mark.versions),
        pytest.param("tritonclient[all]", marks=pytest.mark.slow),
        pytest.param("ray[serve]", marks=pytest.mark.versions),
        pytest.param("mlflow", marks=pytest.mark.versions),
    ],
)
def test_it_resolves_beside(tmp_path: Path, beside: str) -> None:
    """An environment can have the client with its command line, and a package that users have."""
    wanted = tmp_path / "requirements.in"
    wanted.write_text(f"{beside}\nvarserve[cli] @ {(ROOT / 'client').as_uri()}\n")
    command = [UV, "pip", "compile", "-q", "--no-header", "--python-version", "3.11", wanted]
    names = {line.split("==")[0].split(" ")[0] for line in run(command).splitlines()}
    assert {"varserve", "protobuf", "grpcio", beside.split("[")[0].split("==")[0]} <= names
