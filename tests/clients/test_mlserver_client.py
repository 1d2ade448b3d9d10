"""MLServer's stubs, converters and codecs work on the service with `--facade oip`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import varserve
from tests.clients.conftest import MODELS, run_client
from tests.packaging.tools import Environment
from tests.serving import ServiceProcess

FACADE = "oip"

pytestmark = [pytest.mark.clients, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(service: ServiceProcess, client_environment: Callable[[str], Environment]) -> Any:
    """What each call gave, after a commit."""
    with varserve.connect(service.address) as client:
        client.model("scaled").variables["scale"].assign(3.0)
    python = client_environment("mlserver").bin / "python"
    return run_client(python, "mlserver_client.py", service.address)


def test_what_is_served_is_described(found: Any) -> None:
    """Liveness, readiness, metadata in MLServer's own types, and the index of the repository."""
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, [True, False])
    assert found["metadata"]["versions"] == ["1"]
    (x,) = found["metadata"]["inputs"]
    assert (x["name"], x["datatype"], x["shape"]) == ("x", "FP32", [-1])
    assert found["index"] == [[name, "1", "READY"] for name in sorted(MODELS)]


@pytest.mark.parametrize("raw", [True, False])
def test_inferences_are_of_the_values_of_now(found: Any, raw: bool) -> None:
    """With raw bytes and with typed contents, numbers and strings."""
    assert found[f"raw {raw}"] == {
        "id": "7",
        "version": "1",
        "outputs": {"y": [0.0, 3.0, 6.0], "z": [3.0, 4.0, 5.0]},
        "strings": ["2:ab", "0:"],
    }
    assert found["revision"] == 1


def test_outputs_and_signatures_are_chosen(found: Any) -> None:
    """By the outputs of the request, and by a parameter; a model that is not there is named."""
    assert (found["wanted"], found["signature"]) == (["z"], ["y"])
    assert found["refused"][0] == "NOT_FOUND"
    assert "'nobody'" in found["refused"][1]
