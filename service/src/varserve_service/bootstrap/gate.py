"""Wires who is let in: settings in, certificates, tokens, policy and audit log out.

Reads every file once, so that what is wrong is told at the
start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from varserve_service.access.audit import AuditLog
from varserve_service.access.certificates import server_identity
from varserve_service.access.keys import KeyAddress, KeyFile, Keys
from varserve_service.access.policy_file import read_policy
from varserve_service.access.token_file import read_tokens
from varserve_service.access.tokens import JwtTokens, StaticTokens, Tokens
from varserve_service.access.watched import Refresher, Refreshes, Watched
from varserve_service.rpc import Access, Auditing, CallerAuthenticator
from varserve_service.settings import Settings

log = structlog.get_logger("varserve.bootstrap")


@dataclass(frozen=True, slots=True)
class Gate:
    """How callers are let in, and what keeps that up to date."""

    access: Access
    refreshers: tuple[Refresher, ...]

    def start(self) -> None:
        """Look for changes from now on."""
        for refresher in self.refreshers:
            refresher.start()


def open_gate(settings: Settings) -> Gate:
    """What the settings ask for. Raises OSError, and ValueError that names file and mistake."""
    files: list[Refreshes] = []
    # Apart: an address that does not answer must not hold up the files.
    addresses: list[Refreshes] = []
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        paths = [settings.tls_cert, settings.tls_key]
        if settings.tls_client_ca is not None:
            paths.append(settings.tls_client_ca)
        tls = Watched("certificate", paths, server_identity)
        files.append(tls)
    tokens: list[Tokens] = []
    if settings.token_file is not None:
        listed = Watched("tokens", [settings.token_file], lambda found: read_tokens(found[0]))
        files.append(listed)
        tokens.append(StaticTokens(lambda: listed.current))
    if settings.jwt_jwks is not None:
        tokens.append(_jwt(settings, files, addresses))
    policy = None
    if settings.policy is not None:
        rules = Watched("policy", [settings.policy], lambda found: read_policy(found[0]))
        files.append(rules)
        policy = lambda: rules.current  # noqa: E731
    authenticator = None
    if tokens or settings.tls_client_ca is not None:
        authenticator = CallerAuthenticator(
            certificates=settings.tls_client_ca is not None, tokens=tokens
        )
        if policy is None:
            log.warning("no policy: who proves who he is may do everything")
        if tokens and tls is None and settings.insecure:
            log.warning("tokens travel in plaintext")
    audit = None if settings.audit_log is None else Auditing(AuditLog(settings.audit_log))
    refreshers = tuple(Refresher(each) for each in (files, addresses) if each)
    return Gate(Access(tls, authenticator, policy, audit), refreshers)


def _jwt(settings: Settings, files: list[Refreshes], addresses: list[Refreshes]) -> JwtTokens:
    found, algorithms = settings.jwt_jwks, settings.jwt_algorithms
    assert found is not None
    assert settings.jwt_issuer is not None
    assert settings.jwt_audience is not None
    keys: Keys
    if "://" in found:
        keys = address = KeyAddress(found, algorithms, settings.jwt_jwks_ca)
        address.refresh()  # what is wrong is in the log at once; it may pass
        addresses.append(address)
    else:
        keys = file = KeyFile(Path(found), algorithms)
        files.append(file.file)
    return JwtTokens(keys, settings.jwt_issuer, settings.jwt_audience, algorithms)
