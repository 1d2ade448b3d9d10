"""The command line against a service over numpy fakes, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result

import varserve
from tests.client.served import CHUNK_BYTES, MESSAGE_BYTES, fake_model
from tests.serving import serve_here
from varserve.cli.app import varserve as command_line
from varserve_service.core.model.live_model import LiveModel


class Cli(Protocol):
    """Runs the command line; `code` is the exit code that it must have."""

    def __call__(self, *arguments: str, code: int = 0) -> Result: ...


@pytest.fixture(autouse=True)
def _nothing_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for name in (
        "SERVER",
        "ADMIN_SERVER",
        "CONTEXT",
        "TOKEN",
        "BEARER_FILE",
        "SERVER_NAME",
        "CA",
        "CERT",
        "KEY",
        "TLS",
        "TIMEOUT",
    ):
        monkeypatch.delenv(f"VARSERVE_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    config = tmp_path_factory.mktemp("config") / "none.toml"
    config.touch()
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))


@pytest.fixture
def address() -> Iterator[str]:
    model = LiveModel(fake_model())
    with serve_here(model, message_bytes=MESSAGE_BYTES, chunk_bytes=CHUNK_BYTES) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[varserve.Client]:
    with varserve.connect(address) as client:
        yield client


def invoke(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(command_line, arguments)
    told = (result.exit_code, result.stdout, result.stderr, result.exception)
    assert result.exit_code == code, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    return result


@pytest.fixture
def cli(address: str) -> Cli:
    def run(*arguments: str, code: int = 0) -> Result:
        return invoke("--server", address, *arguments, code=code)

    return run


def document(result: Result) -> Any:
    """The one JSON document that was printed."""
    (line,) = result.stdout.splitlines()
    return json.loads(line)
