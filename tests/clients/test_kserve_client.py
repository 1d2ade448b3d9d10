"""KServe's clients work: gRPC on the service with `--facade oip`, REST on `varserve web`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import varserve
from tests.clients.conftest import run_client
from tests.packaging.tools import Environment
from tests.serving import ServiceProcess
from tests.web.conftest import inspector

FACADE = "oip"
SCRIPT = "kserve_client.py"
OUTPUTS = {"y": ["FP32", [0.0, 3.0, 6.0]], "z": ["FP32", [3.0, 4.0, 5.0]]}

pytestmark = [pytest.mark.clients, pytest.mark.slow]


@pytest.fixture(scope="module")
def python(client_environment: Callable[[str], Environment]) -> Path:
    return client_environment("kserve").bin / "python"


@pytest.fixture(scope="module")
def found(service: ServiceProcess, python: Path) -> Any:
    """What each call gave, after a commit."""
    with varserve.connect(service.address) as client:
        client.model("scaled").variables["scale"].assign(3.0)
    with inspector(service.address) as url:
        return run_client(python, SCRIPT, service.address, url)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_inferences_are_of_the_values_of_now(found: Any, protocol: str) -> None:
    """Raw bytes and typed values, another signature, strings; the answer says the revision."""
    seen = found[protocol]
    assert (seen["live"], seen["ready"], seen["model ready"]) == (True, True, [True, False])
    # The REST client does not keep the version that the answer says.
    version = "1" if protocol == "grpc" else None
    answer = {"id": "7", "model": "scaled", "version": version, "revision": 1}
    assert seen["binary"] == answer | {"outputs": OUTPUTS}
    assert seen["typed"] == seen["binary"]
    assert seen["signature"] == answer | {"outputs": {"y": OUTPUTS["y"]}}
    assert seen["strings"] == [["2:ab", "0:"]] * 2
    assert seen["refused"][0] == {"grpc": "NOT_FOUND", "rest": 404}[protocol]
    assert "'nobody'" in seen["refused"][1]


def test_predictions_by_the_first_protocol(found: Any) -> None:
    """KServe's REST client predicts by `/v1` too, and its checks are answered."""
    assert (found["rest"]["v1 live"], found["rest"]["v1 ready"]) == (True, True)
    assert found["rest"]["v1"] == {"predictions": [0.0, 3.0, 6.0]}


def test_who_may_not_run_is_told_so(repository: Path, python: Path, tmp_path: Path) -> None:
    """With the codes of each protocol; the REST process hands on the caller's credential."""
    token = "a" * 40
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens, policy = tmp_path / "tokens.yaml", tmp_path / "policy.yaml"
    tokens.write_text(f"tokens: [{{subject: looker, sha256: {digest}}}]")
    seen = "models: ['*'], functions: ['*']"
    policy.write_text(f"rules: [{{subjects: [looker], verbs: [list], {seen}}}]")
    service = ServiceProcess(
        f"--model-repository={repository}",
        "--facade=oip",
        f"--token-file={tokens}",
        f"--policy={policy}",
        log=tmp_path / "log",
    )
    try:
        with inspector(service.address) as url:
            told = run_client(python, SCRIPT, service.address, url, token)
    finally:
        service.close()
    assert {name: answer[0] for name, answer in told.items() if name != "grpc ready"} == {
        "grpc": "PERMISSION_DENIED",
        "grpc without": "UNAUTHENTICATED",
        "rest": 403,
        "rest without": 401,
    }
    assert told["grpc ready"] is True
    assert "'looker' may not run" in told["grpc"][1]
