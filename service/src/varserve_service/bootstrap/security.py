"""Wires security: settings in, certificates, tokens, policy and audit log out.

Reads every file once, so that a mistake is reported at the start.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from varserve_service.access.audit import AuditLog
from varserve_service.access.certificates import ServerIdentity, server_context, server_identity
from varserve_service.access.keys import KeyAddress, KeyFile, Keys
from varserve_service.access.policy_file import read_policy
from varserve_service.access.token_file import read_tokens
from varserve_service.access.tokens import JwtTokens, StaticTokens, Tokens
from varserve_service.reloading import Reloadable, ReloadedFiles, Reloader, ReloadStatus
from varserve_service.rpc import Access, Auditing, CallerAuthenticator
from varserve_service.settings import Settings

log = structlog.get_logger("varserve.bootstrap")


@dataclass(frozen=True, slots=True)
class Security:
    """How callers are let in, and what is read again while the service runs."""

    access: Access
    metrics_tls: Callable[[], ssl.SSLContext] | None
    """The context for the next connection to the port of the metrics; None: plaintext."""
    files: Sequence[Reloadable]
    addresses: Sequence[Reloadable]

    def start(self) -> None:
        """Look for changes from now on."""
        # Apart: an address that does not answer must not hold up the files.
        for things in (self.files, self.addresses):
            Reloader(things).start()

    def reloads(self) -> Sequence[ReloadStatus]:
        """How the reloads went so far. From any thread."""
        return [thing.status for thing in (*self.files, *self.addresses)]

    def expiries(self) -> Mapping[str, float]:
        """When the certificates that are in use expire, in seconds since 1970. From any thread."""
        if self.access.tls is None:
            return {}
        identity = self.access.tls.current
        expiries = {"server": identity.expires}
        if identity.client_authorities_expire is not None:
            expiries["client_authorities"] = identity.client_authorities_expire
        return expiries


def set_up_security(settings: Settings) -> Security:
    """What the settings ask for. Raises OSError, and ValueError that names file and mistake."""
    files: list[Reloadable] = []
    addresses: list[Reloadable] = []
    tls = _tls(settings, files)
    tokens: list[Tokens] = []
    if settings.token_file is not None:
        listed = ReloadedFiles("tokens", [settings.token_file], lambda read: read_tokens(read[0]))
        files.append(listed)
        tokens.append(StaticTokens(lambda: listed.current))
    if settings.jwt_jwks is not None:
        tokens.append(_jwt(settings, files, addresses))
    policy = None
    if settings.policy is not None:
        rules = ReloadedFiles("policy", [settings.policy], lambda read: read_policy(read[0]))
        files.append(rules)
        policy = lambda: rules.current  # noqa: E731
    authenticator = None
    if tokens or settings.tls_client_ca is not None:
        authenticator = CallerAuthenticator(
            certificates=settings.tls_client_ca is not None, tokens=tokens
        )
        if policy is None:
            log.warning("no policy: every authenticated caller has full access")
        if tokens and tls is None and settings.insecure:
            log.warning("tokens travel in plaintext")
    audit = None if settings.audit_log is None else Auditing(AuditLog(settings.audit_log))
    metrics_tls = _metrics_tls(settings, files)
    return Security(Access(tls, authenticator, policy, audit), metrics_tls, files, addresses)


def _tls(settings: Settings, files: list[Reloadable]) -> ReloadedFiles[ServerIdentity] | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    paths = [settings.tls_cert, settings.tls_key]
    if settings.tls_client_ca is not None:
        paths.append(settings.tls_client_ca)
    tls = ReloadedFiles("certificate", paths, server_identity)
    files.append(tls)
    return tls


def _metrics_tls(
    settings: Settings, files: list[Reloadable]
) -> Callable[[], ssl.SSLContext] | None:
    if settings.metrics_port is None or settings.tls_cert is None or settings.tls_key is None:
        return None
    paths = [settings.tls_cert, settings.tls_key]
    authorities = settings.metrics_client_ca or settings.tls_client_ca
    if authorities is not None:
        paths.append(authorities)
    contexts = ReloadedFiles("metrics certificate", paths, server_context)
    files.append(contexts)
    return lambda: contexts.current


def _jwt(settings: Settings, files: list[Reloadable], addresses: list[Reloadable]) -> JwtTokens:
    source, algorithms = settings.jwt_jwks, settings.jwt_algorithms
    assert source is not None
    assert settings.jwt_issuer is not None
    assert settings.jwt_audience is not None
    keys: Keys
    if "://" in source:
        keys = address = KeyAddress(source, algorithms, settings.jwt_jwks_ca)
        address.reload()  # what is wrong is in the log at once; it may pass
        addresses.append(address)
        if address.authority is not None:
            files.append(address.authority)
    else:
        keys = file = KeyFile(Path(source), algorithms)
        files.append(file.file)
    return JwtTokens(keys, settings.jwt_issuer, settings.jwt_audience, algorithms)
