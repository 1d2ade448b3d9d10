"""TLS, certificates, tokens and refusals, as the command line meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rpc.certified import HOST, Place, serving
from tests.rpc.roles import POLICY, alpha
from tests.serving import serve_here
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, StateError
from varserve_service.rpc import Access
from varserve_service.rpc.entry.identity import Context

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
        invoke("-s", address, "-c", "nobody", "--timeout", "5", "models", code=6)
        invoke("-s", address, "--timeout", "5", "models", code=6)
    invoke("-c", "mine", "--no-tls", "models", code=2)


class Bearer:
    """Takes a token for the caller's name."""

    async def subject(self, context: Context) -> str:
        found = dict(context.invocation_metadata() or ()).get("authorization")
        if not found:
            raise StateError(Reason.UNAUTHENTICATED, "found no token")
        return str(found).removeprefix("Bearer ")


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
    """Who may summarize and not read is told what differs, and not by how much."""
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
    with serve_here(alpha(), access=access) as address:
        as_boss = ("-s", address, "--token-file", str(boss))
        as_auditor = ("-s", address, "--token-file", str(auditor))
        invoke(*as_boss, "pull", "alpha", file)
        invoke(*as_auditor, "read", "alpha", "secret", code=5)
        assert document(invoke(*as_auditor, "diff", "alpha", file, "--json"))["different"] == []
        invoke(*as_boss, "assign", "alpha", "secret", "[4, 5, 6]")
        found = document(invoke(*as_auditor, "diff", "alpha", file, "--json", code=1))
        told = [(each["variable"], each["changed"]) for each in found["different"]]
        assert told == [("secret", None)]
