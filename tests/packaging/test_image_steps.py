"""The image, without a container: its steps carried out in a folder, the service started there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.dockerfile import Image, build, stages
from tests.packaging.tools import ROOT, run, serving

# TensorFlow is installed anew and started without byte code: minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The cpu target. What only costs time is left out: byte code and copies of cached files."""
    quick = {"UV_COMPILE_BYTECODE": "0", "UV_LINK_MODE": "hardlink"}
    return build("cpu", tmp_path_factory.mktemp("image"), quick)


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def program(image: Image, *command: str) -> list[str]:
    """A command whose programs are the image's own, as its PATH finds them."""
    found = [shutil.which(part, path=image.environment["PATH"]) or part for part in command]
    assert found[0] == str(image.place("/opt/varserve/bin") / command[0])
    return found


def test_image_holds_one_tensorflow(image: Image) -> None:
    """What is installed fits together, but for the one request that is dropped on purpose."""
    uv = [image.place("/opt/build/bin/uv"), "pip"]
    python = ["--python", image.place("/opt/varserve/bin/python")]
    said = run([*uv, "check", *python], status=1).splitlines()
    assert [line for line in said if " requires " in line] == [
        "The package `tf-keras` requires `tensorflow>=2.21,<2.22`, but it's not installed"
    ]
    listed = set(run([*uv, "list", *python]).split())
    assert {"tensorflow-cpu", "tf-keras", "varserve", "varserve-service"} <= listed
    assert listed.isdisjoint({"tensorflow", "pip", "pytest", "uv"})


def test_image_can_send_traces(image: Image) -> None:
    """It has the extra for them, so that OpenTelemetry's own variables are all that they need."""
    python = image.place("/opt/varserve/bin/python")
    run([python, "-I", "-B", "-c", "import varserve_service.telemetry.tracing"])


def test_service_runs_from_the_image(image: Image, model_folder: Callable[[str], Path]) -> None:
    """It serves the mounted repository, is found healthy, and writes nothing to the image."""
    repository = image.place("/models")
    shutil.copytree(model_folder("counter"), repository / "counter" / "1")
    before = files(image.place("/opt/varserve"))
    here = {"/models": str(repository), "0.0.0.0": "127.0.0.1"}
    arguments = (here.get(part, part) for part in image.command)
    command = [*program(image, *image.entrypoint), *arguments, "--port", "0"]
    assert "dumb-init" in command[0]
    with serving(command, cwd=image.place("."), environment=image.environment) as address:
        health = program(image, *image.health)
        told = image.environment | {"VARSERVE_PORT": address.rpartition(":")[2]}
        run(health, environment=told)
    run(health, environment=told, status=1)
    assert files(image.place("/opt/varserve")) == before


def test_image_needs_no_rights(image: Image) -> None:
    """It runs as a number that is not root's, and so does the gpu target."""
    assert image.user == "65532:65532"
    known = stages((ROOT / "Dockerfile").read_text())
    assert [known[target].parent for target in ("cpu", "gpu")] == ["runtime", "runtime"]


def test_gpu_target_takes_the_same_steps() -> None:
    """Its steps are those of the cpu target, which another test carries out, on its own file."""
    known = stages((ROOT / "Dockerfile").read_text())
    as_cpu = [
        (name, step.replace("service-gpu.txt", "service-cpu.txt"))
        for name, step in known["gpu-packages"].steps
    ]
    assert as_cpu == known["cpu-packages"].steps
