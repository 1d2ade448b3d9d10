"""Models of a real MLflow server on SQLite: fetched by version, alias and run, and followed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import varserve
from tests.packaging.tools import Environment, clean_environment
from tests.serving import ServiceProcess
from tests.waiting import read_line, until

HERE = Path(__file__).parent

SECONDS = 600
"""For one command: MLflow's imports alone take half a minute of a busy machine."""

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(3600)]


class Mlflow(NamedTuple):
    """A server, and the environment whose programs know it."""

    python: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, code: int = 0) -> str:
        result = subprocess.run(
            [self.python, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert result.returncode == code, result.stderr[-3000:]
        return result.stdout if code == 0 else result.stderr

    def registry(self, *arguments: str | Path) -> Any:
        return json.loads(self.run(HERE / "mlflow_registry.py", *arguments).splitlines()[-1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def mlflow(
    client_environment: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mlflow]:
    environment = client_environment("mlflow")
    # Installed, and not found by a path: MLflow finds the plugin by what the installer wrote.
    environment.pip("install", "-q", "--no-deps", HERE.parents[1] / "client")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = clean_environment() | {
        "MLFLOW_TRACKING_URI": url,
        "PATH": f"{environment.bin}:{os.environ['PATH']}",
    }
    log = (folder / "log").open("wb")
    # It starts processes of its own and leaves them behind: all are one group.
    server = subprocess.Popen(
        [
            environment.bin / "mlflow",
            "server",
            f"--backend-store-uri=sqlite:///{folder}/mlflow.db",
            f"--artifacts-destination={folder}/artifacts",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
        ],
        env=variables,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        until(lambda: answers(url), seconds=SECONDS, pause=0.2)
        yield Mlflow(environment.bin / "python", variables)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(60)
        log.close()


def test_a_registered_model_is_fetched(
    mlflow: Mlflow, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """By version, by alias and by run: each is the SavedModel that was logged, byte for byte."""
    saved = model_folder("counter")
    logged = mlflow.registry("log", saved)
    mlflow.registry("alias", logged["version"], "champion")
    uris = [
        f"models:/counter/{logged['version']}",
        "models:/counter@champion",
        f"runs:/{logged['run']}/model",
        f"runs:/{logged['run']}/model/tf2model",
    ]
    for number, uri in enumerate(uris, 1):
        mlflow.run("-m", "varserve", "fetch", uri, f"{tmp_path}/counter")
        placed = tmp_path / "counter" / str(number)
        for path in saved.rglob("*"):
            if path.is_file():
                assert (placed / path.relative_to(saved)).read_bytes() == path.read_bytes()
    said = mlflow.run("-m", "varserve", "fetch", "models:/none@x", f"{tmp_path}/none", code=2)
    assert "Traceback" not in said
    assert not (tmp_path / "none").exists()


def test_commits_are_recorded_in_a_run(
    mlflow: Mlflow, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Metrics by revision, a tag for each commit, and a document with who, why and the hashes."""
    service = ServiceProcess(f"--model=counter={model_folder('counter')}", log=tmp_path / "log")
    try:
        with varserve.connect(service.address) as client:
            variable = client.model("counter").variables["v"]
            for _ in range(2):
                variable.assign_add([1, 1, 1], message="one up")
            content = variable.summary().content_hash
        mlflow.run(
            *("-m", "varserve", "-s", service.address),
            *("watch", "counter", "v", "--after-revision", "0", "--count", "2", "--mlflow"),
        )
    finally:
        service.close()
    found = mlflow.registry("recorded", "varserve counter")
    assert [(step, round(value, 3)) for step, value in found["mean"]] == [(1, 3.0), (2, 4.0)]
    assert found["tags"]["varserve.revision"] == "2"
    assert found["tags"]["varserve.commit.2"] == "assign: one up"
    assert found["document"]["message"] == "one up"
    assert found["document"]["variables"] == {"v": content}


def test_what_an_alias_moves_to_is_loaded(
    mlflow: Mlflow, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """`varserve follow` fetches and loads the version that an alias means, and the next one."""
    saved = model_folder("counter")
    first, second = (mlflow.registry("log", saved)["version"] for _ in range(2))
    mlflow.registry("alias", first, "live")
    service = ServiceProcess(
        f"--model-repository={tmp_path}", "--admin-port=0", log=tmp_path.parent / "follow-log"
    )
    try:
        follower = subprocess.Popen(
            [
                *(mlflow.python, "-u", "-m", "varserve"),
                *("--admin-server", service.admin_address),
                *("follow", "models:/counter@live", f"{tmp_path}/counter"),
                *("--every", "1", "--count", "2"),
            ],
            env=mlflow.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert f"version {first}" in read_line(follower, SECONDS)
            with varserve.connect(service.address) as client:
                assert client.model("counter").version == int(first)
                mlflow.registry("alias", second, "live")
                assert f"version {second}" in read_line(follower, SECONDS)
                assert client.model("counter").version == int(second)
            assert follower.wait(SECONDS) == 0
        finally:
            follower.kill()
            follower.wait(60)
            assert follower.stdout is not None
            follower.stdout.close()
    finally:
        service.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """An empty repository, and AdminService."""
    (tmp_path / "repository").mkdir()
    process = ServiceProcess(
        f"--model-repository={tmp_path}/repository", "--admin-port=0", log=tmp_path / "log"
    )
    try:
        yield process
    finally:
        process.close()


def target_of(service: ServiceProcess, repository: Path) -> str:
    return f"varserve://{service.address}?admin={service.admin_address}&repository={repository}"


def test_mlflow_deploys_to_the_service(
    mlflow: Mlflow, service: ServiceProcess, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A deployment is made, predicts, is updated, listed and deleted; refusals have codes."""
    first, second = (mlflow.registry("log", model_folder("scaled"))["version"] for _ in range(2))
    target = target_of(service, tmp_path / "repository")
    found = mlflow.registry("deployed", target, first, second)
    assert found["created"]["version"] == int(first)
    assert found["by name"] == {
        "predictions": {"y": [2.0, 4.0], "z": [3.0, 4.0]},
        "version": int(first),
        "revision": 0,
    }
    assert found["frame"] == found["by name"]
    assert found["array"]["predictions"] == {"y": [2.0], "z": [3.0]}
    assert found["updated"]["version"] == int(second)
    assert found["back"] == found["created"]
    (listed,) = found["listed"]
    stable = {"version": int(second), "labels": ["stable"], "state": "ready", "revision": 0}
    assert stable in listed["versions"]
    assert listed["name"] == found["got"]["name"] == "served"
    assert {"again", "serving_default"} <= {*found["got"]["functions"]}
    assert found["again"] == "RESOURCE_ALREADY_EXISTS"
    assert found["wrong"] == [
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE",
    ]
    assert found["deleted"] == []


def test_mlflows_command_line_deploys(
    mlflow: Mlflow, service: ServiceProcess, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """`mlflow deployments` create, predict, get, list, delete and help."""
    version = mlflow.registry("log", model_folder("scaled"))["version"]
    target = ("-t", target_of(service, tmp_path / "repository"))
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"x": [1, 2]}))
    mlflow_program = ("-m", "mlflow", "deployments")

    def run(*command: str, code: int = 0) -> str:
        return mlflow.run(*mlflow_program, *command, code=code)

    uri = f"models:/counter/{version}"
    assert "m is created" in run("create", *target, "--name", "m", "-m", uri)
    predicted = json.loads(run("predict", *target, "--name", "m", "-I", str(inputs)))
    assert predicted["predictions"]["y"] == [2.0, 4.0]
    assert "stable" in run("get", *target, "--name", "m")
    assert "'m'" in run("list", *target)
    assert "is updated" in run("update", *target, "--name", "m", "-C", f"version={version}")
    run("delete", *target, "--name", "m")
    assert "'m'" not in run("list", *target)
    assert "repository=FOLDER" in run("help", "-t", "varserve")


def test_who_may_not_deploy_is_told_so(
    mlflow: Mlflow, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A caller without the verbs gets MLflow's PERMISSION_DENIED, and may still look."""
    version = mlflow.registry("log", model_folder("scaled"))["version"]
    token, repository = "a" * 40, tmp_path / "repository"
    shutil.copytree(model_folder("scaled"), repository / "counter" / "1")
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens, policy = tmp_path / "tokens.yaml", tmp_path / "policy.yaml"
    tokens.write_text(f"tokens: [{{subject: looker, sha256: {digest}}}]")
    seen = "models: ['*'], functions: ['*']"
    policy.write_text(f"rules: [{{subjects: [looker], verbs: [list], {seen}}}]")
    service = ServiceProcess(
        *(f"--model-repository={repository}", "--admin-port=0"),
        *(f"--token-file={tokens}", f"--policy={policy}"),
        log=tmp_path / "log",
    )
    try:
        allowed = mlflow._replace(environment=mlflow.environment | {"VARSERVE_TOKEN": token})
        target = target_of(service, repository)
        assert allowed.registry("denied", target, version) == [
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
            "counter",
        ]
    finally:
        service.close()


def test_a_keras_model_is_exported(mlflow: Mlflow, tmp_path: Path) -> None:
    """By a process of its own, with the Python that is named; the SavedModel predicts as it did."""
    import keras

    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(2, name="out")])
    x = np.ones((1, 3), np.float32)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    version = mlflow.registry("log-keras", tmp_path / "model.keras")["version"]
    fetch = ("-m", "varserve", "fetch", f"models:/counter/{version}", f"{tmp_path}/dense")
    said = mlflow.run(*fetch, code=2)
    assert "VARSERVE_KERAS_PYTHON" in said
    assert not list(tmp_path.glob("dense/*"))
    named = mlflow.environment | {"VARSERVE_KERAS_PYTHON": sys.executable}
    mlflow._replace(environment=named).run(*fetch)
    service = ServiceProcess(f"--model=dense={tmp_path}/dense/1", log=tmp_path / "log")
    try:
        with varserve.connect(service.address) as client:
            (found,) = client.model("dense").functions["serving_default"](x).values()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    finally:
        service.close()
