"""The real service with certificates, tokens, a policy and an audit log, from the start on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.access.issuing import AUDIENCE, ISSUER, OTHER, RSA, issuer, jwk, token
from tests.conftest import Serve
from tests.rpc.certified import HOST, Place
from tests.rpc.models import counter
from tests.serving import serve_here
from tests.waiting import until
from varserve_service.bootstrap.security import set_up_security
from varserve_service.settings import load_settings


def problem(**settings: object) -> str:
    """What is wrong with settings, as the operator is told it."""
    with pytest.raises(ValueError) as caught:
        set_up_security(load_settings(dict(settings), None))
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_plaintext_is_for_loopback(host: str) -> None:
    """Anywhere else a certificate is needed, or to say that it shall be so."""
    assert "tls_cert and tls_key, or insecure" in problem(host=host)
    assert set_up_security(load_settings({"host": host, "insecure": True}, None)).access.tls is None
    for here in ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"):
        load_settings({"host": here}, None)


def test_an_address_for_all_without_a_certificate() -> None:
    """The program gives up with exit code 2, and says what to do."""
    found = subprocess.run(
        [sys.executable, "-m", "varserve_service", "serve", "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 2
    assert "setting insecure: plaintext on 0.0.0.0" in found.stderr
    assert "(--insecure)" in found.stderr
    assert "Traceback" not in found.stderr


def test_settings_that_need_each_other(tmp_path: Path) -> None:
    """Half of a pair, and files that are wrong, are told at the start and by name."""
    server = Place(tmp_path).server
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("rules: [{subjects: [a], verbs: [reed], models: [m]}]")
    assert "expected the key of tls_cert" in problem(tls_cert=server.cert)
    assert "expected tls_cert beside it" in problem(tls_key=server.key)
    assert "expected tls_cert beside it" in problem(tls_client_ca=server.ca)
    assert "jwt_issuer and jwt_audience" in problem(jwt_jwks="x")
    assert "expected where the keys" in problem(jwt_issuer="x")
    jwt = {"jwt_issuer": "i", "jwt_audience": "a"}
    assert "https://" in problem(jwt_jwks="http://example.org/keys", **jwt)
    assert "token keys in" in problem(jwt_jwks=str(wrong), **jwt)
    assert "reed" in problem(policy=wrong)
    assert "tokens in" in problem(token_file=wrong)
    assert "certificate in" in problem(tls_cert=server.cert, tls_key=server.ca)
    jwt["jwt_jwks"] = "https://example.org/keys"
    assert f"authority of token keys in {wrong}: expected certificates" in problem(
        jwt_jwks_ca=wrong, **jwt
    )
    with pytest.raises(OSError, match="absent"):
        set_up_security(load_settings({**jwt, "jwt_jwks_ca": tmp_path / "absent"}, None))
    for setting in ("policy", "token_file", "audit_log"):
        with pytest.raises(OSError, match="absent"):
            set_up_security(load_settings({setting: tmp_path / "absent" / "file"}, None))


def test_tokens_whose_keys_come_from_a_private_authority(tmp_path: Path) -> None:
    """With `jwt_jwks_ca` the keys are there from the start, and a call with a token is somebody's.

    Without it nobody vouches for the address, and no token holds.
    """
    place = Place(tmp_path)
    with issuer(place.authority.issue_cert("127.0.0.1")) as (keys, url):
        keys.answer = {"keys": [jwk(RSA, "one")]}
        jwt = {"jwt_jwks": url, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
        gate = set_up_security(load_settings({**jwt, "jwt_jwks_ca": place.server.ca}, None))
        assert keys.asked == 1
        with serve_here(counter(), access=gate.access) as address:
            with varserve.connect(address, token=token()) as client:
                client.assign_variable("counter", "v", np.zeros(3, np.float32))
                assert client.list_commits("counter")[0].info.subject == "trainer"
            with (
                varserve.connect(address, token=token(OTHER), retries=0) as client,
                pytest.raises(varserve.Unauthenticated),
            ):
                client.models()
        gate = set_up_security(load_settings(jwt, None))
        with (
            serve_here(counter(), access=gate.access) as address,
            varserve.connect(address, token=token(), retries=0) as client,
            pytest.raises(varserve.Unauthenticated),
        ):
            client.models()
        assert keys.asked == 1


@pytest.mark.slow
def test_from_a_certificate_to_an_audit_line(serve: Serve, tmp_path: Path) -> None:
    """A denied write, an allowed one once the policy says so, its line, its metric, and health."""
    place = Place(tmp_path)
    policy, audit, tokens = (tmp_path / name for name in ("policy.yaml", "audit", "tokens.yaml"))
    token = "a" * 40
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens.write_text(f"tokens: [{{subject: ann, sha256: {digest}}}]")
    rule = "{subjects: [ann], verbs: [list, read, %s], models: [counter], variables: ['*']}"
    policy.write_text(f"rules: [{rule % 'summarize'}]")
    arguments = (
        f"--tls-cert={place.server.cert}",
        f"--tls-key={place.server.key}",
        f"--token-file={tokens}",
        f"--policy={policy}",
        f"--audit-log={audit}",
        "--health-port=0",
        "--metrics-port=0",
    )
    with serve("counter", arguments=arguments) as service:
        logged = {line["event"]: line for line in map(json.loads, _json_lines(service.log))}
        health, metrics = logged["ready"]["health"], logged["metrics"]["address"]
        check = [sys.executable, "-m", "varserve_service", "health", "--address", health]
        assert subprocess.run(check, timeout=60, check=False).returncode == 0
        with (
            varserve.connect(service.address, tls=place.anybody, retries=0) as client,
            pytest.raises(varserve.Unauthenticated),
        ):
            client.models()
        with varserve.connect(service.address, tls=place.anybody, token=token) as client:
            v = client.model("counter").variables["v"]
            value = np.full(v.numpy().shape, 7, v.numpy().dtype)
            with pytest.raises(varserve.AccessDenied, match="'ann' may not assign"):
                v.assign(value)
            policy.write_text(f"rules: [{rule % 'assign, watch'}]")

            def assigned() -> bool:  # the file is looked at every two seconds
                with contextlib.suppress(varserve.AccessDenied):
                    commits.append(v.assign(value, message="because"))
                return bool(commits)

            commits: list[varserve.Commit] = []
            until(assigned, seconds=60, pause=0.1)
            (commit,) = commits
            assert client.model("counter").commits()[0].info.subject == "ann"
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        assert [each["outcome"] for each in lines[:2]] == ["UNAUTHENTICATED", "PERMISSION_DENIED"]
        done = lines[-1]
        assert (done["outcome"], done["subject"], done["method"]) == ("OK", "ann", "AssignVariable")
        assert done["revision_after"] == commit.revision
        assert done["changes"][0]["content_hash"] == varserve.content_hash(value)
        context = ssl.create_default_context(cafile=place.server.ca)
        context.check_hostname = False
        with urllib.request.urlopen(f"https://{metrics}/metrics", context=context) as answer:
            text = answer.read().decode()
        assert 'grpc_method="AssignVariable"' in text
    assert HOST not in audit.read_text()


def _json_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("{")]
