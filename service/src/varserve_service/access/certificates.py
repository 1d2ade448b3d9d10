"""Certificates: which subject one names, and whether a server's own can be used now.

Knows X.509. Whether a caller's certificate is trusted was decided when the connection was made.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from .subjects import CredentialError, checked


@dataclass(frozen=True, slots=True)
class CertifiedSubject:
    """The subject that a certificate names, and until when, in seconds since 1970."""

    subject: str
    expires: float


def certified_subject(pem: bytes) -> CertifiedSubject:
    """The subject of a caller's certificate: its URI, else its first DNS name, else common name.

    Raises CredentialError for a certificate that names nobody, or has two URIs.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _alternative_names(certificate)
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as error:
        raise CredentialError(f"the certificate cannot be read: {error}") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) > 1:
        # As SPIFFE has it: an ambiguous identity is none.
        raise CredentialError(f"expected one URI in the certificate, found {len(uris)}")
    hosts = names.get_values_for_type(x509.DNSName) if names else []
    candidates = [*uris, *hosts, *(str(name.value) for name in common)]
    if not candidates:
        raise CredentialError("the certificate names nobody: no URI, DNS name or common name")
    return CertifiedSubject(checked(candidates[0]), certificate.not_valid_after_utc.timestamp())


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a server shows to callers, in PEM, and the authorities whose callers it trusts."""

    key: bytes
    chain: bytes
    client_authorities: bytes | None
    expires: float
    """When the first certificate of the chain to expire does so, in seconds since 1970."""
    client_authorities_expire: float | None
    """The same for the client authorities."""


def _now() -> datetime:
    return datetime.now(UTC)


def server_identity(
    contents: Sequence[bytes], now: Callable[[], datetime] = _now
) -> ServerIdentity:
    """Make it of the contents of files: certificate chain, key and, third, client authorities.

    Raises ValueError when they do not fit together, or do not hold now.
    """
    chain, key, *authorities = contents
    certificates = _certificates(chain, "the certificate is no PEM certificate")
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the key is no PEM private key without a password: {error}") from None
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != certificates[0].public_key().public_bytes(*spki):
        raise ValueError("the key does not belong to the (first) certificate")
    _check_validity(certificates[0], now())
    trusted = [
        _certificates(pem, "the client authorities are no PEM certificates") for pem in authorities
    ]
    return ServerIdentity(
        key,
        chain,
        authorities[0] if authorities else None,
        _first_expiry(certificates),
        _first_expiry(trusted[0]) if trusted else None,
    )


def server_context(contents: Sequence[bytes]) -> ssl.SSLContext:
    """The same as a context for Python's own servers. With authorities, callers need certificates.

    Raises ValueError.
    """
    return identity_context(server_identity(contents))


def identity_context(identity: ServerIdentity) -> ssl.SSLContext:
    """A context that shows an identity. Raises ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # It takes files alone. This one is never on a disk, and has the bytes that were judged.
    descriptor = os.memfd_create("varserve-identity")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(identity.key + b"\n" + identity.chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise ValueError(f"the certificate cannot be used: {error}") from None
    finally:
        os.close(descriptor)
    if identity.client_authorities is not None:
        context.load_verify_locations(cadata=identity.client_authorities.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _certificates(pem: bytes, problem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{problem}: {error}") from None


def _check_validity(certificate: x509.Certificate, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        raise ValueError(f"the certificate is not valid before {begins:%Y-%m-%d %H:%M:%S} UTC")
    if now >= ends:
        raise ValueError(f"the certificate expired at {ends:%Y-%m-%d %H:%M:%S} UTC")


def _first_expiry(certificates: Sequence[x509.Certificate]) -> float:
    return min(each.not_valid_after_utc.timestamp() for each in certificates)
