"""Certificates for tests, and a service that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import varserve
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.access.certificates import ServerIdentity, server_identity
from varserve_service.reloading import ReloadedFiles
from varserve_service.rpc import Access, CallerAuthenticator

HOST = "varserve.example.org"


@dataclass
class Files:
    """A certificate and what belongs to it, as PEM files of one folder."""

    folder: Path

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def write(self, certificate: trustme.LeafCert, authority: trustme.CA) -> Files:
        self.folder.mkdir(exist_ok=True)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        for path, data in (
            (self.cert, chain),
            (self.key, certificate.private_key_pem.bytes()),
            (self.ca, authority.cert_pem.bytes()),
        ):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.rename(path)
        return self


def expired(authority: trustme.CA, *names: str) -> trustme.LeafCert:
    return authority.issue_cert(
        *names,
        not_before=datetime(2020, 1, 1, tzinfo=UTC),
        not_after=datetime(2020, 2, 1, tzinfo=UTC),
    )


def with_uris(authority: trustme.CA, uris: list[str], *hosts: str) -> trustme.LeafCert:
    """A certificate that names URIs, which trustme does not make, and then hosts."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    names = [*map(x509.DNSName, hosts), *map(x509.UniformResourceIdentifier, uris)]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "common")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    return trustme.LeafCert(
        key.private_bytes(*pem, serialization.NoEncryption()),
        certificate.public_bytes(serialization.Encoding.PEM),
        [],
    )


class Place:
    """An authority, a service's certificate, and the files of whoever calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.server = Files(folder / "server")
        self.server.write(self.authority.issue_cert(HOST), self.authority)

    def watched(self, *, mutual: bool) -> ReloadedFiles[ServerIdentity]:
        server = self.server
        paths = [server.cert, server.key] + [server.ca] * mutual
        return ReloadedFiles("certificate", paths, server_identity)

    def caller(
        self, name: str, certificate: trustme.LeafCert, trusted: trustme.CA | None = None
    ) -> varserve.Tls:
        """What a caller shows, who trusts this place's authority unless another is given."""
        files = Files(self.folder / name).write(certificate, trusted or self.authority)
        return varserve.Tls(ca=files.ca, cert=files.cert, key=files.key, server_name=HOST)

    @property
    def anybody(self) -> varserve.Tls:
        return varserve.Tls(ca=self.server.ca, server_name=HOST)


@contextmanager
def serving(
    tls: ReloadedFiles[ServerIdentity], *, mutual: bool, access: dict[str, Any] | None = None
) -> Iterator[str]:
    """The counter behind TLS; with `mutual`, callers are who their certificates say."""
    authenticator = CallerAuthenticator(certificates=True, tokens=()) if mutual else None
    given = Access(tls=tls, authenticator=authenticator, **(access or {}))
    with serve_here(counter(), access=given) as address:
        yield address
