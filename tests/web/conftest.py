"""`varserve web` in a process of its own, over a service on numpy fakes in this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from tests.waiting import read_line
from tests.web.browsing import ARGUMENTS, CHROMIUM, PATIENCE
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Omission, OmissionKind, TensorSpec

START_SECONDS = 60


def model() -> FakeModel:
    """Variables of each kind that a page shows in a way of its own, and two functions."""
    vector = TensorSpec("float32", (None,))
    counter = FakeVariable("counter", np.array(7, np.int64))

    def double(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": x * 2}

    def count() -> dict[str, np.ndarray]:
        raise ArithmeticError("not called by any test")

    return FakeModel(
        [
            FakeVariable("dense/kernel", np.arange(12, dtype=np.float32).reshape(3, 4)),
            FakeVariable("table", np.zeros((1000, 4), np.float32)),
            FakeVariable("broken", np.array([1.0, np.nan, np.inf], np.float32)),
            FakeVariable("labels", np.array([b"a", b"<script>alert(1)</script>"], dtype=object)),
            FakeVariable("deep", np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)),
            FakeVariable("unset", None, shape=(2,)),
            counter,
        ],
        [
            FakeFunction("double", double, inputs={"x": vector}, outputs={"y": vector}),
            FakeFunction(
                "count", count, outputs={"n": TensorSpec("int64", ())}, writes=("counter",)
            ),
        ],
        omissions=[Omission(OmissionKind.FUNCTION, "datasets", "its input 'x' is a variant")],
    )


@contextmanager
def inspector(server: str, *arguments: str, **environment: str) -> Iterator[str]:
    """Run `varserve web`; gives the URL without the last slash."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("VARSERVE_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "varserve", "-s", server, "web", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=clean | {"VARSERVE_CONFIG": os.devnull} | environment,
    )
    assert process.stdout is not None
    try:
        line = read_line(process, START_SECONDS)
        ready = re.fullmatch(r"varserve web on (http://\S+)/", line)
        assert ready, line
        yield ready[1]
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.stdout.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve_here(LiveModel(model())) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[varserve.Client]:
    with varserve.connect(address) as client:
        yield client


@pytest.fixture(scope="module")
def url(address: str) -> Iterator[str]:
    """Of pages that may write."""
    with inspector(address, "--writable") as url:
        yield url


@pytest.fixture(scope="module")
def read_only(address: str) -> Iterator[str]:
    """Of pages that may not."""
    with inspector(address) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test for whatever its console complains of."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []
