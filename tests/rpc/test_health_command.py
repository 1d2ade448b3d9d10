"""`varserve-service health`, without a model."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.command_line import main


def test_health_is_asked_beside_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With proxies in the environment that lead nowhere, the service of this machine is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.delenv("no_proxy", raising=False)
    with serve_here(counter()) as address:
        result = CliRunner().invoke(main, ["health", "--address", address, "--timeout", "20"])
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")
