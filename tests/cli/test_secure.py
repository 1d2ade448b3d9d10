"""TLS, certificates, tokens and refusals, as the command line meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.rpc.certified import HOST, Place, serving
from tests.rpc.roles import POLICY, alpha
from tests.serving import serve_here
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access
from varserve_service.rpc.calls.call import Context

from .conftest import document, invoke


def test_mutual_tls_from_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context names its files beside itself; who shows no certificate is not let in."""
    place = Place(tmp_path)
    place.caller("me", place.authority.issue_cert("me.example.org"))
    config = tmp_path / "config.toml"
    config.write_text(
        f'[contexts.mine]\nca = "me/ca.pem"\ncert = "me/cert.pem"\nkey = "me/key.pem"\n'
        f'server_name = "{HOST}"\n[contexts.nobody]\nca = "me/ca.pem"\nserver_name = "{HOST}"\n'
    )
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))
    with serving(place.watched(mutual=True), mutual=True) as address:
        found = document(invoke("-s", address, "-c", "mine", "models", "--json"))
        assert [each["name"] for each in found["models"]] == ["counter"]
        invoke("-s", address, "-c", "nobody", "--timeout", "30", "models", code=6)
        invoke("-s", address, "--timeout", "30", "models", code=6)
    invoke("-c", "mine", "--no-tls", "models", code=2)


def test_credentials_of_a_context_are_for_its_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context's token is not sent to a server that is named instead of its own; one that is given
    beside it is. TLS stays."""
    place = Place(tmp_path)
    heard: list[str] = []
    access = Access(place.watched(mutual=False), Listening(heard))
    (tmp_path / "token").write_text("reader")
    config = tmp_path / "config.toml"
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))
    with serve_here(alpha(), access=access) as address:
        tls = f'ca = "{place.server.ca}"\nserver_name = "{HOST}"\ntoken_file = "token"\n'
        config.write_text(
            f'current = "other"\n[contexts.other]\nserver = "other.example.org:1"\n{tls}'
            f'[contexts.own]\nserver = "{address}"\n{tls}[contexts.any]\n{tls}'
        )
        for own in ("own", "any"):
            invoke("-c", own, "-s", address, "models")
        invoke("-c", "own", "models")
        assert heard == ["reader"] * 3
        heard.clear()
        told = invoke("-s", address, "models", code=5).stderr
        assert "context's credentials are for other.example.org:1, and were not sent" in told
        told = invoke("-s", address, "models", "--json", code=5).stderr
        assert told.startswith("{"), told
        failed = json.loads(told)["error"]
        assert "were not sent" in failed["message"]
        with monkeypatch.context() as environment:
            environment.setenv("VARSERVE_SERVER", address)
            invoke("models", code=5)
        assert heard == []
        (tmp_path / "mine").write_text("boss")
        invoke("-s", address, "--token-file", str(tmp_path / "mine"), "models")
        monkeypatch.setenv("VARSERVE_TOKEN", "reader")
        invoke("-s", address, "models")
        assert heard == ["boss", "reader"]


def test_a_certificate_of_a_context_is_for_its_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with a certificate, which another server would see who calls by; it is not asked in
    plaintext either."""
    place = Place(tmp_path)
    place.caller("me", place.authority.issue_cert("me.example.org"))
    config = tmp_path / "config.toml"
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))
    mine = 'cert = "me/cert.pem"\nkey = "me/key.pem"\n'
    tls = f'ca = "me/ca.pem"\nserver_name = "{HOST}"\n'
    with serving(place.watched(mutual=True), mutual=True) as address:
        config.write_text(
            f'[contexts.own]\nserver = "{address}"\n{mine}{tls}'
            f'[contexts.other]\nserver = "other.example.org:1"\n{mine}{tls}'
        )
        invoke("-c", "own", "-s", address, "models")
        other = ("-c", "other", "-s", address, "--timeout", "30")
        assert "were not sent" in invoke(*other, "models", code=6).stderr
        files = ("--cert", str(tmp_path / "me/cert.pem"), "--key", str(tmp_path / "me/key.pem"))
        invoke(*other, *files, "models")
    with serve_here(alpha()) as address:
        config.write_text(f'[contexts.other]\nserver = "other.example.org:1"\n{mine}')
        invoke("-c", "other", "-s", address, "--timeout", "30", "models", code=6)


class Bearer:
    """Takes a token for the caller's name."""

    async def subject(self, context: Context) -> str:
        found = dict(context.invocation_metadata() or ()).get("authorization")
        if not found:
            raise RequestError(Reason.UNAUTHENTICATED, "found no token")
        return str(found).removeprefix("Bearer ")


class Listening(Bearer):
    """Tells which tokens it was sent."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    async def subject(self, context: Context) -> str:
        found = await super().subject(context)
        self._heard.append(found)
        return found


def test_what_a_caller_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token and no right are exit code 5; with both it goes through."""
    policy = read_policy(POLICY)
    access = Access(authenticator=Bearer(), policy=lambda: policy)
    token = tmp_path / "token"
    with serve_here(alpha(), access=access) as address:
        invoke("-s", address, "models", code=5)
        token.write_text("reader\n")
        mine = ("-s", address, "--token-file", str(token))
        invoke(*mine, "read", "alpha", "head/bias")
        told = invoke(*mine, "assign", "alpha", "head/bias", "[1, 2, 3]", code=5).stderr
        assert "PERMISSION_DENIED" in told
        monkeypatch.setenv("VARSERVE_TOKEN", "boss")
        invoke("-s", address, "assign", "alpha", "head/bias", "[1, 2, 3]")


def test_hashes_are_compared_without_reading(tmp_path: Path) -> None:
    """A caller that may summarize and not read learns what differs, and not by how much."""
    rules = b"rules:\n"
    for subject, verbs in (("auditor", "list, summarize"), ("boss", "list, read, assign")):
        rules += (
            f"  - {{subjects: [{subject}], verbs: [{verbs}], models: ['*'], variables: ['*']}}\n"
        ).encode()
    policy = read_policy(rules)
    access = Access(authenticator=Bearer(), policy=lambda: policy)
    boss, auditor = tmp_path / "boss", tmp_path / "auditor"
    boss.write_text("boss")
    auditor.write_text("auditor")
    file = str(tmp_path / "x.safetensors")
    # A hash of fewer elements requires `read`.
    secret = FakeVariable("secret", np.zeros(64, np.float32))
    live = LiveModel(FakeModel([secret], [], name="alpha"))
    with serve_here(live, access=access) as address:
        as_boss = ("-s", address, "--token-file", str(boss))
        as_auditor = ("-s", address, "--token-file", str(auditor))
        invoke(*as_boss, "pull", "alpha", file)
        invoke(*as_auditor, "read", "alpha", "secret", code=5)
        assert document(invoke(*as_auditor, "diff", "alpha", file, "--json"))["different"] == []
        invoke(*as_boss, "assign", "alpha", "secret", json.dumps([4] * 64))
        found = document(invoke(*as_auditor, "diff", "alpha", file, "--json", code=1))
        told = [(each["variable"], each["changed"]) for each in found["different"]]
        assert told == [("secret", None)]
