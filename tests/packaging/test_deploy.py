"""The manifests render, fit the API of Kubernetes, and ask for no more rights than they need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = {"base": "cpu", "overlays/gpu": "gpu"}

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl renders the manifests and is not on the path"
)


@cache
def rendered(overlay: str) -> str:
    return subprocess.run(
        ["kubectl", "kustomize", ROOT / "deploy" / overlay],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def objects(overlay: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(rendered(overlay))}


def pod(overlay: str) -> dict[str, Any]:
    spec = objects(overlay)["StatefulSet"]["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def container(overlay: str) -> dict[str, Any]:
    (only,) = pod(overlay)["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_fit_the_api(overlay: str, tmp_path: Path) -> None:
    """Every rendered object passes a strict validation: no unknown field, no wrong type."""
    manifest = tmp_path / "rendered.yaml"
    manifest.write_text(rendered(overlay))
    program = Path(sys.executable).with_name("kubernetes-validate")
    result = subprocess.run(
        [program, "--strict", manifest], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(objects(overlay)) == ["PodDisruptionBudget", "Service", "StatefulSet"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_is_restricted(overlay: str) -> None:
    """The pod meets the restricted Pod Security Standard and cannot write to its image."""
    assert container(overlay)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }
    security = pod(overlay)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(overlay)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_and_service_reach_the_port_that_the_image_listens_on(overlay: str) -> None:
    """Three gRPC probes, the container's port and the service's port are the image's own port."""
    (exposed,) = [
        int(line.split()[1])
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("EXPOSE ")
    ]
    spec = container(overlay)
    assert {
        name: spec[name]["grpc"]["port"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    } == {"startupProbe": exposed, "readinessProbe": exposed, "livenessProbe": exposed}
    assert spec["ports"] == [{"name": "grpc", "containerPort": exposed}]
    service = objects(overlay)["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(exposed, "grpc")]


@pytest.mark.parametrize(("overlay", "tag"), OVERLAYS.items())
def test_image_and_resources_go_together(overlay: str, tag: str) -> None:
    """The gpu overlay takes the gpu image and one GPU; the base takes neither."""
    spec = container(overlay)
    assert spec["image"] == f"varserve-service:{tag}"
    assert spec["resources"]["limits"].get("nvidia.com/gpu") == (1 if tag == "gpu" else None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods(overlay: str) -> None:
    """The service, the disruption budget and the set all select the labels that the pods carry."""
    found = objects(overlay)
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]
