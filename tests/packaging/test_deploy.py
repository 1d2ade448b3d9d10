"""The manifests render, fit the API of Kubernetes, and ask for no more rights than they need."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.tools import program
from varserve_service.access.policy import KINDS as KINDS_OF_VERBS
from varserve_service.access.policy_file import read_policy
from varserve_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = {
    "base": "cpu",
    "overlays/cpu": "cpu",
    "overlays/gpu": "gpu",
    "overlays/metrics": "cpu",
    "overlays/mtls": "cpu",
    "overlays/network-policy": "cpu",
    "overlays/persistent-state": "cpu",
    "overlays/production": "cpu",
    "overlays/replicas": "cpu",
}
CERTIFICATES = ["Certificate"] * 3 + ["Issuer"] * 2
KINDS = {
    "overlays/metrics": ["PrometheusRule", "ServiceMonitor"],
    "overlays/mtls": CERTIFICATES,
    "overlays/network-policy": ["NetworkPolicy"],
    "overlays/replicas": ["NetworkPolicy"],
    "overlays/production": [
        *CERTIFICATES,
        *("Certificate", "Certificate", "Issuer"),  # of Prometheus
        *("ConfigMap", "NetworkPolicy", "PrometheusRule", "ServiceMonitor"),
    ],
}
FROM_A_SECRET = "postgresql://varserve:hush@varserve-database-rw/varserve"
"""What the operator of the database writes into the secret."""
TLS = ("overlays/mtls", "overlays/production")

KUBECTL = program("kubectl")

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl here to render with")


@cache
def rendered(overlay: str) -> str:
    return subprocess.run(
        [str(KUBECTL), "kustomize", ROOT / "deploy" / overlay],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


def documents(overlay: str) -> list[Any]:
    return list(yaml.safe_load_all(rendered(overlay)))


def objects(overlay: str) -> dict[str, Any]:
    return {document["kind"]: document for document in documents(overlay)}


def environment(overlay: str) -> dict[str, str]:
    return {
        each["name"]: each.get("value", FROM_A_SECRET) for each in container(overlay).get("env", [])
    }


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
        [program, "--strict", manifest], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    kinds = [*KINDS.get(overlay, []), "PodDisruptionBudget", "Service", "StatefulSet"]
    assert sorted(document["kind"] for document in documents(overlay)) == sorted(kinds)


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
def test_probes_and_service_reach_the_port_that_is_theirs(overlay: str) -> None:
    """The service reaches the image's own port; probes that one, or under TLS the health port."""
    (exposed,) = [
        int(line.split()[1])
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("EXPOSE ")
    ]
    set_ports = environment(overlay)
    probed = int(set_ports.get("VARSERVE_HEALTH_PORT", exposed))
    assert (probed != exposed) is (overlay in TLS)
    spec = container(overlay)
    assert {
        name: spec[name]["grpc"]["port"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    } == {"startupProbe": probed, "readinessProbe": probed, "livenessProbe": probed}
    ports = {port["name"]: port["containerPort"] for port in spec["ports"]}
    assert ports["grpc"] == exposed
    assert ports.get("health", exposed) == probed
    assert str(ports.get("metrics", "")) == set_ports.get("VARSERVE_METRICS_PORT", "")
    service = objects(overlay)["Service"]["spec"]
    assert service["clusterIP"] == "None"
    reached = {port["targetPort"]: port["port"] for port in service["ports"]}
    assert reached == {name: port for name, port in ports.items() if name != "health"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_set_is_a_setting(overlay: str) -> None:
    """Every variable of the environment is a setting of the service, with a value that it takes."""
    given = {
        name.removeprefix("VARSERVE_").lower(): value
        for name, value in environment(overlay).items()
    }
    assert set(given) <= set(Settings.model_fields)
    Settings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_the_time_to_drain(overlay: str) -> None:
    """The kill comes after the service's own grace, and what it needs to close connections."""
    grace = float(environment(overlay).get("VARSERVE_GRACE", Settings().grace))
    assert pod(overlay)["terminationGracePeriodSeconds"] >= grace + 10


@pytest.mark.parametrize("overlay", TLS)
def test_certificates_are_mounted_where_they_are_read(overlay: str) -> None:
    """The secret that cert-manager fills is the volume that the settings name, for this service."""
    found = environment(overlay)
    (mount,) = [m for m in container(overlay)["volumeMounts"] if m["name"] == "tls"]
    names = {key: found[f"VARSERVE_TLS_{key}"] for key in ("CERT", "KEY", "CLIENT_CA")}
    assert names == {
        "CERT": f"{mount['mountPath']}/tls.crt",
        "KEY": f"{mount['mountPath']}/tls.key",
        "CLIENT_CA": f"{mount['mountPath']}/ca.crt",
    }
    (secret,) = [v["secret"]["secretName"] for v in pod(overlay)["volumes"] if v["name"] == "tls"]
    certificates = {
        each["metadata"]["name"]: each["spec"]
        for each in documents(overlay)
        if each["kind"] == "Certificate"
    }
    issuers = {each["metadata"]["name"] for each in documents(overlay) if each["kind"] == "Issuer"}
    assert certificates["varserve"]["secretName"] == secret
    assert {each["issuerRef"]["name"] for each in certificates.values()} <= issuers
    service = objects(overlay)["Service"]["metadata"]["name"]
    assert certificates["varserve"]["dnsNames"] == [service, f"*.{service}"]


@pytest.mark.parametrize("overlay", ["overlays/network-policy", "overlays/production"])
def test_nothing_leaves_the_pod(overlay: str) -> None:
    """All egress is denied, and ingress is for the ports of calls and metrics alone."""
    spec = objects(overlay)["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []
    labels = objects(overlay)["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"] == labels
    assert [port["port"] for rule in spec["ingress"] for port in rule["ports"]] == [8500, 9464]
    assert all(rule["from"] for rule in spec["ingress"])


@pytest.mark.parametrize("overlay", ["overlays/persistent-state", "overlays/production"])
def test_state_outlives_the_pod(overlay: str) -> None:
    """The state is on a claim of the pod's own, which nobody else mounts and nothing deletes."""
    spec = objects(overlay)["StatefulSet"]["spec"]
    assert environment(overlay)["VARSERVE_STATE_DIR"] == claimed(overlay)["state"]
    assert {each["spec"]["accessModes"][0] for each in spec["volumeClaimTemplates"]} == {
        "ReadWriteOncePod"
    }
    assert set(spec["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert spec["replicas"] == 1


def test_replicas_have_one_state() -> None:
    """All pods take the address from the secret of the example's database, and may reach it."""
    cluster, around = yaml.safe_load_all(
        (ROOT / "deploy" / "database" / "cloudnative-pg.yaml").read_text()
    )
    name, spec = cluster["metadata"]["name"], objects("overlays/replicas")["StatefulSet"]["spec"]
    assert spec["replicas"] > 1
    assert "volumeClaimTemplates" not in spec
    (state,) = [e for e in container("overlays/replicas")["env"] if e["name"] == "VARSERVE_STATE"]
    # The operator of the database makes this secret.
    assert state["valueFrom"]["secretKeyRef"] == {"name": f"{name}-app", "key": "uri"}
    assert Settings(state=FROM_A_SECRET).state == FROM_A_SECRET
    (database, names) = objects("overlays/replicas")["NetworkPolicy"]["spec"]["egress"]
    (reached,) = [each["podSelector"]["matchLabels"] for each in database["to"]]
    assert reached == around["spec"]["podSelector"]["matchLabels"] == {"cnpg.io/cluster": name}
    assert ([p["port"] for p in database["ports"]], "to" in names) == ([5432], False)
    let_in = [
        each["podSelector"]["matchLabels"]
        for rule in around["spec"]["ingress"]
        for each in rule["from"]
        if "podSelector" in each
    ]
    assert (
        objects("overlays/replicas")["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
        in let_in
    )
    # A commit that is acknowledged is on two machines.
    assert cluster["spec"]["instances"] >= 2
    assert cluster["spec"]["postgresql"]["synchronous"]["number"] >= 1
    assert cluster["spec"]["postgresql"]["synchronous"]["dataDurability"] == "required"


def claimed(overlay: str) -> dict[str, str]:
    """Where each claim of the pod's own is mounted."""
    mounts = {each["name"]: each["mountPath"] for each in container(overlay)["volumeMounts"]}
    claims = objects(overlay)["StatefulSet"]["spec"]["volumeClaimTemplates"]
    return {name: mounts[name] for name in (each["metadata"]["name"] for each in claims)}


def test_production_keeps_an_audit_log() -> None:
    """It is on a claim of its own, not on the one of the state, which callers must not fill."""
    log = Path(environment("overlays/production")["VARSERVE_AUDIT_LOG"])
    places = claimed("overlays/production")
    assert str(log.parent) == places["audit"] != places["state"]


def test_production_has_a_policy() -> None:
    """The service takes it; who is named may do what it says and no more, and nobody else a thing.

    It is mounted as a folder, under a name that stays, so that a change comes without a restart.
    """
    overlay = "overlays/production"
    (volume,) = [each for each in pod(overlay)["volumes"] if each["name"] == "policy"]
    (mount,) = [each for each in container(overlay)["volumeMounts"] if each["name"] == "policy"]
    found = objects(overlay)["ConfigMap"]
    assert volume["configMap"] == {"name": "varserve-policy"} == {"name": found["metadata"]["name"]}
    assert "subPath" not in mount
    path = Path(environment(overlay)["VARSERVE_POLICY"])
    assert str(path.parent) == mount["mountPath"]
    policy = read_policy(found["data"][path.name].encode())

    def verbs(subject: str) -> set[str]:
        return {
            verb
            for verb, kinds in KINDS_OF_VERBS.items()
            if all(policy.allows(subject, verb, "any", kind, "any") for kind in kinds)
        }

    looking = {"list", "read", "summarize", "watch"}
    assert verbs("spiffe://varserve/client") == looking
    assert verbs("spiffe://varserve/trainer") == looking | {"assign", "run"}
    assert verbs("spiffe://varserve/operator") == {"admin"}
    for nobody in ("", "varserve", "spiffe://varserve/other", "spiffe://elsewhere/operator"):
        assert verbs(nobody) == set()
        assert not policy.knows(nobody, "any")
    named = [
        uri
        for each in documents(overlay)
        if each["kind"] == "Certificate"
        for uri in each["spec"].get("uris", [])
    ]
    assert {uri: verbs(uri) for uri in named} == {
        "spiffe://varserve/client": looking,
        "spiffe://varserve/prometheus": set(),
    }


def rendered_beside(folder: Path, kustomization: str, **files: str) -> str:
    """What a kustomization in a folder beside this project, with `NAME.yaml` files, comes to."""
    (folder / "varserve").symlink_to(ROOT)
    own = folder / "my-varserve"
    own.mkdir()
    for name, text in {"kustomization": kustomization, **files}.items():
        (own / f"{name}.yaml").write_text(text)
    return subprocess.run(
        [str(KUBECTL), "kustomize", own], check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_policy_can_be_replaced(tmp_path: Path) -> None:
    """A kustomization over the overlay, as the documentation has it, brings a policy of its own."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (text,) = re.findall(r"^```yaml\n([^`]*behavior: replace\n.*?)^```$", page, re.S | re.M)
    found = rendered_beside(tmp_path, text, policy="rules: []\n")
    (given,) = [each for each in yaml.safe_load_all(found) if each["kind"] == "ConfigMap"]
    assert given["metadata"]["name"] == "varserve-policy"
    assert given["data"] == {"policy.yaml": "rules: []\n"}
    assert "registry.example.org/varserve-service:1" in found


def test_production_goes_on_gpus(tmp_path: Path) -> None:
    """A kustomization of components, as the documentation has it, is production with a GPU."""
    page = (ROOT / "docs" / "operations.md").read_text()
    (text,) = re.findall(r"^```yaml\n([^`]*components/gpu\n.*?)^```$", page, re.S | re.M)
    found = rendered_beside(tmp_path, text)
    (made,) = [each for each in yaml.safe_load_all(found) if each["kind"] == "StatefulSet"]
    (only,) = made["spec"]["template"]["spec"]["containers"]
    assert only["image"] == "registry.example.org/varserve-service:1-gpu"
    assert only["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "64Gi"}
    assert only["env"] == container("overlays/production")["env"]
    assert (
        made["spec"]["volumeClaimTemplates"]
        == (objects("overlays/production")["StatefulSet"]["spec"]["volumeClaimTemplates"])
    )


def test_prometheus_shows_a_certificate_where_it_must() -> None:
    """With mutual TLS metrics are collected over it, with a certificate that opens nothing else.

    It is of an authority that the service trusts for metrics alone.
    """
    (endpoint,) = objects("overlays/production")["ServiceMonitor"]["spec"]["endpoints"]
    tls = endpoint["tlsConfig"]
    made = {
        each["spec"]["secretName"]: each["spec"]
        for each in documents("overlays/production")
        if each["kind"] == "Certificate"
    }
    assert endpoint["scheme"] == "https"
    assert tls["cert"]["secret"]["name"] == tls["keySecret"]["name"]
    shown, trusted = (made[tls[what]["secret"]["name"]] for what in ("cert", "ca"))
    assert (shown["usages"], trusted["usages"]) == (["client auth"], ["server auth"])
    assert shown["issuerRef"] != trusted["issuerRef"]
    env = environment("overlays/production")
    (mount,) = [
        each
        for each in container("overlays/production")["volumeMounts"]
        if each["mountPath"] == str(Path(env["VARSERVE_METRICS_CLIENT_CA"]).parent)
    ]
    (volume,) = [
        each for each in pod("overlays/production")["volumes"] if each["name"] == mount["name"]
    ]
    assert volume["secret"]["secretName"] == shown["secretName"]
    assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]
    assert env["VARSERVE_TLS_CLIENT_CA"] != env["VARSERVE_METRICS_CLIENT_CA"]
    assert tls["serverName"] == objects("overlays/production")["Service"]["metadata"]["name"]


def test_the_operators_rules_are_the_alerts() -> None:
    """The PrometheusRule says what deploy/monitoring says, in the operator's form."""
    alerts = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())
    assert objects("overlays/metrics")["PrometheusRule"]["spec"] == alerts


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
