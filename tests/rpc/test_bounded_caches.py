"""What the service remembers to be quick has a bound, and forgetting changes no answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from varserve_service.access.certificates import CertifiedSubject
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.authorization import authentication
from varserve_service.rpc.authorization.authentication import CallerAuthenticator
from varserve_service.rpc.serving import watching
from varserve_service.rpc.serving.read_cache import ReadCache


async def test_certificates_that_are_known_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many certificates come, no more than so many are kept, each with its own name."""
    monkeypatch.setattr(authentication, "_MAX_CERTIFICATES", 3)
    monkeypatch.setattr(
        authentication,
        "certified_subject",
        lambda pem: CertifiedSubject(subject=pem.decode(), expires=2.0**40),
    )
    callers = CallerAuthenticator(certificates=True, tokens=())
    for _ in range(2):
        for number in range(8):
            pem = f"caller-{number}"
            context: Any = SimpleNamespace(
                invocation_metadata=tuple,
                auth_context=lambda pem=pem: {"x509_pem_cert": [pem.encode()]},
            )
            assert await callers.subject(context) == pem
            assert len(callers._named) <= 3
    assert callers._named


def test_answers_that_are_kept_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the reads of many variables so many are kept; large ones are not; all are right."""
    kept: list[ReadCache] = []

    def small(self: ReadCache, resolve: Any, max_count: int = 4, max_bytes: int = 256) -> None:
        made(self, resolve, max_count, max_bytes)
        kept.append(self)

    made = ReadCache.__init__
    monkeypatch.setattr(ReadCache, "__init__", small)
    variables = [FakeVariable(f"v{n}", np.full(3, n, np.float32)) for n in range(10)]
    variables.append(FakeVariable("large", np.zeros(100, np.float32)))
    with serve_here(LiveModel(FakeModel(variables))) as address:
        (cache,) = kept
        with varserve.connect(address) as client:
            for _ in range(2):
                for number in range(10):
                    value = client.read_variable("fake", f"v{number}").value
                    assert value.tolist() == [number] * 3
                    assert 0 < len(cache._answers) <= 4
                client.read_variable("fake", "large")
                assert ("fake", "large", 0) not in cache._answers


def test_messages_that_are_kept_for_watchers_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many commits are watched, the messages of so many are kept."""
    monkeypatch.setattr(watching, "_KEPT_EVENTS", 2)
    hubs: list[watching.Hub] = []
    made = watching.Hub.__init__

    def known(self: watching.Hub, *arguments: Any) -> None:
        made(self, *arguments)
        hubs.append(self)

    monkeypatch.setattr(watching.Hub, "__init__", known)
    live = LiveModel(FakeModel([FakeVariable("v", np.zeros(3, np.float32))]))
    with serve_here(live) as address, varserve.connect(address) as client:
        model = client.model("fake")
        with model.watch() as watch:
            for number in range(10):
                model.variables["v"].assign(np.full(3, number, np.float32))
                assert next(watch)["v"].value.tolist() == [number] * 3
        (hub,) = hubs
        assert 0 < len(hub._encoded) <= 2
