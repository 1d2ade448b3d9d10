"""Who is let in by certificate, who is not, and that certificates change while the service runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.rpc.certified import HOST, Files, Place, expired, serving, with_uris
from tests.rpc.models import counter
from tests.rpc.running import running
from tests.serving import serve_here
from varserve_service.access.certificates import certified_subject, server_identity
from varserve_service.access.subjects import CredentialError
from varserve_service.core.model.registry import Models
from varserve_service.reloading import ReloadedFiles
from varserve_service.rpc import Access, CallerAuthenticator, Server, ServerOptions

SPIFFE = "spiffe://example.org/ns/ml/sa/trainer"
ADMIN = "/varserve.v1.AdminService/ListVersions"
LIST = "/varserve.v1.ModelService/ListModels"
REFUSED = (varserve.Unavailable, varserve.DeadlineExceeded)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def mutual(place: Place) -> Iterator[str]:
    with serving(place.watched(mutual=True), mutual=True) as address:
        yield address


def connect(address: str, tls: Any = False) -> varserve.Client:
    return varserve.connect(address, tls=tls, retries=0, timeout=20)


def who(address: str, tls: varserve.Tls) -> str:
    """The name that the service has for a caller."""
    with connect(address, tls) as client:
        client.assign_variable("counter", "v", np.zeros(3, np.float32))
        return client.list_commits("counter", limit=1)[0].info.subject


def test_tls_without_names(place: Place) -> None:
    """With a certificate of its own alone, the service lets in who believes its authority."""
    with serving(place.watched(mutual=False), mutual=False) as address:
        assert who(address, place.anybody) == ""
        strangers = Files(place.folder / "x").write(place.authority.issue_cert("x"), trustme.CA())
        for tls in (False, True, varserve.Tls(ca=strangers.ca, server_name=HOST)):
            with connect(address, tls) as client, pytest.raises(REFUSED):
                client.models()


def test_the_name_of_the_service_counts(place: Place) -> None:
    """A client does not believe a good certificate for another name."""
    with serving(place.watched(mutual=False), mutual=False) as address:
        tls = varserve.Tls(ca=place.server.ca, server_name="other.example.org")
        with connect(address, tls) as client, pytest.raises(REFUSED):
            client.models()
        with connect(address, varserve.Tls(ca=place.server.ca)) as client, pytest.raises(REFUSED):
            client.models()


def test_whom_a_certificate_names(place: Place, mutual: str) -> None:
    """The URI, else the first DNS name, else the common name; what is less is not looked at."""
    issue = place.authority.issue_cert
    spiffe = with_uris(place.authority, [SPIFFE], "trainer.example.org")
    assert who(mutual, place.caller("uri", spiffe)) == SPIFFE
    hosts = issue("a.example.org", "b.example.org", common_name="trainer")
    assert who(mutual, place.caller("host", hosts)) == "a.example.org"
    assert who(mutual, place.caller("common", issue(common_name="trainer"))) == "trainer"


@pytest.mark.parametrize("kind", ["none", "another authority", "expired", "not yet"])
def test_who_has_no_good_certificate_is_not_let_in(place: Place, mutual: str, kind: str) -> None:
    """No certificate, one of another authority, one whose time is over or has not come."""
    if kind == "none":
        tls = place.anybody
    elif kind == "another authority":
        tls = place.caller("caller", trustme.CA().issue_cert("trainer"))
    elif kind == "expired":
        tls = place.caller("caller", expired(place.authority, "trainer"))
    else:
        begin = datetime.now(UTC) + timedelta(days=1)
        later = place.authority.issue_cert("trainer", not_before=begin)
        tls = place.caller("caller", later)
    with connect(mutual, tls) as client, pytest.raises(REFUSED):
        client.models()
    good = place.caller("good", place.authority.issue_cert("trainer"))
    assert who(mutual, good) == "trainer"


def test_plaintext_to_a_port_with_tls(mutual: str) -> None:
    """A client without TLS is not answered."""
    with connect(mutual) as client, pytest.raises(REFUSED):
        client.models()


def test_a_certificate_that_names_two(place: Place, mutual: str) -> None:
    """A certificate with two URIs names nobody: the call is refused with its reason."""
    tls = place.caller("two", with_uris(place.authority, [SPIFFE, "spiffe://example.org/other"]))
    with connect(mutual, tls) as client, pytest.raises(varserve.Unauthenticated, match="one URI"):
        client.models()


def test_a_token_where_none_is_taken(place: Place, mutual: str) -> None:
    """A token that cannot be checked is refused, although the certificate is good."""
    tls = place.caller("caller", place.authority.issue_cert("trainer"))
    with (
        varserve.connect(mutual, tls=tls, token="abc", retries=0) as client,
        pytest.raises(varserve.Unauthenticated, match="nobody has this token"),
    ):
        client.models()


def test_certificates_are_taken_while_it_runs(place: Place) -> None:
    """New connections see the new certificate and authority; a stream that is open goes on."""
    watched = place.watched(mutual=True)
    old = place.caller("old", place.authority.issue_cert("old"))
    with serving(watched, mutual=True) as address, connect(address, old) as client:
        model = client.model("counter")
        with model.watch() as watch:
            fresh = trustme.CA()
            place.server.write(fresh.issue_cert(HOST), fresh)
            assert watched.reload()
            new = place.caller("new", fresh.issue_cert("new"), trusted=fresh)
            assert who(address, new) == "new"
            # The stream and its connection are as they were.
            assert next(watch).info.subject == "new"
            model.variables["v"].assign(np.ones(3, np.float32))
            assert next(watch).info.subject == "old"
        # Whoever connects now is measured by the new authority alone.
        with connect(address, old) as again, pytest.raises(REFUSED):
            again.models()


@pytest.mark.parametrize("broken", ["half", "another key", "expired", "gone", "authority"])
def test_a_broken_change_changes_nothing(place: Place, broken: str) -> None:
    """What does not fit together is not taken, and what was there goes on; then a good one is."""
    watched = place.watched(mutual=True)
    good = place.caller("good", place.authority.issue_cert("good"))
    other = place.authority.issue_cert(HOST)
    with serving(watched, mutual=True) as address:
        if broken == "half":
            place.server.cert.write_bytes(place.server.cert.read_bytes()[:200])
        elif broken == "another key":
            place.server.key.write_bytes(other.private_key_pem.bytes())
        elif broken == "expired":
            place.server.write(expired(place.authority, HOST), place.authority)
        elif broken == "gone":
            place.server.key.unlink()
        else:
            place.server.ca.write_bytes(b"nothing")
        assert not watched.reload()
        assert who(address, good) == "good"
        place.server.write(other, place.authority)
        assert watched.reload()
        assert who(address, good) == "good"


def test_a_certificate_that_expires_on_the_way(place: Place) -> None:
    """A connection outlives its certificate, but not its calls: they are refused from then on."""
    now = [0.0]
    named = CallerAuthenticator(certificates=True, tokens=(), clock=lambda: now[0])
    access = Access(tls=place.watched(mutual=True), authenticator=named)
    certificate = place.authority.issue_cert("caller")
    pem = certificate.cert_chain_pems[0].bytes()
    with (
        serve_here(counter(), access=access) as address,
        connect(address, place.caller("caller", certificate)) as client,
    ):
        client.models()
        now[0] = x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
        with pytest.raises(varserve.Unauthenticated, match="expired"):
            client.models()


def test_names_that_cannot_be(place: Place) -> None:
    """A common name is taken last, and no name with control characters or of any length."""

    def named(common: str) -> str:
        leaf = place.authority.issue_cert(common_name=common)
        return certified_subject(leaf.cert_chain_pems[0].bytes()).subject

    assert named("trainer") == "trainer"
    for common in ("a\nb", "a\x7f", "a\u2028b"):
        with pytest.raises(CredentialError, match="control"):
            named(common)
    with pytest.raises(CredentialError, match="cannot be read"):
        certified_subject(b"nothing")


def test_a_wrong_start_is_told(place: Place, tmp_path: Path) -> None:
    """Files that do not fit together are refused at the start, with their names."""
    other = Files(tmp_path / "other").write(place.authority.issue_cert(HOST), place.authority)
    with pytest.raises(ValueError, match=r"server/cert\.pem.*does not belong to the"):
        ReloadedFiles("certificate", [place.server.cert, other.key], server_identity)


async def test_health_alone_in_plaintext(place: Place) -> None:
    """Probes without a certificate are answered on a port that answers nothing else."""
    access = Access(tls=place.watched(mutual=True))
    async with running(counter(), access=access, health_port=0) as found:
        address = found.server.health_address
        assert address is not None
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "counter"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            for method in ("varserve.v1.ModelService/ListModels", "x/y"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(f"/{method}")(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_port_takes_a_change(place: Place) -> None:
    """A new certificate is seen on the port of AdminService as well, whichever is asked first."""
    watched = place.watched(mutual=False)

    async def go() -> None:
        server = Server(Models([counter()]), ServerOptions(port=0), Access(tls=watched))
        server.administer(SimpleNamespace(versions=lambda model: []))  # type: ignore[arg-type]
        address = await server.start()
        try:
            for _ in range(2):
                fresh = trustme.CA()
                place.server.write(fresh.issue_cert("localhost", "127.0.0.1"), fresh)
                assert watched.reload()
                trusted = grpc.ssl_channel_credentials(fresh.cert_pem.bytes())
                ports = [(ADMIN, server.admin_address), (LIST, address)]
                for method, port in ports:
                    assert port is not None
                    async with grpc.aio.secure_channel(port, trusted) as channel:
                        await channel.unary_unary(method)(b"", timeout=20)
        finally:
            await server.stop(5)

    asyncio.run(go())
