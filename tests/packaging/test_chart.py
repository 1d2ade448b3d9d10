"""The Helm chart renders what the kustomize components render, and takes only values it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.tools import program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "varserve"
HELM, KUBECTL = program("helm"), program("kubectl")

pytestmark = pytest.mark.skipif(
    HELM is None or KUBECTL is None, reason="there is no helm or kubectl here to render with"
)

POLICY = yaml.safe_load((ROOT / "deploy/overlays/production/policy.yaml").read_text())
ON: dict[str, Any] = {"enabled": True}
VALUES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {"gpu": ON},
    "metrics": {"metrics": ON},
    "mtls": {"tls": ON},
    "network-policy": {"networkPolicy": ON},
    "persistent-state": {"persistence": ON},
    "replicas": {
        "replicas": 3,
        "networkPolicy": ON,
        "database": {"secret": "varserve-database-app"},
    },
    "production": {
        "audit": ON,
        "metrics": ON,
        "networkPolicy": ON,
        "persistence": ON,
        "policy": POLICY,
        "tls": ON,
    },
}
"""Values of the chart by the overlay that they stand for."""


def rendered(values: dict[str, Any], release: str = "varserve") -> str:
    return helm("template", release, str(CHART), "--values", "-", given=values).stdout


def helm(*arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
    result = attempt(*arguments, given=given)
    assert result.returncode == 0, result.stderr
    return result


def attempt(*arguments: str, given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(HELM), *arguments],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def kustomized(overlay: str) -> str:
    return subprocess.run(
        [str(KUBECTL), "kustomize", ROOT / "deploy" / "overlays" / overlay],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def comparable(manifest: str) -> dict[tuple[str, str], Any]:
    """Objects by kind and name, without what only a release has: its labels."""
    documents = [each for each in yaml.safe_load_all(manifest) if each]
    objects = {(each["kind"], each["metadata"]["name"]): normal(each) for each in documents}
    for (kind, _), each in objects.items():
        each["metadata"].pop("labels", None)
        if kind == "ConfigMap":
            each["data"] = {name: yaml.safe_load(text) for name, text in each["data"].items()}
    return objects


def normal(value: Any) -> Any:
    release = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart"}
    release.add("app.kubernetes.io/managed-by")
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items() if key not in release}
    if isinstance(value, list):
        items = [normal(item) for item in value]
        if all(isinstance(item, dict) and "name" in item for item in items):
            items.sort(key=lambda item: str(item["name"]))
        return items
    return value


@pytest.mark.parametrize("overlay", VALUES)
def test_the_chart_renders_what_kustomize_renders(overlay: str) -> None:
    """With the values that stand for an overlay, every object equals that overlay's object."""
    assert comparable(rendered(VALUES[overlay])) == comparable(kustomized(overlay))


def test_every_overlay_has_values() -> None:
    """A new overlay has to say which values of the chart stand for it."""
    overlays = {each.name for each in (ROOT / "deploy" / "overlays").iterdir() if each.is_dir()}
    assert overlays == set(VALUES)


def test_two_releases_do_not_share_an_object() -> None:
    """Releases in one namespace have other names, and select their own pods."""
    one, other = (
        [each for each in yaml.safe_load_all(rendered(VALUES["production"], name)) if each]
        for name in ("red", "blue")
    )
    names = [{(each["kind"], each["metadata"]["name"]) for each in side} for side in (one, other)]
    assert not names[0] & names[1]
    for side, name in ((one, "red"), (other, "blue")):
        labels = {each["kind"]: each for each in side}["Service"]["spec"]["selector"]
        assert labels["app.kubernetes.io/instance"] == name


EVERYTHING: dict[str, Any] = {
    **VALUES["production"],
    "affinity": {"nodeAffinity": {}},
    "autoscaling": ON,
    "extraEnv": [
        {
            "name": "VARSERVE_OTLP_ENDPOINT",
            "valueFrom": {"secretKeyRef": {"name": "traces", "key": "endpoint"}},
        }
    ],
    "image": {"repository": "registry.example.org/varserve-service", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "podAnnotations": {"team": "search"},
    "route": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.example.org"]},
    "settings": {"max_body_bytes": 17179869184, "reflection": True, "log_level": "debug"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
}


def test_every_value_fits_the_api(tmp_path: Path) -> None:
    """With every value set, all objects pass a strict validation, and settings are exact."""
    manifest = tmp_path / "rendered.yaml"
    manifest.write_text(rendered(EVERYTHING))
    result = subprocess.run(
        [Path(sys.executable).with_name("kubernetes-validate"), "--strict", manifest],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    objects = {each["kind"]: each for each in yaml.safe_load_all(manifest.read_text()) if each}
    (container,) = objects["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["VARSERVE_MAX_BODY_BYTES"] == "17179869184"
    assert environment["VARSERVE_REFLECTION"] == "true"
    assert "replicas" not in objects["StatefulSet"]["spec"]
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in (ROOT / "docs/observability.md").read_text()
    assert objects["GRPCRoute"]["spec"]["rules"][0]["backendRefs"] == [
        {"name": "varserve", "port": 8500}
    ]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"persistance": ON}, "persistance"),
        ({"replicas": "three"}, "replicas"),
        ({"gpu": {"enabled": True, "count": 0}}, "count"),
        ({"settings": {"Log-Level": "debug"}}, "Log-Level"),
        ({"policy": {"rules": [{"verbs": ["read"]}]}}, "subjects"),
        ({"audit": {"size": "ten gigabytes"}}, "size"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], named: str) -> None:
    """A value that the chart does not know, or of another type, is refused by its name."""
    result = attempt("template", "varserve", str(CHART), "--values", "-", given=values)
    assert result.returncode != 0
    assert named in result.stderr


def test_the_chart_passes_lint() -> None:
    """Helm's own check finds nothing to warn of."""
    helm("lint", "--strict", str(CHART))
