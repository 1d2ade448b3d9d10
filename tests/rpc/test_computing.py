"""What Python alone computes for a while is done by one thread at a time, whoever asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc import requests
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.calls import giving_way
from varserve_service.rpc.calls.giving_way import Computing
from varserve_service.rpc.messages import descriptions
from varserve_service.rpc.services import history, reads

LARGE = FakeVariable("large", np.zeros(2**18, np.float32))


class Watched:
    """A function in place of another one, and how many threads are in it at once at most."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._lock = function, threading.Lock()
        self._now = self.most = self.calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self.calls += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            time.sleep(0.005)
            return self._function(*arguments, **options)
        finally:
            with self._lock:
                self._now -= 1


def call_at_once(address: str, method: str, request: Any, times: int = 16) -> None:
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(times) as threads:
        call = channel.unary_unary(f"/varserve.v1.ModelService/{method}")
        data = request.SerializeToString()
        for answer in [threads.submit(call, data, timeout=30) for _ in range(times)]:
            answer.result()


@pytest.mark.parametrize(
    ("module", "name", "method", "request_"),
    [
        (descriptions, "page", "GetModel", pb.GetModelRequest(model="counter")),
        (history, "page", "ListCommits", history_pb2.ListCommitsRequest(model="counter")),
        (reads, "summarize", "SummarizeVariables", requests.summarize()),
    ],
    ids=["descriptions", "commits", "small summaries"],
)
def test_one_thread_computes(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, method: str, request_: Any
) -> None:
    watched = Watched(getattr(module, name))
    monkeypatch.setattr(module, name, watched)
    with serve_here(counter()) as address:
        call_at_once(address, method, request_)
    assert watched.calls >= 16
    assert watched.most == 1


def test_large_values_are_summarized_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parts are computed outside of Python."""
    watched = Watched(reads.summarize)
    monkeypatch.setattr(reads, "summarize", watched)
    request = requests.summarize(selections=[pb.SummarySelection(variable="large")])
    with serve_here(counter(LARGE)) as address:
        call_at_once(address, "SummarizeVariables", request)
    assert watched.most > 1


def test_who_has_waited_for_long_does_not_wait_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the one that computes calls may take seconds: it is not what all others wait for."""
    monkeypatch.setattr(giving_way, "_PATIENCE_SECONDS", 0.01)
    computing = Computing()
    with computing.turn(), ThreadPoolExecutor(1) as threads:
        assert threads.submit(_turn, computing).result(30)
    monkeypatch.setattr(giving_way, "_PATIENCE_SECONDS", 30)
    assert _turn(computing)
    assert _turn(computing), "it was given back once for each time that it was taken"


def _turn(computing: Computing) -> bool:
    with computing.turn():
        return True
