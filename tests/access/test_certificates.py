"""Whom a certificate names, and which files a server cannot use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from varserve_service.access.certificates import (
    certified_subject,
    server_context,
    server_identity,
)
from varserve_service.access.subjects import MAX_SUBJECT_BYTES, CredentialError

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = serialization.Encoding.PEM
END = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


def certificate(*names: x509.GeneralName, common: str = "") -> bytes:
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else []
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]))
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(END - timedelta(days=2))
        .not_valid_after(END)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(KEY, hashes.SHA256()).public_bytes(PEM)


URI = x509.UniformResourceIdentifier("spiffe://here/trainer")
HOST, OTHER = x509.DNSName("trainer.example"), x509.DNSName("other.example")


@pytest.mark.parametrize(
    ("pem", "subject"),
    [
        (certificate(HOST, URI, common="name"), "spiffe://here/trainer"),
        (certificate(HOST, OTHER, common="name"), "trainer.example"),
        (certificate(common="name"), "name"),
    ],
)
def test_whom_a_certificate_names(pem: bytes, subject: str) -> None:
    """Its URI, else its first DNS name, else its common name, and until when."""
    found = certified_subject(pem)
    assert (found.subject, found.expires) == (subject, END.timestamp())


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (certificate(), "names nobody: no URI, DNS name or common name"),
        (certificate(URI, x509.UniformResourceIdentifier("spiffe://b")), "one URI .* found 2"),
        (certificate(common="a\nb"), "control characters"),
        (certificate(x509.DNSName("x" * (MAX_SUBJECT_BYTES + 1))), "at most"),
        (b"none", "cannot be read"),
    ],
)
def test_a_certificate_that_names_nobody(pem: bytes, why: str) -> None:
    """It is refused with what is wrong with it."""
    with pytest.raises(CredentialError, match=why):
        certified_subject(pem)


def test_a_certificate_that_no_connection_may_use() -> None:
    """Its key belongs to it and is too short: it is refused, and no descriptor is left open."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    pem = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(weak.public_key())
        .serial_number(1)
        .not_valid_before(END - timedelta(days=2))
        .not_valid_after(END)
        .sign(weak, hashes.SHA256())
        .public_bytes(PEM)
    )
    key = weak.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(ValueError, match=r"the certificate cannot be used: .*key too small"):
        server_context([pem, key])
    assert set(Path("/proc/self/fd").iterdir()) <= before


def test_a_subject_as_long_as_it_may_be() -> None:
    """Its bytes are counted."""
    longest = "x" * MAX_SUBJECT_BYTES
    assert certified_subject(certificate(x509.DNSName(longest))).subject == longest


def test_files_that_a_server_cannot_use() -> None:
    """What is wrong is named: certificate, key, that they do not belong together, authorities."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    key, ca = leaf.private_key_pem.bytes(), authority.cert_pem.bytes()
    locked = KEY.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    other = KEY.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for contents, why in (
        ([b"none", key], "the certificate is no PEM certificate"),
        ([chain, b"none"], "the key is no PEM private key without a password"),
        ([chain, locked], "the key is no PEM private key without a password"),
        ([chain, other], "does not belong to the"),
        ([chain, key, b"none"], "the client authorities are no PEM certificates"),
    ):
        with pytest.raises(ValueError, match=why):
            server_identity(contents)
    assert server_identity([chain, key, ca]).client_authorities == ca
    assert server_context([chain, key]).verify_mode.name == "CERT_NONE"
    assert server_context([chain, key, ca]).verify_mode.name == "CERT_REQUIRED"
