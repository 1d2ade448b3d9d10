"""TensorFlow Serving's own stubs work on the service with `--facade tfs`."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import varserve
from tests.clients.conftest import ROOT, run_client
from tests.packaging.tools import run
from tests.serving import ServiceProcess
from tests.web.conftest import inspector

FACADE = "tfs"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each call gave, after a commit. The stubs run where TensorFlow is: they need it."""
    stubs = tmp_path_factory.mktemp("stubs")
    uv = Path(sys.executable).with_name("uv")
    locked = ROOT / "requirements" / "clients-tensorflow-serving.txt"
    run(
        [
            uv,
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--require-hashes",
            "--target",
            stubs,
            "-r",
            locked,
        ]
    )
    with varserve.connect(service.address) as client:
        client.model("scaled").variables["scale"].assign(3.0)
    script = "tensorflow_serving_client.py"
    return run_client(Path(sys.executable), script, service.address, path=stubs)


def test_predictions_are_of_the_values_of_now(found: Any) -> None:
    """By version, by label, by signature, filtered, in the future; the answer says which it was."""
    again = {"y": [0.0, 3.0, 6.0]}
    assert found["predict"] == again | {"z": [3.0, 4.0, 5.0]}
    assert found["spec"] == ["scaled", 1, "serving_default"]
    assert (found["version"], found["label"], found["canary"]) == (again, again, again)
    assert found["filtered"] == {"z": [3.0, 4.0, 5.0]}
    assert found["future"] == ["y", "z"]
    assert found["strings"] == ["2:ab", "0:"]
    assert found["complex"] == "(-2+1j)"


def test_values_that_repeat_are_taken_and_bombs_are_not(found: Any) -> None:
    """A constant of a few bytes is a whole tensor; one that claims gigabytes is refused."""
    nbytes, outputs = found["repeated"]
    assert nbytes < 20
    assert outputs == {"y": [9.0] * 4}
    assert found["one_by_one"] == {"y": [3.0, 6.0]}
    nbytes, status = found["bomb"]
    assert nbytes < 30
    assert status == "RESOURCE_EXHAUSTED"


def test_examples_are_classified_and_regressed(found: Any) -> None:
    """Where a signature is for it, with and without a context; elsewhere the refusal says why."""
    assert found["classify"] == [{"small": 0.5, "large": 0.5}, {"small": 0.0, "large": 1.0}]
    assert found["regress"] == [3.0]
    assert found["multi"] == ["classification_result", "regression_result"]
    assert found["wrong method"]["status"] == "INVALID_ARGUMENT"
    assert "use Predict" in found["wrong method"]["message"]


def test_rest_gives_what_grpc_gives(service: ServiceProcess, found: Any) -> None:
    """`varserve web` classifies and regresses the same examples to the same results."""
    bodies = {
        "classify": {"examples": [{"x": 0.25}, {"x": 0.5}]},
        "regress": {"signature_name": "regressed", "context": {"x": 1.5}, "examples": [{}]},
    }
    with inspector(service.address) as url:
        results = {}
        for method, body in bodies.items():
            request = urllib.request.Request(
                f"{url}/v1/models/examples:{method}", json.dumps(body).encode()
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                results[method] = json.load(answer)["result"]
    assert [dict(pairs) for pairs in results["classify"]] == found["classify"]
    assert results["regress"] == found["regress"]


def test_metadata_and_status_are_those_of_the_model(found: Any) -> None:
    """Signatures with types and shapes; the state of each version."""
    assert found["unpacked"] is True
    assert found["metadata"] == {
        "signatures": ["again", "serving_default"],
        "method": "tensorflow/serving/predict",
        "x": [1, [-1]],
        "outputs": ["y", "z"],
    }
    assert found["status"] == [[1, 30, 0]]
    assert found["status of none"]["status"] == "NOT_FOUND"


def test_refusals_name_what_is_wrong(found: Any) -> None:
    """A signature, version, dtype or model that is not there is named."""
    statuses = {name: failure["status"] for name, failure in found["refused"].items()}
    assert statuses == {
        "signature": "NOT_FOUND",
        "version": "NOT_FOUND",
        "dtype": "INVALID_ARGUMENT",
        "model": "INVALID_ARGUMENT",
    }
    assert "'none'" in found["refused"]["signature"]["message"]
