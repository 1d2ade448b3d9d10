"""The wheels, as somebody else installs them: complete, small, and working on their own."""

from __future__ import annotations

import email
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT, Environment, run
from tests.serving import ServiceProcess

pytestmark = pytest.mark.slow

# What TensorFlow alone brings in.
TENSORFLOW = {"h5py", "keras", "libclang", "tensorflow", "tensorflow-cpu", "tf-keras"}
# What the extra for traces brings in, which the locked files have, too.
TRACES = {
    "googleapis-common-protos",
    "opentelemetry-api",
    "opentelemetry-exporter-otlp-common",
    "opentelemetry-exporter-otlp-proto-common",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-proto",
    "opentelemetry-sdk",
    "opentelemetry-semantic-conventions",
}

USE_A_SERVICE = """
import sys
import numpy as np
import varserve

with varserve.connect(sys.argv[1]) as client:
    model = client.model("counter")
    v = model.variables["v"]
    before = v.numpy()
    v.assign(np.array([4, 5, 6], np.float32))
    after = v.numpy()
    counted = model.functions["add"](n=np.int64(5))
assert "tensorflow" not in sys.modules
print(before.tolist(), after.tolist(), [int(value) for value in counted.values()])
"""


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> email.message.Message:
    (name,) = (name for name in members(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


def without(requirements: Path, names: set[str], target: Path) -> Path:
    """Write a locked file anew without some distributions and their hashes."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", requirements.read_text(), flags=re.MULTILINE)
    kept = [block for block in blocks if re.split(r"[=\s]", block)[0] not in names]
    assert len(kept) < len(blocks)
    target.write_text("".join(kept))
    return target


@pytest.fixture(scope="module")
def client_alone(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The client's wheel with what it declares to need, and nothing else."""
    environment = Environment(tmp_path_factory.mktemp("client") / "venv")
    environment.install(ROOT / "requirements" / "client.txt", wheels["client"])
    return environment


@pytest.fixture(scope="module")
def service_without_tensorflow(
    wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Both wheels with what the service needs, as from an install without any extra."""
    folder = tmp_path_factory.mktemp("service")
    locked = ROOT / "requirements" / "service-cpu.txt"
    environment = Environment(folder / "venv")
    environment.install(
        without(locked, TENSORFLOW | TRACES, folder / "service.txt"),
        wheels["client"],
        wheels["service"],
    )
    return environment


def test_wheels_hold_the_package_and_its_licence_alone(wheels: dict[str, Path]) -> None:
    """Each wheel has one package, its typing marker or entry point, and the licence."""
    for folder, package in (("client", "varserve"), ("service", "varserve_service")):
        names = members(wheels[folder])
        tops = {name.split("/")[0] for name in names}
        assert tops == {package, f"{package}-0.1.0.dist-info"}
        assert f"{package}-0.1.0.dist-info/licenses/LICENSE" in names
    assert "varserve/py.typed" in members(wheels["client"])
    assert "varserve/v1/model_service_pb2.pyi" in members(wheels["client"])
    assert "varserve_service-0.1.0.dist-info/entry_points.txt" in members(wheels["service"])


def test_client_declares_no_more_than_it_needs(wheels: dict[str, Path]) -> None:
    """Without an extra, the client depends on five small distributions."""
    required = [
        re.split(r"[^A-Za-z0-9_-]", value)[0].replace("_", "-")
        for value in metadata(wheels["client"]).get_all("Requires-Dist", [])
        if "extra ==" not in value
    ]
    assert sorted(required) == ["crc32c", "grpcio", "ml-dtypes", "numpy", "protobuf"]


def test_client_installed_alone_is_whole(client_alone: Environment) -> None:
    """It imports, its requirements agree with each other, and TensorFlow is not there."""
    client_alone.pip("check")
    found = "import varserve, importlib.util as u; print(u.find_spec('tensorflow'))"
    assert client_alone.python("-c", found) == "None\n"


def test_client_installed_alone_works_against_a_service(
    client_alone: Environment, serve: Callable[..., AbstractContextManager[ServiceProcess]]
) -> None:
    """Read, assign and run work from an environment without TensorFlow."""
    with serve("counter") as service:
        printed = client_alone.python("-c", USE_A_SERVICE, service.address)
    assert printed == "[1.0, 2.0, 3.0] [4.0, 5.0, 6.0] [5]\n"


def test_command_line_without_its_extra_says_what_to_install(client_alone: Environment) -> None:
    """Without the extra, the command is there and says in one line what it needs."""
    printed = run([client_alone.bin / "varserve", "models"], status=2)
    assert printed == (
        "varserve: the command line needs click, rich, safetensors: pip install 'varserve[cli]'\n"
    )


def test_service_without_tensorflow_says_what_to_install(
    service_without_tensorflow: Environment, tmp_path: Path
) -> None:
    """Without an extra, serving ends with status 2 and one message that names both extras."""
    service_without_tensorflow.pip("check")
    (tmp_path / "saved_model.pb").touch()
    program = service_without_tensorflow.bin / "varserve-service"
    printed = run([program, "serve", "--model", f"m={tmp_path}", "--port", "0"], status=2)
    assert "varserve-service[cpu]" in printed
    assert "varserve-service[gpu]" in printed
    assert "Traceback" not in printed


def test_the_metadata_is_complete(wheels: dict[str, Path]) -> None:
    """An index shows what each distribution is: a description that begins with its name, keywords,
    and classifiers that exist. No address is given, since there is none yet."""
    from trove_classifiers import classifiers as known

    for folder, name in (("client", "varserve"), ("service", "varserve-service")):
        told = metadata(wheels[folder])
        assert told["Name"] == name
        assert told["Summary"]
        assert told["License-Expression"] == "Apache-2.0"
        assert told["Description-Content-Type"] == "text/markdown"
        assert str(told.get_payload()).startswith(f"# {name}\n")
        assert told["Keywords"]
        given = told.get_all("Classifier", [])
        assert {each.split(" :: ")[0] for each in given} > {"Development Status", "Topic"}
        assert set(given) <= known
        assert told.get_all("Project-URL") is None


def test_one_version_everywhere(wheels: dict[str, Path]) -> None:
    """Both distributions and `varserve.__version__` have one version, and the service asks for
    the client of its own."""
    import varserve

    version = varserve.__version__
    assert {metadata(wheel)["Version"] for wheel in wheels.values()} == {version}
    assert f"varserve=={version}" in metadata(wheels["service"]).get_all("Requires-Dist", [])


def test_the_command_line_runs_in_an_environment_of_its_own(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    """Installed as a tool (`pipx install`, `uv tool install`), from the wheel and an index alone,
    the command is there, completes, and tells its version."""
    uv = Path(sys.executable).with_name("uv")
    environment = os.environ | {
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    wanted = f"varserve[cli] @ {wheels['client'].as_uri()}"
    run([uv, "tool", "install", "--python", sys.executable, wanted], environment=environment)
    program = tmp_path / "bin" / "varserve"
    # Beside it, that no service is there to tell its own.
    told = run([program, "version", "--json"], environment=environment).splitlines()
    (line,) = (line for line in told if line.startswith("{"))
    assert json.loads(line)["varserve"] == metadata(wheels["client"])["Version"]
    assert "_VARSERVE_COMPLETE" in run([program, "completion", "bash"], environment=environment)
