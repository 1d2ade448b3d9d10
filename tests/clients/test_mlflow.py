"""Models of a real MLflow server on SQLite: fetched by version, alias and run, and followed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = clean_environment() | {
        "MLFLOW_TRACKING_URI": url,
        "PYTHONPATH": str(HERE.parents[1] / "client" / "src"),
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
