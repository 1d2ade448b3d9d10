"""Connections that fail: one sentence each, that says what is there and what to try.

Against real servers, by a name and by an address, by each driver and by the command line.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import varserve
from tests.client import listening
from tests.client.listening import NAMES, answering, tls_server, web_server
from tests.client.served import served
from tests.waiting import until
from varserve._client.transport.explanations import Fault, Finding, Way, explain, sentence

Server = Callable[[], AbstractContextManager[Any]]


class Case(NamedTuple):
    """A server that is not what the client expects, with which TLS the client comes, and what it
    is told. tls: names of files, by argument."""

    server: Server
    told: str
    tls: dict[str, str] | None = None
    timeout: float = 20


CA = {"ca": "ca.pem"}
CASES = {
    "nothing listens": Case(
        listening.nothing, "no service listens there; `varserve-service serve`"
    ),
    "nothing listens for TLS": Case(listening.nothing, "no service listens there;", CA),
    "plaintext to TLS": Case(
        lambda: tls_server(mutual=False), "expected plaintext, found TLS: give `tls`, or `ca`"
    ),
    "TLS to plaintext": Case(served, "expected TLS, found plaintext; connect without TLS", CA),
    "another authority": Case(
        lambda: tls_server(mutual=False, names=NAMES),
        "certificate is not believed (unable to get local issuer certificate); expected one of",
        {"ca": "other.pem"},
    ),
    "public authorities": Case(
        lambda: tls_server(mutual=False, names=NAMES), "certificate is not believed (", {}
    ),
    "another name": Case(
        lambda: tls_server(mutual=False, names=("models.internal",)),
        "is for another name, models.internal; `server_name` says which to expect in place of ",
        CA,
    ),
    "expired": Case(
        lambda: tls_server(mutual=False, names=NAMES, **listening.expired()),
        "its certificate has expired; the service needs a new one",
        CA,
    ),
    "not valid yet": Case(
        lambda: tls_server(mutual=False, names=NAMES, **listening.early()),
        "its certificate is not valid yet; compare the clocks",
        CA,
    ),
    "no certificate of the client": Case(
        lambda: tls_server(mutual=True, names=NAMES),
        "it may want a certificate of this client: give `cert` and `key`",
        CA,
    ),
    "another certificate of the client": Case(
        lambda: tls_server(mutual=True, names=NAMES),
        "it may not believe the certificate of this client: see `cert`",
        {**CA, "cert": "other-cert.pem", "key": "other-key.pem"},
    ),
    "an expired certificate of the client": Case(
        lambda: tls_server(mutual=True, names=NAMES),
        "the certificate of this client has expired; renew what `cert` names",
        {**CA, "cert": "expired-cert.pem", "key": "expired-key.pem"},
    ),
    "a certificate of the client that is not valid yet": Case(
        lambda: tls_server(mutual=True, names=NAMES),
        "the certificate of this client is not valid yet; compare the clocks",
        {**CA, "cert": "early-cert.pem", "key": "early-key.pem"},
    ),
    "files that do not go together": Case(
        lambda: tls_server(mutual=True, names=NAMES),
        "the files for TLS cannot be used together",
        {**CA, "cert": "cert.pem", "key": "other-key.pem"},
    ),
    "a web server": Case(web_server, "expected gRPC, found HTTP/1; it is another service"),
    "a web server for TLS": Case(web_server, "expected gRPC, found HTTP/1", CA),
    "a web server with TLS": Case(lambda: web_server(tls=True), "expected gRPC, found HTTP/1", CA),
    "another protocol": Case(
        lambda: answering(listening.greeting), "expected gRPC, found 'SSH-2.0-OpenSSH_9.2p1'; it is"
    ),
    "silence": Case(
        lambda: answering(listening.silent), "accepts connections and says nothing", timeout=0.5
    ),
    "silence for TLS": Case(
        lambda: answering(listening.silent), "accepts connections and says nothing", CA, 0.5
    ),
    "a firewall that drops": Case(
        listening.dropping, "nothing answers there; the host is not there, or a fire", timeout=0.5
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return listening.write_files(tmp_path_factory.mktemp("files"))


def failure(target: str, *, timeout: float = 20, **options: Any) -> str:
    """The message of a call, the same from both drivers: short, and it begins with the target."""

    async def awaited() -> str:
        async with varserve.aio.connect(target, retries=0, timeout=timeout, **options) as client:
            with pytest.raises(varserve.VarserveError) as caught:
                await client.models()
        return str(caught.value)

    with (
        varserve.connect(target, retries=0, timeout=timeout, **options) as client,
        pytest.raises(varserve.VarserveError) as caught,
    ):
        client.models()
    assert caught.value._look is None
    message = str(caught.value)
    assert message == asyncio.run(awaited())
    assert message.startswith(target)
    assert len(message) < 240
    return message


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_there_is_told(case: str, host: str, files: Path) -> None:
    """By a name and by an address, and to both drivers, the same is said."""
    server, told, tls, timeout = CASES[case]
    options = {} if tls is None else {"tls": varserve.Tls(**{k: files / v for k, v in tls.items()})}
    with server() as at:
        port = at.rpartition(":")[2] if isinstance(at, str) else at
        message = failure(f"{host}:{port}", timeout=timeout, **options)
    assert told in message
    assert "(at " not in message


def test_the_certificate_counts_whatever_another_address_says(files: Path) -> None:
    """Where the name has several addresses, of which gRPC tells of the last alone, the one with a
    fault of its certificate is told of, before those at which nobody listens."""
    tls = varserve.Tls(ca=files / "other.pem")
    with tls_server(mutual=False, names=NAMES) as port:
        for addresses in (("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")):
            target = "ipv4:" + ",".join(f"{each}:{port}" for each in addresses)
            message = failure(target, tls=tls, round_robin=False)
            assert "its certificate is not believed" in message
            assert message.endswith(f"(at 127.0.0.1:{port})")
        # Also where what gRPC says is of another address.
        refused = (
            "failed to connect to all addresses; last error: UNKNOWN: "
            f"ipv6:%5B::1%5D:{port}: connect: Connection refused (111)"
        )
        way = Way(f"localhost:{port}", True, tls)
        assert "no service listens" in explain(refused, way)
        from varserve._client.transport.looking import look

        (finding,) = look(way, 5)
        assert finding.fault is Fault.UNTRUSTED


def test_the_most_telling_fault_is_told() -> None:
    """Of several, certificates come before what is no gRPC, that before silence, and that before
    refusals."""
    order = [Fault.EXPIRED, Fault.WEB, Fault.SILENT, Fault.DROPPED, Fault.REFUSED]
    for place, fault in enumerate(order):
        findings = [Finding(each) for each in reversed(order[place:])]
        assert sentence(findings, Way("a:1")) == sentence([Finding(fault)], Way("a:1"))
    assert "without `--host` a service listens for its own" in sentence(findings, Way("a:1"))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_the_other_loopback_is_told_of(files: Path) -> None:
    """A service that listens at ::1 alone is told of to who asks at 127.0.0.1."""
    with tls_server(mutual=False, names=NAMES, host="[::1]") as port:
        target = f"127.0.0.1:{port}"
        beside = failure(target, tls=varserve.Tls(ca=files / "ca.pem"))
        assert f"no service listens there, but at [::1]:{port}: connect to that" in beside
        assert f"found TLS: give `tls`, or `ca` (at [::1]:{port})" in failure(target)


def test_a_service_that_has_begun_meanwhile(address: str) -> None:
    """It is no riddle: the call may come again."""
    from varserve._client.transport.looking import look

    (finding,) = look(Way(address), 5)
    told = sentence([finding, Finding(Fault.REFUSED)], Way(address))
    assert told == "it could not be reached a moment ago, and can be now: try again"


def test_names_and_sockets_that_are_not_there(tmp_path: Path) -> None:
    """A name without an address; a socket that is missing, stale, or none at all."""
    assert "no address is known for this name" in failure("no-such-host.invalid:8500")
    assert "there is no such socket; expected the path" in failure(f"unix:{tmp_path}/none")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    told = failure(f"unix:{tmp_path}/stale")
    assert "no service listens at the socket, which one has left behind; `varserve-serv" in told
    (tmp_path / "file").touch()
    assert "expected a socket, found a file" in failure(f"unix:{tmp_path}/file")
    assert "expected a socket, found a folder" in failure(f"unix:{tmp_path}")


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        (lambda: answering(listening.refusing_proxy), "the proxy answers 403 Forbidden"),
        (lambda: answering(listening.proxy_to_nowhere), "the proxy answers 502 Bad Gateway"),
        (lambda: answering(listening.greeting), "expected an HTTP proxy at 127.0.0.1:"),
        (listening.nothing, "no proxy listens at 127.0.0.1:"),
    ],
)
def test_a_proxy_of_the_environment(
    proxy: Server, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails at the proxy is said of the proxy, with the variable that names it and without
    the secrets in it."""
    with proxy() as port:
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
        message = failure("models.example:8500")
    assert told in message
    assert f"(through the proxy http://127.0.0.1:{port}, which http_proxy names" in message
    assert "secret" not in message


def test_a_slow_service_that_has_answered_is_not_asked_even_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A deadline is looked into only while no call of the client has had an answer."""
    from varserve._client.transport import looking
    from varserve._client.transport.attempts import explained
    from varserve._client.transport.calls import Budget

    looks: list[Way] = []
    monkeypatch.setattr(looking, "look", lambda way, seconds: looks.append(way) or [])

    def late(budget: Budget) -> varserve.VarserveError:
        error = varserve.DeadlineExceeded("a:1 did not answer in time")
        error._look = lambda seconds: str(looking.look(Way("a:1"), seconds))
        steps = explained(error, budget)
        for work in steps:
            work.do()
        assert error._look is None
        return error

    budget = Budget(1, 0)
    late(budget)
    assert len(looks) == 1
    budget.throttle.succeeded(repeated=False)
    late(budget)
    assert len(looks) == 1


def test_looking_takes_no_longer_than_it_may() -> None:
    """Several addresses share the time, and an event loop goes on meanwhile."""
    from varserve._client.transport.looking import look

    with listening.dropping() as port:
        started = time.monotonic()
        findings = look(Way(f"127.0.0.1:{port}"), 0.3)
        assert time.monotonic() - started < 30
        assert [finding.fault for finding in findings] == [Fault.DROPPED]

        async def beside() -> int:
            turns = 0
            async with varserve.aio.connect(f"127.0.0.1:{port}", retries=0, timeout=1) as client:
                call = asyncio.ensure_future(client.models())
                while not call.done():
                    await asyncio.sleep(0.01)
                    turns += 1
                with pytest.raises(varserve.DeadlineExceeded):
                    await call
            return turns

        assert asyncio.run(beside()) > 5


def test_a_watch_that_is_given_up_says_why(files: Path) -> None:
    """The service was replaced by one with TLS: the watch's error has found it."""
    with served() as address:
        client = varserve.connect(address, retries=0)
        watch = client.model("fake").watch(patience=0.5)
    port = int(address.rpartition(":")[2])
    leaf = listening.OURS.issue_cert(*NAMES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)

    def greet(peer: socket.socket) -> None:
        try:
            context.wrap_socket(peer, server_side=True).close()
        except OSError:
            peer.close()

    def bound() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return True
        return False

    until(bound)
    with (
        answering(greet, port),
        client,
        watch,
        pytest.raises(varserve.Unavailable, match="expected plaintext, found TLS"),
    ):
        next(iter(watch))


def test_files_that_are_of_another_kind(files: Path) -> None:
    """The argument, the file, what it must hold and what it holds."""
    ca, key, cert = (files / f"{name}.pem" for name in ("ca", "key", "cert"))
    (files / "text").write_text("hello")
    for tls, expected in (
        (varserve.Tls(ca=key), "tls: ca: .*key.pem: expected PEM with CERTIFICATE, found .*KEY"),
        (varserve.Tls(ca=files / "text"), "expected PEM with CERTIFICATE, found none"),
        (varserve.Tls(ca=ca, cert=cert, key=ca), "tls: key: .*PRIVATE KEY, found CERTIFICATE"),
        (varserve.Tls(ca=ca, cert=key, key=key), "tls: cert: .*CERTIFICATE, found .*KEY"),
        (varserve.Tls(ca=files / "none"), "none: No such file"),
    ):
        with pytest.raises(varserve.InvalidRequest, match=expected):
            varserve.connect("localhost:8500", tls=tls)
