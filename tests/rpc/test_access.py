"""Whether strangers can connect, and which files new connections use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from varserve_service.rpc import Access
from varserve_service.rpc.authorization import access as module

SOMEBODY: Any = object()


def files(authorities: bytes | None) -> Any:
    return SimpleNamespace(
        current=SimpleNamespace(key=b"key", chain=b"chain", client_authorities=authorities)
    )


@pytest.mark.parametrize(
    ("authorities", "tls", "authenticator", "strangers"),
    [
        (None, False, None, False),  # nobody has a name
        (None, False, SOMEBODY, True),
        (None, True, SOMEBODY, True),
        (b"authority", True, SOMEBODY, False),
        (b"authority", True, None, False),
    ],
)
def test_who_can_connect_without_a_credential(
    authorities: bytes | None, tls: bool, authenticator: Any, strangers: bool
) -> None:
    """Where calls need a name, everybody, unless connections need a certificate already."""
    access = Access(tls=files(authorities) if tls else None, authenticator=authenticator)
    assert access.strangers_can_connect is strangers


@pytest.mark.parametrize("authorities", [None, b"authority"])
def test_new_connections_use_the_files_as_they_are(
    monkeypatch: pytest.MonkeyPatch, authorities: bytes | None
) -> None:
    """gRPC is told of each change once; whether certificates are needed is decided at the start."""
    asked: list[Any] = []

    def credentials(first: Any, fetch: Any, *, require_client_authentication: bool) -> Any:
        asked.extend([first, require_client_authentication])
        return fetch

    def configuration(pairs: Any, roots: Any) -> Any:
        return (pairs, roots)

    monkeypatch.setattr(module.grpc, "dynamic_ssl_server_credentials", credentials)
    monkeypatch.setattr(module.grpc, "ssl_server_certificate_configuration", configuration)
    tls = files(authorities)
    fetch: Any = module.server_credentials(tls)
    assert asked == [([(b"key", b"chain")], authorities), authorities is not None]
    assert fetch() is None
    tls.current = SimpleNamespace(key=b"new", chain=b"other", client_authorities=b"more")
    assert fetch() == ([(b"new", b"other")], b"more")
    assert fetch() is None
