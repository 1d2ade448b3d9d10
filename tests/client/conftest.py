"""A client of a service over numpy fakes.

In an environment that has the client alone, `VARSERVE_SERVICE_PYTHON` names an interpreter that has
the service; what needs it in this process is left out there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

import varserve
from tests.waiting import read_line

from .scripted import Scripted

ALONE = find_spec("varserve_service") is None
HERE = Path(__file__).parent
NEEDS_SERVICE = ("varserve_service", "served import", "lane_serving import")
"""What a test has in its text that needs the service in its own process."""
collect_ignore = [
    each.name
    for each in HERE.glob("test_*.py")
    if ALONE and any(text in each.read_text() for text in NEEDS_SERVICE)
]


Service = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Service]:
    """Serves a new model of fakes in another process, and the last one no more."""
    command = [os.environ.get("VARSERVE_SERVICE_PYTHON", sys.executable)]
    with subprocess.Popen(
        [*command, "-m", "tests.client.served"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parents[1],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        @contextmanager
        def serve(lane_socket: str = "") -> Iterator[str]:
            process.stdin.write(f"{lane_socket}\n")
            process.stdin.flush()
            yield read_line(process)

        yield serve
        process.stdin.close()


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if ALONE:
        served: Service = request.getfixturevalue("elsewhere")
    else:
        from .served import served
    with served() as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[varserve.Client]:
    with varserve.connect(address) as client:
        yield client


@pytest.fixture
def model(client: varserve.Client) -> varserve.Model:
    return client.model("fake")


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        yield server
