"""Certificates: whom one names, and whether a server's own fits its key.

Knows X.509. That a caller's certificate is trusted was found by whoever took the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from .subjects import CredentialError, checked


@dataclass(frozen=True, slots=True)
class Named:
    """Whom a certificate names, and until when, in seconds since 1970."""

    subject: str
    expires: float


def named_by(pem: bytes) -> Named:
    """Whom a caller's certificate names: its URI, else its first DNS name, else its common name.

    Raises CredentialError for one that names nobody, or two URIs.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = _alternative_names(certificate)
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError as error:
        raise CredentialError(f"the certificate cannot be read: {error}") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) > 1:
        # As SPIFFE has it: an identity that leaves a choice is none.
        raise CredentialError(f"expected one URI in the certificate, found {len(uris)}")
    hosts = names.get_values_for_type(x509.DNSName) if names else []
    found = [*uris, *hosts, *(str(each.value) for each in common)]
    if not found:
        raise CredentialError("the certificate names nobody: no URI, DNS name or common name")
    return Named(checked(found[0]), certificate.not_valid_after_utc.timestamp())


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What a server shows its callers, in PEM, and the authorities whose callers it trusts."""

    key: bytes
    chain: bytes
    client_authorities: bytes | None


def server_identity(files: Sequence[bytes]) -> ServerIdentity:
    """Certificate chain, key and, as a third, the authorities of callers, when they fit together.

    Raises ValueError that says what does not.
    """
    chain, key, *authorities = files
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise ValueError(f"the certificate is no PEM certificate: {error}") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the key is no PEM private key without a password: {error}") from None
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != certificates[0].public_key().public_bytes(*spki):
        raise ValueError("the key is not that of the (first) certificate")
    expires = certificates[0].not_valid_after_utc
    if expires <= datetime.now(UTC):
        raise ValueError(f"the certificate expired at {expires:%Y-%m-%d %H:%M:%S} UTC")
    if authorities:
        try:
            x509.load_pem_x509_certificates(authorities[0])
        except ValueError as error:
            raise ValueError(f"the client authorities are no PEM certificates: {error}") from None
    return ServerIdentity(key, chain, authorities[0] if authorities else None)
