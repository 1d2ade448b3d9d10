"""Where the service listens: told by the setting's name, before any model is loaded."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import DEMO_MODEL
from tests.serving import ServiceProcess
from tests.telemetry.scrape import scrape
from varserve_service.addresses import AddressError, ListenAddress, hold, release
from varserve_service.command_line import main
from varserve_service.settings import load_settings


def give_up(*arguments: str, prefix: Sequence[str] = (), **environment: str) -> str:
    """Start a service that must give up with code 2; what it says."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "varserve_service", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "loading model" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("setting", ["port", "health-port", "admin-port", "metrics-port"])
def test_a_port_that_is_taken(setting: str) -> None:
    """The setting and the address are named before models are loaded."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        model = f"m={DEMO_MODEL}"
        said = give_up("--port", "0", "--model", model, f"--{setting}", taken)
    name = setting.replace("-", "_")
    assert f"setting {name}: cannot listen on 127.0.0.1:{taken}: Address already in use" in said
    assert "another process listens there" in said


def test_ports_that_are_the_same() -> None:
    """Two settings of one address are named both; other hosts may have the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    one = ListenAddress("port", "127.0.0.1", port)
    for host in ("127.0.0.1", "0.0.0.0", "::"):
        with pytest.raises(AddressError, match=f"setting admin_port: .*{port}, where port listens"):
            hold([one, ListenAddress("admin_port", host, port)])
    release(hold([ListenAddress("port", h, port) for h in ("127.0.0.1", "127.0.0.2")]))
    release(hold([ListenAddress(name, "127.0.0.1", 0) for name in ("port", "admin_port")]))


@pytest.mark.parametrize(
    ("host", "cause"),
    [
        ("192.0.2.1", "no such address"),
        ("no-such-host.invalid", ""),
        ("unix:/nowhere/s", "/nowhere"),
    ],
)
def test_an_address_that_is_not_here(host: str, cause: str) -> None:
    """An address of another machine, a name that nobody knows, a folder that is not there."""
    with pytest.raises(AddressError, match=f"setting port: cannot listen on {host}") as caught:
        hold([ListenAddress("port", host, 8500)])
    assert cause in str(caught.value)


def test_brackets_of_an_address() -> None:
    """An IPv6 address is taken with the brackets that it has in a URL."""
    assert load_settings({"host": "[::1]"}, None).host == "::1"
    assert load_settings({"admin_host": "[::1]"}, None).admin_host == "::1"


def test_a_unix_socket(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Calls are served on a socket file, probes and metrics beside it on loopback; a second service
    is refused, and the file that a killed one leaves is no hindrance.
    """
    place = f"unix:{tmp_path}/socket"
    arguments = ("--model", f"counter={model_folder('counter')}", "--host", place)
    arguments += ("--health-port", "0", "--metrics-port", "0")
    for last in (False, True):
        process = ServiceProcess(*arguments, log=tmp_path / "log")
        try:
            assert process.address == place
            with varserve.connect(place) as client:
                assert client.model("counter").variables["count"].assign_add(1).revision == 1
                lines = [
                    json.loads(line)
                    for line in process.log.read_text().splitlines()
                    if line.startswith("{")
                ]
                metrics = [line["address"] for line in lines if line["event"] == "metrics"][-1]
                found = scrape(metrics)
                assert found.value("varserve_connections", port="calls") >= 1
                health = [line["health"] for line in lines if line["event"] == "ready"][-1]
            with grpc.insecure_channel(health) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            asked = CliRunner().invoke(main, ["health", "--address", place])
            assert asked.exit_code == 0, asked.output
            assert "another process listens" in give_up(*arguments)
            if last:
                assert process.terminate() == 0
                assert not (tmp_path / "socket").exists()
            else:
                process.process.kill()
                process.process.wait(60)
        finally:
            process.close()


def test_a_file_in_the_place_of_a_socket(tmp_path: Path) -> None:
    """Only a socket is ever removed."""
    (tmp_path / "socket").write_text("precious")
    with pytest.raises(AddressError, match="no socket"):
        hold([ListenAddress("port", f"unix:{tmp_path}/socket", 0)])
    assert (tmp_path / "socket").read_text() == "precious"


def test_two_models_of_one_name(tmp_path: Path) -> None:
    """Neither wins silently, by flag, in the environment or in the file."""
    ended = CliRunner().invoke(main, ["serve", "--model", "a=/1", "--model", "a=/2"])
    assert ended.exit_code == 2
    assert "model a is given twice" in ended.output
    assert "'a' is there twice" in give_up(VARSERVE_MODELS='{"a": "/1", "a": "/2"}')
    file = tmp_path / "settings.yaml"
    file.write_text("models:\n  a: /1\n  a: /2\n")
    assert "'a' is there twice" in give_up("--config", str(file))


def test_no_folder_for_temporary_files() -> None:
    """It is said what is missing and why, before TensorFlow is."""
    place = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']; "
    code = f"{place}from varserve_service.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--model", f"m={DEMO_MODEL}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "set TMPDIR" in done.stderr


def test_a_limit_of_address_space() -> None:
    """Too little to load TensorFlow: the limit is named before and after, with exit code 2."""
    done = subprocess.run(
        [
            *("sh", "-c", f'ulimit -v {900 << 10} && exec "$@"', "sh"),
            *(sys.executable, "-m", "varserve_service", "serve", "--port", "0"),
            f"--model=m={DEMO_MODEL}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 2, done.stderr[-2000:]
    first, *_, last = done.stderr.splitlines()
    assert "warning: the address space is limited" in first
    assert "not enough memory" in last
    assert "ulimit -v" in last
