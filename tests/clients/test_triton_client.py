"""NVIDIA's own client, tritonclient, works on the service with `--facade oip`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import varserve
from tests.clients.conftest import run_client
from tests.packaging.tools import Environment
from tests.serving import ServiceProcess
from tests.web.conftest import inspector

FACADE = "oip"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(service: ServiceProcess, client_environment: Callable[[str], Environment]) -> Any:
    """What each call gave, after a commit."""
    with varserve.connect(service.address) as client:
        client.model("scaled").variables["scale"].assign(3.0)
    return run_client(
        client_environment("triton").bin / "python", "triton_client.py", service.address
    )


def test_a_client_finds_out_what_is_served(found: Any) -> None:
    """Liveness, readiness by version and label, metadata and configuration."""
    assert (found["live"], found["ready"]) == (True, True)
    assert found["model_ready"] == [True, True, True, False, False]
    assert found["server"]["name"] == "varserve"
    assert found["metadata"]["versions"] == ["1"]
    assert found["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1"]}]
    assert [each["name"] for each in found["metadata"]["outputs"]] == ["y", "z"]
    assert found["config"]["config"]["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]}
    ]


def test_a_client_infers_with_the_values_of_now(found: Any) -> None:
    """After a commit the next inference differs and says the revision; ids and names come back."""
    assert found["infer"] == {"id": "7", "version": "1", "revision": 1, "y": [0.0, 3.0, 6.0]}
    assert found["wanted"] == ["z"]
    assert found["gzip"] == [0.0, 3.0, 6.0]
    assert found["strings"] == ["2:ab", "0:", "300:" + "c" * 300]
    assert found["large"] == 3.0 * (4 << 20)
    assert found["async"] == [[0.0, 3.0, 6.0], None]


def test_a_stream_survives_a_refusal(found: Any) -> None:
    """Answers come in order; a request that does not fit is told so, and the next one answered."""
    assert found["stream"][:3] + found["stream"][4:] == ["0", "1", "2", "5"]
    assert "expected" in found["stream"][3]
    assert found["final"] is True


def test_refusals_have_the_codes_of_the_protocol(found: Any) -> None:
    """Each refusal has the status that says what to do, and names the thing."""
    statuses = {
        name: failure["status"].removeprefix("StatusCode.")
        for name, failure in found["refused"].items()
    }
    assert statuses == {
        "name": "INVALID_ARGUMENT",
        "dtype": "INVALID_ARGUMENT",
        "model": "NOT_FOUND",
        "version": "NOT_FOUND",
        "config": "INVALID_ARGUMENT",
        "shared memory": "UNIMPLEMENTED",
    }
    assert "complex64" in found["unsayable"]["message"]
    assert "'x'" in found["unsayable"]["message"]


def test_a_client_administers_the_repository(found: Any) -> None:
    """Its index lists the versions; a model that was unloaded is loaded again."""
    assert found["unloaded"] == [False, True]
    states = {(each["name"], each["version"]): each["state"] for each in found["index"]["models"]}
    assert states == {(name, "1"): "READY" for name in ("scaled", "words", "complex", "examples")}


def test_inferences_are_counted(found: Any) -> None:
    """Statistics tell the inferences that succeeded and failed."""
    succeeded, failed = (int(count) for count in found["statistics"])
    assert succeeded >= 9
    assert failed >= 3


def test_the_http_client_infers_through_the_pages_process(
    service: ServiceProcess, client_environment: Callable[[str], Environment], found: Any
) -> None:
    """`varserve web` answers tritonclient's HTTP client: JSON, raw bytes, compressed, strings."""
    python = client_environment("triton").bin / "python"
    with inspector(service.address) as url:
        http = run_client(python, "triton_http_client.py", url.removeprefix("http://"))
    assert (http["live"], http["ready"], http["server"]) == (True, True, "varserve")
    assert http["model_ready"] == [True, True, False]
    assert http["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    for binary in (True, False):
        for kind in ("plain", "gzip", "deflate"):
            assert http[f"{kind} {binary}"] == [[0.0, 3.0, 6.0], "7"]
    assert http["strings"] == ["2:ab", "0:"]
    assert http["refused"][0] == "404"
    assert "nobody" in http["refused"][1]
