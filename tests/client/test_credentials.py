"""What a client shows and believes, and where its token may go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import Access
from varserve_service.rpc.calls.call import Context


class Bearer:
    """Takes whatever token comes for the caller's name, and remembers all."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.refused: set[str] = set()

    async def subject(self, context: Context) -> str:
        found = dict(context.invocation_metadata() or ()).get("authorization")
        if not found:
            raise RequestError(Reason.UNAUTHENTICATED, "found no token")
        self.seen.append(str(found))
        name = str(found).removeprefix("Bearer ")
        if name in self.refused:
            raise RequestError(Reason.UNAUTHENTICATED, "the token has expired")
        return name


@pytest.fixture
def bearer() -> Bearer:
    return Bearer()


@pytest.fixture
def address(bearer: Bearer) -> Iterator[str]:
    with serve_here(counter(), access=Access(authenticator=bearer)) as address:
        yield address


def test_a_token_goes_with_every_call(address: str, bearer: Bearer) -> None:
    """Unary and streaming calls carry the token, and no call without one is answered."""
    with varserve.connect(address, token="abc", metadata=[("other", "too")]) as client:
        client.model("counter").variables["v"].numpy()
        client.read_variables("counter", ["v"])
    assert len(bearer.seen) >= 3
    assert set(bearer.seen) == {"Bearer abc"}
    with varserve.connect(address) as client, pytest.raises(varserve.Unauthenticated):
        client.models()


def test_a_watch_goes_on_with_the_next_token(bearer: Bearer) -> None:
    """One whose token has expired begins again with the present one; a token for good ends it."""
    tokens = ["one", "two"]
    with (
        serve_here(counter(), access=Access(authenticator=bearer), bookmark_seconds=0.1) as address,
        varserve.connect(address, token=lambda: tokens[0]) as client,
        varserve.connect(address, token="one") as fixed,
        varserve.connect(address, token="writer") as writer,
        client.watch_variables("counter", timeout=60) as watch,
        fixed.watch_variables("counter", timeout=60) as ending,
    ):
        bearer.refused.add("one")
        del tokens[0]
        with pytest.raises(varserve.Unauthenticated):
            next(ending)
        revision = 0
        while "Bearer two" not in bearer.seen:
            writer.assign_variable("counter", "v", np.ones(3, np.float32))
            revision += 1
            assert next(watch).revision == revision


def test_a_token_is_asked_for_each_time(address: str, bearer: Bearer) -> None:
    """What gives the token is asked before every call, so that a new one is used at once."""
    tokens = iter(["one", "two", "three"])
    with varserve.connect(address, token=lambda: next(tokens)) as client:
        for _ in range(3):
            client.models()
    assert bearer.seen == ["Bearer one", "Bearer two", "Bearer three"]


async def test_the_awaited_client_carries_it_too(bearer: Bearer) -> None:
    """The asyncio client takes the same arguments."""
    with serve_here(counter(), access=Access(authenticator=bearer)) as address:
        async with varserve.aio.connect(address, token=lambda: "abc") as client:
            await client.models()
            model = await client.model("counter")
            await model.variables["v"].numpy()
    assert set(bearer.seen) == {"Bearer abc"}


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("", "expected one, found nothing"),
        ("abc\nabd", "expected one line .*, found several lines"),
    ],
)
def test_what_is_no_token_is_told(token: str, told: str) -> None:
    """An empty file, and one with more than a token, are told apart."""
    with pytest.raises(varserve.InvalidRequest, match=f"^token: {told}"):
        varserve.connect("localhost:1", token=token)


def test_what_gives_the_token_may_fail(address: str) -> None:
    """Its own exception reaches the caller, and the client goes on."""
    answers: list[Any] = [RuntimeError("no token today"), "abc"]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    with varserve.connect(address, token=token) as client:
        with pytest.raises(RuntimeError, match="no token today"):
            client.models()
        assert len(client.models()) == 1


@pytest.mark.parametrize("token", ["", "a b", "Bearer abc", "abc\n", "ab\0c", "é"])
def test_what_is_no_token(token: str) -> None:
    """A token that no header can carry, or with the scheme before it, is refused at once."""
    with pytest.raises(varserve.InvalidRequest, match="token"):
        varserve.connect("localhost:1", token=token)


LOCAL = [
    "localhost:1",
    "127.0.0.1:1",
    "127.8.9.1:1",
    "[::1]:1",
    "dns:///localhost:1",
    "ipv4:127.0.0.1:1",
    "ipv6:[::1]:1",
    "unix:/tmp/socket",
    "unix:///tmp/socket",
]
REMOTE = [
    "example.org:1",
    "10.0.0.1:1",
    "[fe80::1]:1",
    "dns:///example.org:1",
    "dns://127.0.0.1/example.org:1",
    "dns://10.0.0.1/localhost:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1",
    "localhost.example.org:1",
    "xds:///localhost:1",
    "0.0.0.0:1",
]


@pytest.mark.parametrize("target", LOCAL)
def test_a_token_goes_to_loopback(target: str) -> None:
    """Without TLS a token may go to this machine."""
    varserve.connect(target, token="abc").close()


@pytest.mark.parametrize("target", REMOTE)
def test_a_token_goes_nowhere_in_plaintext(target: str) -> None:
    """Without TLS a token goes to no other machine; with it, it does."""
    with pytest.raises(varserve.InvalidRequest, match="plaintext"):
        varserve.connect(target, token="abc")
    varserve.connect(target, token="abc", tls=True).close()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, or half of a pair, is told at once and by name."""
    with pytest.raises(varserve.InvalidRequest, match=r"absent\.pem"):
        varserve.connect("localhost:1", tls=varserve.Tls(ca=tmp_path / "absent.pem"))
    with pytest.raises(varserve.InvalidRequest, match="together"):
        varserve.connect("localhost:1", tls=varserve.Tls(cert=tmp_path / "cert.pem"))


@pytest.mark.parametrize("kilobytes", [8, 9, 12, 16])
def test_a_large_token_always_comes_through(address: str, bearer: Bearer, kilobytes: int) -> None:
    """A token of a size has one outcome: up to 16 KiB every call with it is answered."""
    token = "x" * (kilobytes << 10)
    with varserve.connect(address, token=token, metadata=[("other", "y" * 4096)]) as client:
        for _ in range(30):
            assert client.models()
    assert set(bearer.seen) == {f"Bearer {token}"}


def test_a_token_that_is_too_large_is_not_sent(address: str) -> None:
    """One byte more than 16 KiB is refused by the client, with both sizes."""
    with pytest.raises(varserve.InvalidRequest, match="at most 16384 bytes, found 16385"):
        varserve.connect(address, token="x" * ((16 << 10) + 1))
    with (
        varserve.connect(address, token=lambda: "x" * (32 << 10)) as client,
        pytest.raises(varserve.InvalidRequest, match="at most 16384 bytes"),
    ):
        client.models()


def test_headers_that_are_too_large_are_always_refused(address: str) -> None:
    """More than 32 KiB of headers have one outcome, too."""
    metadata = [("authorization", "Bearer " + "x" * (33 << 10))]
    with varserve.connect(address, metadata=metadata, retries=0) as client:
        for _ in range(20):
            with pytest.raises(varserve.ResourceExhausted):
                client.models()
