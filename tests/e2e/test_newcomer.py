"""A newcomer's way: a service with TLS and the policy of the documentation, and what follows."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import DEMO_MODEL
from tests.rpc.certified import Files, with_uris
from tests.serving import ServiceProcess, service_process
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "access.md").read_text()
TRAINER = "spiffe://example.org/ns/ml/sa/trainer"
LOOKER = "ann@example.org"
VARIABLE = "conv2d_1/kernel"
SERVING = health_pb2.HealthCheckResponse.SERVING


def logged(service: ServiceProcess, event: str) -> dict[str, Any]:
    """The line of the log with this event, which comes in the moment that the service is ready."""

    def lines() -> list[dict[str, Any]]:
        whole, _, _ = service.log.read_text().rpartition("\n")
        objects = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in objects if line["event"] == event]

    until(lines, seconds=60, pause=0.05)
    return lines()[0]


def scraped(address: str, caller: Files) -> dict[str, float]:
    """What Prometheus would be told, by its full name."""
    context = ssl.create_default_context(cafile=str(caller.ca))
    context.load_cert_chain(caller.cert, caller.key)
    with urllib.request.urlopen(
        f"https://{address}/metrics", context=context, timeout=30
    ) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def handled(metrics: dict[str, float], method: str, code: str) -> float:
    """Calls of a method that ended with a code."""
    wanted = {f'grpc_method="{method}"', f'grpc_code="{code}"'}
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("grpc_server_handled_total{") and all(w in name for w in wanted)
    )


def test_from_the_documentation_to_a_metric(tmp_path: Path) -> None:
    """A write is denied to one and allowed to another; log, history and metrics tell of both.

    The policy is the one of docs/access.md, unchanged, and the model is that of the README.
    """
    if not DEMO_MODEL.is_dir():
        pytest.fail(f"{DEMO_MODEL} is not there: `make test` unpacks it")
    (policy,) = re.findall(r"^```yaml\n(rules:.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "policy.yaml").write_text(policy)
    authority = trustme.CA()
    server = Files(tmp_path / "server").write(authority.issue_cert("127.0.0.1"), authority)
    trainer = Files(tmp_path / "trainer").write(with_uris(authority, [TRAINER]), authority)
    looker = Files(tmp_path / "looker").write(
        authority.issue_cert("look.example.org", common_name=LOOKER), authority
    )
    # Her token says that she is ann@example.org, which no certificate of a host can.
    token = "t" * 64
    digest = hashlib.sha256(token.encode()).hexdigest()
    (tmp_path / "tokens.yaml").write_text(f"tokens: [{{subject: '{LOOKER}', sha256: {digest}}}]\n")
    audit = tmp_path / "audit.jsonl"
    arguments = (
        *("--tls-cert", str(server.cert), "--tls-key", str(server.key)),
        *("--tls-client-ca", str(server.ca), "--token-file", str(tmp_path / "tokens.yaml")),
        *("--policy", str(tmp_path / "policy.yaml"), "--audit-log", str(audit)),
        *("--health-port", "0", "--metrics-port", "0"),
    )

    def connect(caller: Files, **options: Any) -> varserve.Client:
        tls = varserve.Tls(ca=caller.ca, cert=caller.cert, key=caller.key)
        return varserve.connect(service.address, tls=tls, retries=0, **options)

    with service_process({"basic_pitch": DEMO_MODEL}, tmp_path / "log", arguments) as service:
        # A probe has no certificate.
        with grpc.insecure_channel(logged(service, "ready")["health"]) as probe:
            stub = health_pb2_grpc.HealthStub(probe)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == SERVING

        with connect(looker, token=token) as client:
            model = client.model("basic_pitch")
            zeros = np.zeros(model.variables[VARIABLE].shape, np.float32)
            with pytest.raises(varserve.AccessDenied) as denied:
                model.variables[VARIABLE].assign(zeros)
            assert denied.value.reason == "PERMISSION_DENIED"
            with pytest.raises(varserve.AccessDenied):
                model.variables[VARIABLE].numpy()

        with connect(trainer) as client:
            kernel = client.model("basic_pitch").variables[VARIABLE]
            value = (kernel.numpy() * 2).astype(np.float32)
            commit = kernel.assign(value, message="twice as loud")
            assert commit.revision == 1
            np.testing.assert_array_equal(kernel.numpy(), value)
            (told,) = client.list_commits("basic_pitch")
            assert (told.info.subject, told.info.message) == (TRAINER, "twice as loud")

        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        assert [
            (line["subject"], line["method"], line["outcome"])
            for line in lines
            if line["method"].startswith("Assign")
        ] == [
            (LOOKER, "AssignVariable", "PERMISSION_DENIED"),
            (TRAINER, "AssignVariable", "OK"),
        ]
        done = lines[-1]
        assert (done["model"], done["revision_before"], done["revision_after"]) == (
            "basic_pitch",
            0,
            1,
        )
        (change,) = done["changes"]
        assert change["variable"] == VARIABLE
        assert change["content_hash"] == varserve.content_hash(value)

        metrics = scraped(logged(service, "metrics")["address"], trainer)
        assert handled(metrics, "AssignVariable", "OK") == 1
        assert handled(metrics, "AssignVariable", "PermissionDenied") == 1
        revisions = [v for k, v in metrics.items() if k.startswith("varserve_model_revision{")]
        assert revisions == [1]
        # To the probe the service is not ready from the first moment of its end.
        with grpc.insecure_channel(logged(service, "ready")["health"]) as probe:
            watch = health_pb2_grpc.HealthStub(probe).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            service.process.terminate()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert service.process.wait(60) == 0
