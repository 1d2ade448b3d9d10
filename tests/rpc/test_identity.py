"""Who makes a call is found out before anything else, and stays with what the call does."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import varserve
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import Access, CallerAuthenticator
from varserve_service.rpc.calls.call import Context


class Claimed:
    """Accepts the name that a caller claims."""

    async def subject(self, context: Context) -> str:
        for key, value in context.invocation_metadata() or ():
            if key == "name":
                return str(value)
        raise RequestError(Reason.UNAUTHENTICATED, "expected a name, found none")


def connect(address: str, name: str = "") -> varserve.Client:
    return varserve.connect(address, metadata=[("name", name)] if name else (), retries=0)


def test_a_commit_tells_who_made_it() -> None:
    """Every kind of write has its own caller's name, also when many write at once."""
    callers = [f"caller-{number}" for number in range(8)]
    with serve_here(counter(), access=Access(authenticator=Claimed())) as address:
        start = threading.Barrier(len(callers))

        def write(name: str) -> None:
            value = np.ones(3, np.float32)
            with connect(address, name) as client:
                start.wait(30)
                for _ in range(5):
                    client.assign_variable("counter", "v", value, message=name)
                    client.assign_variables("counter", {"v": value}, message=name)
                    client.run_function("counter", "add", {"n": np.int64(1)}, message=name)
                    client.stream_run_function("counter", "add", {"n": np.int64(1)}, message=name)
                client.revert_commits("counter", 0, message=name)

        threads = [threading.Thread(target=write, args=(name,)) for name in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with connect(address, "reader") as client:
            found = client.list_commits("counter", limit=1000)
    assert len(found) == len(callers) * 21
    assert [commit.info.subject for commit in found] == [commit.info.message for commit in found]
    assert {commit.info.subject for commit in found} == set(callers)


def test_a_caller_without_a_name_gets_nothing() -> None:
    """A call that nobody stands behind is refused with its reason, and changes nothing."""
    with serve_here(counter(), access=Access(authenticator=Claimed())) as address:
        with connect(address) as client:
            for call in (
                client.models,
                lambda: client.read_variable("counter", "v"),
                lambda: client.assign_variable("counter", "v", np.zeros(3, np.float32)),
            ):
                with pytest.raises(varserve.Unauthenticated, match="expected a name") as caught:
                    call()
                assert caught.value.from_service
        with connect(address, "reader") as client:
            assert client.get_model("counter").header.revision == 0


def test_without_authentication_nobody_has_a_name() -> None:
    """Without authentication a claimed name is ignored."""
    with serve_here(counter()) as address, connect(address, "somebody") as client:
        client.assign_variable("counter", "v", np.zeros(3, np.float32))
        assert [commit.info.subject for commit in client.list_commits("counter")] == [""]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ([], "found no token"),
        (["Bearer "], "found no token"),
        (["Bearer   "], "found no token"),
        (["Basic abc"], "found another scheme"),
        (["abc"], "found another scheme"),
        (["Bearer a", "Bearer a"], "found 2"),
        (["Bearer unknown"], "token"),
    ],
)
async def test_a_header_without_a_valid_token_is_refused(headers: list[str], problem: str) -> None:
    """The call is UNAUTHENTICATED, and the message says what was found in the header."""
    callers = CallerAuthenticator(certificates=False, tokens=())
    metadata = tuple(("authorization", value) for value in headers)
    context: Any = SimpleNamespace(invocation_metadata=lambda: metadata)
    with pytest.raises(RequestError, match=problem) as caught:
        await callers.subject(context)
    assert caught.value.reason is Reason.UNAUTHENTICATED
