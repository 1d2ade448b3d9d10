"""A service with a repository of models, for clients that others wrote, each in its environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.tools import Environment, clean_environment
from tests.serving import ServiceProcess

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS = {
    "scaled": "scaled",
    "words": "words",
    "complex": "complex_numbers",
    "examples": "examples",
}


@pytest.fixture(scope="session")
def repository(
    model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """NAME/1 for each of MODELS."""
    root = tmp_path_factory.mktemp("repository")
    for name, builder in MODELS.items():
        shutil.copytree(model_folder(builder), root / name / "1")
    return root


@pytest.fixture(scope="module")
def service(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """The service with the facade that the test module names, and AdminService."""
    process = ServiceProcess(
        f"--model-repository={repository}",
        "--admin-port=0",
        f"--facade={request.module.FACADE}",
        log=tmp_path_factory.mktemp("service") / "log",
    )
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="session")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """An environment with what `requirements/clients-NAME.txt` locks."""
    made: dict[str, Environment] = {}

    def make(name: str) -> Environment:
        if name not in made:
            made[name] = Environment(tmp_path_factory.mktemp(f"client-{name}"))
            locked = ROOT / "requirements" / f"clients-{name}.txt"
            made[name].pip("install", "-q", "--no-deps", "--require-hashes", "-r", locked)
        return made[name]

    return make


def run_client(python: Path, script: str, *arguments: str, path: Path | None = None) -> Any:
    """What a script of this folder prints, as JSON; `path`: a folder of packages for it."""
    result = subprocess.run(
        [python, HERE / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=clean_environment()
        | {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}
        | ({"PYTHONPATH": str(path)} if path else {}),
        cwd=os.environ.get("TMPDIR", "/tmp"),
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)
