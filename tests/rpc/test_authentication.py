"""Which credential of a call counts."""

from __future__ import annotations

from typing import Any

import pytest

from varserve_service.access.certificates import CertifiedSubject
from varserve_service.access.subjects import CredentialError
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import CallerAuthenticator
from varserve_service.rpc.authorization import authentication


class Call:
    """What gRPC tells of a call: its metadata, and the certificate of its connection."""

    def __init__(self, *metadata: tuple[str, Any], certificate: bytes | None = None) -> None:
        self._metadata = metadata
        self._certificate = certificate

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {} if self._certificate is None else {"x509_pem_cert": [self._certificate]}


class Known:
    """Knows one token."""

    async def subject(self, token: str) -> str | None:
        if token == "broken":
            raise CredentialError("it is broken")
        return "ann" if token == "secret" else None


async def refusal(call: Call, *, certificates: bool = False) -> str:
    named = CallerAuthenticator(certificates=certificates, tokens=[Known()])
    with pytest.raises(RequestError) as caught:
        await named.subject(call)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.UNAUTHENTICATED
    return caught.value.message


@pytest.mark.parametrize("value", ["Bearer secret", "bearer secret", "BEARER   secret  "])
async def test_a_bearer_token(value: str) -> None:
    """Its scheme is written in any case, and spaces around it are none of it."""
    named = CallerAuthenticator(certificates=False, tokens=[Known()])
    call: Any = Call(("other", "x"), ("authorization", value))
    assert await named.subject(call) == "ann"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "found no token"),
        (["Bearer secret", "Bearer secret"], "found 2"),
        (["Basic secret"], "found another scheme"),
        ([b"Bearer secret"], "found another scheme"),
        (["Bearer"], "found another scheme"),
        (["Bearer "], "found no token"),
        (["Bearer other"], "nobody has this token"),
        (["Bearer broken"], "it is broken"),
    ],
)
@pytest.mark.parametrize("certificates", [False, True])
async def test_what_is_no_token(values: list[Any], said: str, certificates: bool) -> None:
    """It is refused with what was found, and no certificate makes up for it."""
    call = Call(*(("authorization", value) for value in values), certificate=b"any")
    if certificates and not values:
        said = "the certificate cannot be read"
    assert said in await refusal(call, certificates=certificates)


async def test_a_connection_without_a_certificate() -> None:
    """It is told so where certificates name callers."""
    assert "has no client certificate" in await refusal(Call(), certificates=True)


async def test_a_certificate_that_expires_while_its_connection_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the caller until then; a token that is sent with it counts instead."""
    looked: list[bytes] = []

    def certified(pem: bytes) -> CertifiedSubject:
        looked.append(pem)
        return CertifiedSubject("bob", expires=100.0)

    monkeypatch.setattr(authentication, "certified_subject", certified)
    now = 99.9
    named = CallerAuthenticator(certificates=True, tokens=[Known()], clock=lambda: now)
    call: Any = Call(certificate=b"pem")
    for _ in range(2):
        assert await named.subject(call) == "bob"
    assert looked == [b"pem"]
    now = 100.0
    with pytest.raises(RequestError, match="the client certificate has expired"):
        await named.subject(call)
    call = Call(("authorization", "Bearer secret"), certificate=b"pem")
    assert await named.subject(call) == "ann"
    without = CallerAuthenticator(certificates=False, tokens=[Known()])
    call = Call(certificate=b"pem")
    with pytest.raises(RequestError, match="found no token"):
        await without.subject(call)
