"""Files under a running service: what is changed or withdrawn holds, however that was done."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.waiting import until
from varserve_service import reloading
from varserve_service.access.certificates import server_context, server_identity
from varserve_service.bootstrap.security import Security, set_up_security
from varserve_service.reloading import Reloadable, ReloadedFiles, Reloader
from varserve_service.settings import load_settings

HOUR = timedelta(hours=1)


def text_of(contents: Sequence[bytes]) -> str:
    text = contents[0].decode()
    if "wrong" in text:
        raise ValueError("it is wrong")
    return text


def change_unseen(path: Path, content: bytes) -> None:
    """Write the content into the same inode, with the times that the file had."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def test_a_change_of_content_alone(tmp_path: Path) -> None:
    """A change that leaves inode, size and time as they were is taken."""
    path = tmp_path / "file"
    path.write_text("one")
    files = ReloadedFiles("file", [path], text_of)
    change_unseen(path, b"two")
    assert files.reload()
    assert files.current == "two"
    assert not files.reload()


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    """A file that could not be read is taken once it can be, though it has not changed since."""
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    path.write_text("one")
    files = ReloadedFiles("file", [path], text_of)
    path.unlink()
    path.symlink_to(elsewhere)  # which is not there yet
    assert not files.reload()
    assert files.status.failing
    elsewhere.write_text("two")
    assert files.reload()
    assert files.current == "two"


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless"])
def test_what_is_no_file_holds_up_no_other(kind: str, tmp_path: Path) -> None:
    """A pipe in place of a file is not waited for, and what has no end is not read."""
    path, other = tmp_path / "file", tmp_path / "other"
    for each in (path, other):
        each.write_text("one")
    files = [ReloadedFiles("file", [each], text_of) for each in (path, other)]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    other.write_text("two")
    reloader = Reloader(files, seconds=0.01)
    reloader.start()
    try:
        until(lambda: files[0].status.failing and files[1].current == "two")
        assert files[0].current == "one"
        path.rmdir() if kind == "folder" else path.unlink()
        path.write_text("new")
        until(lambda: files[0].current == "new" and not files[0].status.failing)
    finally:
        reloader.stop()


def test_what_is_too_large_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file beyond all use is refused, at the start and later."""
    monkeypatch.setattr(reloading, "_MOST_BYTES", 3)
    path = tmp_path / "file"
    path.write_text("more")
    with pytest.raises(ValueError, match="expected at most 3 bytes, found more"):
        ReloadedFiles("file", [path], text_of)
    path.write_text("one")
    files = ReloadedFiles("file", [path], text_of)
    path.write_text("more")
    assert not files.reload()
    assert (files.current, files.status.failing) == ("one", True)


def test_what_cannot_be_taken_now_is_taken_later(tmp_path: Path) -> None:
    """The same bytes are tried at every look, and counted once; then they are taken."""
    path = tmp_path / "file"
    path.write_text("one")
    open_now = False

    def parse(contents: Sequence[bytes]) -> str:
        if contents[0] == b"two" and not open_now:
            raise ValueError("not yet")
        return contents[0].decode()

    files = ReloadedFiles("file", [path], parse)
    path.write_text("two")
    for _ in range(3):
        assert not files.reload()
    assert (files.status.taken, files.status.refused, files.status.failing) == (0, 1, True)
    open_now = True
    assert files.reload()
    assert (files.status.taken, files.status.refused, files.status.failing) == (1, 1, False)


def test_a_change_that_is_taken_back(tmp_path: Path) -> None:
    """A file that has its last good content again is not failing any more."""
    path = tmp_path / "file"
    path.write_text("one")
    files = ReloadedFiles("file", [path], text_of)
    path.write_text("wrong")
    assert not files.reload()
    assert files.status.failing
    path.write_text("one")
    assert not files.reload()
    assert not files.status.failing
    assert files.current == "one"


def identity_files(folder: Path, leaf: trustme.LeafCert, *authorities: trustme.CA) -> list[Path]:
    """Certificate, key and authorities in a folder."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in ("cert.pem", "key.pem", "ca.pem")]
    paths[0].write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    paths[1].write_bytes(leaf.private_key_pem.bytes())
    paths[2].write_bytes(b"".join(each.cert_pem.bytes() for each in authorities))
    return paths if authorities else paths[:2]


def test_a_certificate_that_is_not_valid_yet(tmp_path: Path) -> None:
    """It does not replace one that is; it is taken when its time comes."""
    now = datetime.now(UTC)
    authority = trustme.CA()
    paths = identity_files(tmp_path, authority.issue_cert("localhost"))
    clock = [now]
    files = ReloadedFiles("certificate", paths, partial(server_identity, now=lambda: clock[0]))
    first = files.current
    future = authority.issue_cert("localhost", not_before=now + HOUR, not_after=now + 48 * HOUR)
    identity_files(tmp_path, future)
    assert not files.reload()
    assert files.current is first
    assert files.status.failing
    clock[0] += 2 * HOUR
    assert files.reload()
    assert files.current.expires == pytest.approx((now + 48 * HOUR).timestamp(), abs=1)
    with pytest.raises(ValueError, match="not valid before"):
        ReloadedFiles("certificate", paths, server_identity)


def test_a_certificate_holds_from_its_first_second_until_its_last(tmp_path: Path) -> None:
    """Its end itself is too late. Of a chain and of authorities the first to expire counts."""
    begin = datetime.now(UTC).replace(microsecond=0)
    end, second = begin + HOUR, timedelta(seconds=1)
    early, late = trustme.CA(), trustme.CA()
    leaf = late.issue_cert("localhost", not_before=begin, not_after=end)
    paths = identity_files(tmp_path, leaf, late, early)
    contents = [path.read_bytes() for path in paths]
    for now, problem in (
        (begin - second, "not valid before"),
        (begin, ""),
        (end - second, ""),
        (end, "expired at"),
    ):
        if problem:
            with pytest.raises(ValueError, match=problem):
                server_identity(contents, now=lambda now=now: now)
        else:
            assert server_identity(contents, now=lambda now=now: now).expires == end.timestamp()
    ends = [
        x509.load_pem_x509_certificate(each.cert_pem.bytes()).not_valid_after_utc.timestamp()
        for each in (early, late)
    ]
    identity = server_identity(contents)
    assert identity.client_authorities_expire == min(ends)
    assert (identity.chain, identity.key) == (contents[0], contents[1])
    alone = server_identity(contents[:2])
    assert (alone.client_authorities, alone.client_authorities_expire) == (None, None)


def test_an_authority_that_is_withdrawn_is_not_trusted(tmp_path: Path) -> None:
    """A context of Python's own servers trusts the authorities of the files, and no others."""
    first, second = trustme.CA(), trustme.CA()
    paths = identity_files(tmp_path, first.issue_cert("localhost"), first, second)
    contexts = ReloadedFiles("metrics certificate", paths, server_context)
    assert len(contexts.current.get_ca_certs()) == 2
    identity_files(tmp_path, first.issue_cert("localhost"), second)
    assert contexts.reload()
    assert len(contexts.current.get_ca_certs()) == 1
    assert contexts.current.verify_mode is ssl.CERT_REQUIRED


def write_same_size(path: Path, content: bytes, size: int) -> None:
    """Content with spaces or line ends after it, which mean nothing in any of these files."""
    assert len(content) <= size
    path.write_bytes(content.ljust(size, b"\n"))


def jwks(kid: str) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return json.dumps({"keys": [RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": kid}]}).encode()


def contents(authority: trustme.CA, number: int) -> dict[str, bytes]:
    """What each file of the settings has, in one of two versions."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "policy": f"rules: [{{subjects: [a{number}], verbs: [admin], models: ['*']}}]".encode(),
        "token_file": f"tokens: [{{subject: a, sha256: '{digest}'}}]".encode(),
        "jwt_jwks": jwks(str(number)),
        "tls_client_ca": trustme.CA().cert_pem.bytes(),
        "metrics_client_ca": trustme.CA().cert_pem.bytes(),
    }


@pytest.mark.parametrize(
    "name",
    [
        "policy",
        "token_file",
        "jwt_jwks",
        "tls_client_ca",
        "metrics_client_ca",
        "tls_cert",
        "jwt_jwks_ca",
    ],
)
def test_every_file_that_is_withdrawn(name: str, tmp_path: Path) -> None:
    """A change of each file that gives access is taken, with size and time as they were before."""
    authority = trustme.CA()
    cert, key = identity_files(tmp_path, authority.issue_cert("localhost"))
    first, second = contents(authority, 1), contents(authority, 2)
    files = {setting: tmp_path / setting for setting in first}
    for setting, path in files.items():
        write_same_size(path, first[setting], 4096)
    settings: dict[str, object] = {setting: str(path) for setting, path in files.items()} | {
        "tls_cert": cert,
        "tls_key": key,
    }
    if name == "jwt_jwks_ca":
        settings |= {"jwt_jwks": "https://127.0.0.1:9/keys", name: tmp_path / "jwks-ca"}
        files[name] = tmp_path / "jwks-ca"
        write_same_size(files[name], authority.cert_pem.bytes(), 4096)
        second[name] = trustme.CA().cert_pem.bytes()
    security = set_up_security(
        load_settings(settings | {"jwt_issuer": "i", "jwt_audience": "a", "metrics_port": 0}, None)
    )
    assert changed(security) == []
    if name == "tls_cert":
        leaf = authority.issue_cert("localhost")
        key.write_bytes(leaf.private_key_pem.bytes())
        cert.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    else:
        change_unseen(files[name], second[name].ljust(4096, b"\n"))
    assert changed(security) != []
    assert changed(security) == []


def changed(security: Security) -> list[str]:
    """What a look at all files takes now."""
    return [thing.status.name for thing in security.files if thing.reload()]


def test_the_reloader_goes_on(tmp_path: Path) -> None:
    """What raises for one thing does not keep the others from being looked at, again and again."""

    class Broken:
        looks = 0

        def reload(self) -> bool:
            self.looks += 1
            raise RuntimeError("a defect")

        status = property(lambda self: None)

    path = tmp_path / "file"
    path.write_text("one")
    files = ReloadedFiles("file", [path], text_of)
    broken = Broken()
    things: list[Reloadable] = [broken, files]  # type: ignore[list-item]
    reloader = Reloader(things, seconds=0.01)
    reloader.start()
    change_unseen(path, b"two")
    until(lambda: files.current == "two" and broken.looks > 1)
    reloader.stop()
