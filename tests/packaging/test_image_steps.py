"""The image, without a container: its steps carried out in a folder, and the service started from there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.dockerfile import Image, build, stages
from tests.packaging.tools import ROOT, run, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The cpu target. Compiling all of TensorFlow ahead is left out: it takes long and changes nothing here."""
    return build("cpu", tmp_path_factory.mktemp("image"), {"UV_COMPILE_BYTECODE": "0"})


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def start(image: Image, *more: str) -> list[str]:
    """The command line of a container that was started with `more` behind the image's own command."""
    program = shutil.which(image.entrypoint[0], path=image.environment["PATH"])
    assert program is not None
    assert program.startswith(str(image.root))
    return [program, *image.entrypoint[1:], *image.command, *more]


def test_image_holds_one_tensorflow(image: Image) -> None:
    """What is installed fits together, but for the one request that is dropped on purpose."""
    uv = image.place("/opt/build/bin/uv")
    python = image.place("/opt/varserve/bin/python")
    said = run([uv, "pip", "check", "--python", python], status=1).splitlines()
    assert [line for line in said if "requires" in line] == [
        "The package `tf-keras` requires `tensorflow>=2.21,<2.22`, but it's not installed"
    ]
    listed = run([uv, "pip", "list", "--python", python]).split()
    assert {"tensorflow-cpu", "tf-keras", "varserve", "varserve-service"} <= set(listed)
    assert not {"tensorflow", "pip", "pytest", "uv"} & set(listed)


def test_service_runs_from_the_image(image: Image, repository: Path) -> None:
    """It serves the mounted repository, its health check passes, and it writes nothing to the image."""
    shutil.copytree(repository, image.place("/models"))
    before = files(image.place("/opt/varserve"))
    command = start(image, "--port", "0")
    command[command.index("/models")] = str(image.place("/models"))
    command[command.index("0.0.0.0")] = "127.0.0.1"
    health = start(image)[:1] + image.health[1:]
    at = health.index(f"127.0.0.1:{image.port}")
    with serving(command, cwd=image.place("."), environment=image.environment) as address:
        health[at] = address
        run(health, environment=image.environment)
    run(health, environment=image.environment, status=1)
    assert files(image.place("/opt/varserve")) == before


def test_image_needs_no_rights(image: Image) -> None:
    """It runs as a number that is not root, and every target does the same."""
    assert image.user == "65532:65532"
    known = stages((ROOT / "Dockerfile").read_text())
    assert {known[target].parent for target in ("cpu", "gpu")} == {"runtime"}


def test_gpu_target_takes_the_same_steps(image: Image) -> None:
    """The steps of the gpu target are those of the cpu target, which ran, with its own locked file."""
    known = stages((ROOT / "Dockerfile").read_text())
    as_cpu = [
        (name, step.replace("service-gpu.txt", "service-cpu.txt"))
        for name, step in known["gpu-packages"].steps
    ]
    assert as_cpu == known["cpu-packages"].steps
