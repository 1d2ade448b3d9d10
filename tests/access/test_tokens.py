"""Whose a token is, and every way in which one does not hold."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.access.issuing import (
    AUDIENCE,
    EC,
    ED,
    ISSUER,
    OTHER,
    RSA,
    claims,
    issuer,
    jwk,
    token,
)
from tests.rpc.certified import expired
from tests.waiting import until
from varserve_service.access import keys as keys_module
from varserve_service.access import tokens as tokens_module
from varserve_service.access.keys import KeyAddress, KeyFile, check_url, key_set
from varserve_service.access.subjects import CredentialError
from varserve_service.access.token_file import read_tokens
from varserve_service.access.tokens import (
    ALGORITHMS,
    MAX_TOKEN_BYTES,
    JwtTokens,
    StaticTokens,
    subject_of_token,
)

PUBLIC_PEM = RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def by_hand(header: dict[str, Any], body: dict[str, Any], secret: bytes | None = None) -> str:
    """A token that no library would make; signed by HMAC with a secret, or not at all."""
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, body)]
    signed = b".".join(parts)
    mac = b"" if secret is None else hmac.digest(secret, signed, "sha256")
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    write(path, [jwk(RSA, "one"), jwk(EC, "two"), jwk(ED, "three")])
    return path


def write(path: Path, listed: list[dict[str, Any]]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": listed}))
    fresh.rename(path)


def tokens(jwks: Path, algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")) -> JwtTokens:
    return JwtTokens(KeyFile(jwks, algorithms), ISSUER, AUDIENCE, algorithms)


def subject(kind: Any, text: str) -> str:
    return asyncio.run(subject_of_token(text, [kind]))


def refusal(kind: Any, text: str) -> str:
    with pytest.raises(CredentialError) as caught:
        subject(kind, text)
    message = str(caught.value)
    assert text not in message
    assert len(text) < 9 or text[-8:] not in message
    return message


def test_a_good_token(jwks: Path) -> None:
    """A token of the issuer, for us, signed by a key of the set, names its subject; also again."""
    found = tokens(jwks)
    for text in (token(), token(EC, "ES256", "two"), token(ED, "EdDSA", "three")):
        assert [subject(found, text) for _ in range(3)] == ["trainer"] * 3
    assert subject(found, token(aud=["other", AUDIENCE])) == "trainer"
    account = "system:serviceaccount:ml:trainer"
    assert subject(found, token(sub=account)) == account


PAST, FUTURE = int(time.time()) - 600, int(time.time()) + 86_400  # the tests take a while


@pytest.mark.parametrize(
    ("text", "why"),
    {
        "no algorithm": (lambda: by_hand({"alg": "none", "kid": "one"}, claims()), "signed by"),
        "None": (lambda: by_hand({"alg": "None"}, claims()), "signed by"),
        "no header alg": (lambda: by_hand({"kid": "one"}, claims()), "signed by"),
        "alg a list": (lambda: by_hand({"alg": ["RS256"], "kid": "one"}, claims()), "signed by"),
        "the public key as secret": (
            lambda: by_hand({"alg": "HS256", "kid": "one"}, claims(), PUBLIC_PEM),
            "signed by",
        ),
        "HMAC called RS256": (
            lambda: by_hand({"alg": "RS256", "kid": "one"}, claims(), PUBLIC_PEM),
            "signature is wrong",
        ),
        "not pinned": (lambda: token(algorithm="RS512"), "signed by"),
        "another key": (lambda: token(OTHER), "signature is wrong"),
        "unsigned": (lambda: token().rpartition(".")[0] + ".", "signature is wrong"),
        "changed": (lambda: by_hand_changed(), "signature is wrong"),
        "another audience": (lambda: token(aud="other"), "another audience"),
        "no audience": (lambda: token(aud=None), "'aud'"),
        "another issuer": (lambda: token(iss="https://issuer.example.org.evil"), "another issuer"),
        "part of the issuer": (lambda: token(iss="https://issuer"), "another issuer"),
        "no issuer": (lambda: token(iss=None), "'iss'"),
        "expired": (lambda: token(exp=PAST), "expired"),
        "no expiry": (lambda: token(exp=None), "'exp'"),
        "not yet": (lambda: token(nbf=FUTURE), "not hold yet"),
        "made in the future": (lambda: token(iat=FUTURE), "not hold yet"),
        "no subject": (lambda: token(sub=None), "'sub'"),
        "empty subject": (lambda: token(sub=""), "names nobody"),
        "subject with a line": (lambda: token(sub='a\n{"outcome":"OK"}'), "control"),
        "long subject": (lambda: token(sub="x" * 1000), "at most"),
        "subject a number": (lambda: by_hand_signed({"sub": 7}), "does not hold: InvalidSubject"),
        "kid of a file": (lambda: token(kid="../../../../etc/passwd"), "no key"),
        "kid of another kind": (lambda: token(kid="two"), "no key"),
        "kid injection": (lambda: token(kid="one' OR '1'='1"), "no key"),
        "kid a number": (lambda: by_hand({"alg": "RS256", "kid": 1}, claims()), "cannot be read"),
        "no kid": (lambda: token(EC, "ES256", "absent"), "no key"),
        "own key in the header": (lambda: by_hand_jwk(), "no key"),
        "no JSON": (lambda: "abc.def.ghi", "cannot be read"),
        "empty parts": (lambda: "..", "cannot be read"),
        "huge": (lambda: token(more="x" * 20_000), f"at most {MAX_TOKEN_BYTES}"),
        "no token at all": (lambda: "abc", "nobody has"),
    }.values(),
    ids=lambda value: "" if callable(value) else value,
)
def test_a_token_that_does_not_hold(jwks: Path, text: Any, why: str) -> None:
    """Each is refused with its own reason, and the reason repeats nothing of the token."""
    assert why in refusal(tokens(jwks), text())


def by_hand_changed() -> str:
    head, body, signature = token().split(".")
    other = base64.urlsafe_b64encode(json.dumps(claims(sub="admin")).encode()).rstrip(b"=").decode()
    assert other != body
    return f"{head}.{other}.{signature}"


def by_hand_signed(fields: dict[str, Any]) -> str:
    payload = json.dumps(claims() | fields).encode()
    return jwt.api_jws.encode(payload, RSA, algorithm="RS256", headers={"kid": "one"})


def by_hand_jwk() -> str:
    own = {"kid": "own", "jwk": jwk(OTHER, "own"), "jku": "file:///etc/passwd"}
    return jwt.encode(claims(), OTHER, algorithm="RS256", headers=own)


def test_without_kid_the_only_key_counts(tmp_path: Path) -> None:
    """A token without a key's id is held against the only key for its algorithm, if it is one."""
    path = tmp_path / "jwks.json"
    write(path, [jwk(RSA, "one"), jwk(EC, None)])
    assert subject(tokens(path), token(kid=None)) == "trainer"
    write(path, [jwk(RSA, "one"), jwk(OTHER, "two")])
    assert "no key" in refusal(tokens(path), token(kid=None))


def test_a_token_that_held_before(jwks: Path) -> None:
    """A token is known until its key is withdrawn."""
    keys = KeyFile(jwks, ["RS256"])
    found = JwtTokens(keys, ISSUER, AUDIENCE, ["RS256"])
    long = token()
    assert subject(found, long) == subject(found, long) == "trainer"
    write(jwks, [jwk(OTHER, "one")])
    assert keys.file.reload()
    assert "signature is wrong" in refusal(found, long)


def test_a_token_is_verified_once_for_as_long_as_it_holds(
    jwks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is until its leeway is over."""
    now = [time.time()]
    found = JwtTokens(KeyFile(jwks, ["RS256"]), ISSUER, AUDIENCE, ["RS256"], clock=lambda: now[0])
    verified: list[str] = []
    verify = found._verify

    def counting(text: str, key: Any) -> tuple[str, float]:
        verified.append(text)
        return verify(text, key)

    monkeypatch.setattr(found, "_verify", counting)
    expiry = int(now[0]) + 86_400
    text = token(exp=expiry)
    last = expiry + tokens_module.LEEWAY
    for moment, times in ((now[0], 1), (expiry, 1), (last - 1, 1), (last, 2)):
        now[0] = moment
        assert subject(found, text) == "trainer"
        assert len(verified) == times


def test_tokens_that_are_known_have_a_bound(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens come, no more than so many are kept, and each is still worth the same."""
    monkeypatch.setattr(tokens_module, "_MAX_KNOWN", 3)
    found = tokens(jwks)
    issued = [token(sub=f"s{number}") for number in range(8)]
    for _ in range(2):
        for number, text in enumerate(issued):
            assert subject(found, text) == f"s{number}"
            assert len(found._known) <= 3
    assert found._known


@pytest.mark.parametrize("algorithms", [(), ("none",), ("HS256",), ("RS256", "HS512"), ("rs256",)])
def test_algorithms_that_prove_nothing(jwks: Path, algorithms: tuple[str, ...]) -> None:
    """`none`, symmetric and unknown algorithms cannot be configured."""
    with pytest.raises(ValueError, match="algorithms"):
        JwtTokens(KeyFile(jwks, ["RS256"]), ISSUER, AUDIENCE, algorithms)
    assert not [each for each in ALGORITHMS if each.startswith("HS") or each == "none"]


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]},
        {"keys": [jwk(RSA, "one", use="enc")]},
        {"keys": [jwk(RSA, "one"), jwk(OTHER, "one")]},
        {"keys": [{"kty": "RSA", "kid": "one"}]},
        {"keys": [jwk(RSA, "one") | {"kid": 1}]},
    ],
)
def test_a_set_that_has_no_keys(found: Any) -> None:
    """What is no set of public keys for signatures, or has an id twice, is refused whole."""
    with pytest.raises(ValueError):
        key_set(found, ["RS256"])


# ---- keys from an address ----


def test_new_keys_are_asked_for_at_a_pace() -> None:
    """A key that is not known is asked for once in a while, however many tokens name one."""
    now = [1000.0]
    with issuer() as (server, url):
        server.answer = {"keys": [jwk(RSA, "one")]}
        keys = KeyAddress(url, ["RS256"], clock=lambda: now[0])
        found = JwtTokens(keys, ISSUER, AUDIENCE, ["RS256"])
        assert subject(found, token()) == "trainer"
        for number in range(200):
            assert "no key" in refusal(found, token(kid=f"unknown-{number}"))
        assert server.asked == 1
        server.answer = {"keys": [jwk(RSA, "one"), jwk(OTHER, "new")]}
        now[0] += keys_module.PACE
        assert subject(found, token(OTHER, kid="new")) == "trainer"
        assert server.asked == 2


def test_an_address_that_does_not_answer() -> None:
    """Keys that are there hold for hours, and no longer; a broken answer takes nothing away."""
    now = [1000.0]
    with issuer() as (server, url):
        keys = KeyAddress(url, ["RS256"], clock=lambda: now[0])
        found = JwtTokens(keys, ISSUER, AUDIENCE, ["RS256"])
        assert "no key" in refusal(found, token())
        server.answer = {"keys": [jwk(RSA, "one")]}
        now[0] += keys_module.PACE
        assert subject(found, token()) == "trainer"
        for answer in (None, {"keys": []}, "no set"):
            server.answer = answer
            now[0] += keys_module.MAX_AGE
            assert not keys.reload()
            assert subject(found, token()) == "trainer"
        now[0] += keys_module.MAX_STALE
        assert "no key" in refusal(found, token())


def test_when_an_address_is_asked_again() -> None:
    """When its keys are old, no sooner than the pace after it was asked, and never in vain."""
    now = [1000.0]
    with issuer() as (server, url):
        server.answer = {"keys": [jwk(RSA, "one")]}
        keys = KeyAddress(url, ["RS256"], clock=lambda: now[0])
        assert keys.reload()
        assert (keys.status.taken, keys.status.refused, keys.status.failing) == (1, 0, False)
        now[0] += keys_module.MAX_AGE - 1
        assert not keys.reload()
        now[0] += 1
        server.answer = None
        assert not keys.reload()
        assert (keys.status.taken, keys.status.refused, keys.status.failing) == (1, 1, True)
        server.answer = {"keys": [jwk(RSA, "two")]}
        now[0] += keys_module.PACE - 1
        assert not keys.reload()
        assert server.asked == 2
        now[0] += 1
        assert keys.reload()
        assert (keys.status.taken, keys.status.refused, keys.status.failing) == (2, 1, False)
        assert server.asked == 3
        now[0] += keys_module.MAX_STALE
        assert keys._known("two", "RS256") is not None
        now[0] += 1
        assert keys._known("two", "RS256") is None


async def test_who_asks_at_the_same_time_asks_once() -> None:
    """A look at the age of the keys and a call that misses a key share the pace."""
    now = [1000.0]
    with issuer() as (server, url):
        server.answer = {"keys": [jwk(RSA, "one")]}
        server.gate = threading.Event()
        keys = KeyAddress(url, ["RS256"], clock=lambda: now[0])
        found = JwtTokens(keys, ISSUER, AUDIENCE, ["RS256"])
        call = asyncio.create_task(found.subject(token()))
        await asyncio.to_thread(until, lambda: server.asked)
        second = asyncio.create_task(asyncio.to_thread(keys._ask))
        server.gate.set()
        assert not await second
        assert await call == "trainer"
        assert server.asked == 1


async def test_a_token_that_no_header_may_have() -> None:
    """It is refused before any kind of token is asked."""
    with pytest.raises(CredentialError, match="ASCII"):
        await subject_of_token("tök", [])
    with pytest.raises(CredentialError, match="at most"):
        await subject_of_token("x" * (MAX_TOKEN_BYTES + 1), [])
    with pytest.raises(CredentialError, match="nobody has this token"):
        await subject_of_token("x" * MAX_TOKEN_BYTES, [])


@pytest.mark.parametrize("text", [b"none", b"[" * 100_000, b"\xff"])
def test_a_file_of_keys_that_is_no_json(tmp_path: Path, text: bytes) -> None:
    """However it fails to be, it is refused and ends nothing."""
    path = tmp_path / "jwks"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="no JSON"):
        KeyFile(path, ["RS256"])


async def test_who_waits_for_keys_holds_up_nobody() -> None:
    """While an address takes its time the event loop goes on, and all who wait share one answer."""
    with issuer() as (server, url):
        server.answer = {"keys": [jwk(RSA, "one")]}
        server.gate = threading.Event()
        keys = KeyAddress(url, ["RS256"])
        found = JwtTokens(keys, ISSUER, AUDIENCE, ["RS256"])
        waiting = [asyncio.create_task(found.subject(token())) for _ in range(50)]
        for _ in range(1000):
            await asyncio.sleep(0)  # each is a turn of the loop that nobody holds up
        assert not any(task.done() for task in waiting)
        server.gate.set()
        assert await asyncio.gather(*waiting) == ["trainer"] * 50
        assert server.asked == 1


def test_keys_from_an_address_of_a_private_authority(tmp_path: Path) -> None:
    """Over https keys are taken from whom the named authority vouches for, by that name alone."""
    ours, other = trustme.CA(), trustme.CA()
    file, wrong = tmp_path / "ca.pem", tmp_path / "other.pem"
    ours.cert_pem.write_to_path(str(file))
    other.cert_pem.write_to_path(str(wrong))

    def asked(certificate: trustme.LeafCert, authority: Path | None, holds: bool) -> int:
        with issuer(certificate) as (server, url):
            server.answer = {"keys": [jwk(RSA, "one")]}
            found = JwtTokens(KeyAddress(url, ["RS256"], authority), ISSUER, AUDIENCE, ["RS256"])
            if holds:
                assert subject(found, token()) == "trainer"
            else:
                assert "no key" in refusal(found, token())
            return server.asked

    good = ours.issue_cert("127.0.0.1")
    assert asked(good, file, holds=True) == 1
    # Whoever is not believed is not asked.
    assert asked(good, wrong, holds=False) == 0
    assert asked(good, None, holds=False) == 0  # the system's authorities have not heard of it
    assert asked(ours.issue_cert("issuer.example.org"), file, holds=False) == 0
    assert asked(expired(ours, "127.0.0.1"), file, holds=False) == 0


@pytest.mark.parametrize("text", [b"", b"none", b"\xff"])
def test_an_authority_that_is_no_certificate(tmp_path: Path, text: bytes) -> None:
    """It is refused, and not taken for one that trusts nobody."""
    path = tmp_path / "ca.pem"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="expected certificates in PEM"):
        KeyAddress("https://localhost/keys", ["RS256"], path)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/keys", "http://[::1]:1/keys", "http://localhost/x", "https://example.org/"],
)
def test_addresses_that_nobody_else_can_answer_for(url: str) -> None:
    """By https, or of this machine."""
    check_url(url)


@pytest.mark.parametrize(
    "url",
    ["http://example.org/keys", "file:///etc/passwd", "ftp://example.org/x", "https://", "data:x"],
)
def test_addresses_that_anybody_could_answer_for(url: str) -> None:
    """Keys come by https, or from this machine."""
    with pytest.raises(ValueError, match="https://"):
        check_url(url)


# ---- tokens in a file ----


def listed(*pairs: tuple[str, str]) -> bytes:
    entries = [
        {"subject": who, "sha256": hashlib.sha256(text.encode()).hexdigest()} for who, text in pairs
    ]
    return json.dumps({"tokens": entries}).encode()  # JSON is YAML


def test_tokens_of_a_file() -> None:
    """Who has a token is who the file says; nobody else gets in."""
    file = read_tokens(listed(("ann", "a" * 40), ("bob", "b" * 40), ("bob", "c" * 40)))
    kind = StaticTokens(lambda: file)
    assert subject(kind, "a" * 40) == "ann"
    assert subject(kind, "b" * 40) == subject(kind, "c" * 40) == "bob"
    for text in ("a" * 39, "a" * 41, "A" * 40, hashlib.sha256(b"a" * 40).hexdigest()):
        assert "nobody has" in refusal(kind, text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"tokens: []",
        b"tokens: {}",
        b"- a",
        b"tokens: [{subject: a}]",
        b"tokens: [{subject: a, sha256: super-secret-token}]",
        b"tokens: [{subject: '', sha256: " + b"0" * 64 + b"}]",
        b'tokens: [{subject: "a\\nb", sha256: "' + b"0" * 64 + b'"}]',
        b"tokens: [{subject: a, sha256: '" + b"0" * 64 + b"', more: 1}]",
        listed(("ann", "a"), ("bob", "a")),
        b"\xff\xfe",
        b"tokens: [",
    ],
)
def test_a_file_of_tokens_that_is_wrong(text: bytes) -> None:
    """It is refused whole, and the message shows nothing that could be a token by mistake."""
    with pytest.raises(ValueError) as caught:
        read_tokens(text)
    assert "super-secret" not in str(caught.value)
