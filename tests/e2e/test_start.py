"""Starting the service: where settings come from, and what an operator is told when it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pydantic
import pytest
from click.testing import CliRunner

from tests.conftest import DEMO_MODEL
from tests.rpc.certified import Place
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve_service.bootstrap.loading import Loader
from varserve_service.command_line import main
from varserve_service.core.errors import ModelLoadError, Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.repository import ModelSource
from varserve_service.rpc import Access, Server, ServerOptions
from varserve_service.settings import Settings, health_address, load_settings


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`varserve-service serve` that is expected to give up."""
    return subprocess.run(
        [sys.executable, "-m", "varserve_service", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | environment,
        check=False,
    )


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each setting is taken from the first that has it: flag, environment, file, default."""
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\ngrace: 1\nlog_level: error\nmodels: {a: /m/a}\n")
    monkeypatch.setenv("VARSERVE_PORT", "2")
    monkeypatch.setenv("VARSERVE_GRACE", "2")
    settings = load_settings({"port": 3}, file)
    found = (settings.port, settings.grace, settings.log_level, settings.host)
    assert found == (3, 2.0, "error", "127.0.0.1")
    assert settings.models == {"a": Path("/m/a")}


def test_models_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """VARSERVE_MODELS is a JSON object of names and paths."""
    monkeypatch.setenv("VARSERVE_MODELS", '{"a": "/m/a"}')
    assert load_settings({}, None).models == {"a": Path("/m/a")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("request_id_age", "drain", "grace")
            for value in (1e10, "inf")
        ),
        *((name, "inf") for name in ("request_id_age", "max_connection_age")),
        ("connection_grace", 1e10),
        ("request_ids", 10**19),
        ("max_streams", 2**31),
    ],
)
def test_what_no_clock_or_counter_holds_is_refused_at_the_start(name: str, value: object) -> None:
    """Not days later, by the thread that counts with it."""
    with pytest.raises(pydantic.ValidationError, match=name):
        load_settings({name: value}, None)


@pytest.mark.parametrize("name", ["state_dir", "save_dir", "policy", "audit_log", "host"])
def test_a_setting_without_a_value_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory that nobody filled in is not the folder that the service was started in."""
    monkeypatch.setenv(f"VARSERVE_{name.upper()}", "")
    with pytest.raises(pydantic.ValidationError, match=f"{name}\n.*expected a value"):
        load_settings({}, None)
    monkeypatch.delenv(f"VARSERVE_{name.upper()}")
    assert load_settings({"repository_marker": ""}, None).repository_marker == ""


@pytest.mark.parametrize(
    ("name", "value", "beside"),
    [
        ("repository_poll", 10, "model_repository"),
        ("repository_marker", "DONE", "model_repository"),
        ("state_reset", True, "state_dir"),
        ("state_restored", True, "state_dir"),
        ("connection_grace", 5, "max_connection_age"),
        ("jwt_jwks_ca", "ca.pem", "jwt_jwks"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(name: str, value: Any, beside: str) -> None:
    """It is about another one, which is not there; left at its default it needs none."""
    with pytest.raises(pydantic.ValidationError, match=f"expected {beside} beside it"):
        load_settings({name: value}, None)
    load_settings({name: Settings.model_fields[name].default}, None)


async def test_a_connection_may_be_older_than_grpc_can_count() -> None:
    """It counts to 24 days; more is for ever, and no defect at the start."""
    server = Server(Models(), ServerOptions(port=0, max_connection_age=1e8, connection_grace=1e8))
    await server.start()
    await server.stop(0)


@pytest.mark.parametrize("said", ["no room", "model 'm': no room"])
def test_what_keeps_a_model_from_loading_is_told_with_its_name(said: str) -> None:
    """A full disk under the state, say, is the operator's to mend, and no defect."""
    loader = object.__new__(Loader)

    def load(source: ModelSource) -> LiveModel:
        raise RequestError(Reason.STATE_STORE_FULL, said)

    loader._sources = [(ModelSource("m", 0, Path("/m")), ("stable",))]
    loader.check, loader.load = lambda source: None, load  # type: ignore[method-assign]
    with pytest.raises(ModelLoadError, match=r"^model 'm': no room$"):
        loader.load_all()


def test_every_setting_is_a_flag() -> None:
    """All settings but tables can be given as flags, and say what they are."""
    flags = {
        parameter.name: parameter
        for parameter in main.commands["serve"].params
        if isinstance(parameter, click.Option)
    }
    missing = set(Settings.model_fields) - set(flags)
    for name in missing:
        annotation = str(Settings.model_fields[name].annotation)
        assert annotation.startswith("dict["), f"{name} is no table and has no flag"
    assert "models" not in missing
    assert all(flag.help for flag in flags.values())


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A misspelt setting in the file is named, not ignored."""
    file = tmp_path / "settings.yaml"
    file.write_text("prot: 1\n")
    with pytest.raises(pydantic.ValidationError, match="prot"):
        load_settings({}, file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no model to serve"),
        (("--model", "a"), "expected NAME=PATH"),
        (("--model", "a=/nowhere"), "/nowhere is not there"),
        (("--model-repository", "/nowhere"), "/nowhere is not a folder"),
        (("--model", "a=/tmp", "--device", "tpu"), "setting device"),
        (("--model", "a=/tmp", "--port", "70000"), "setting port"),
        (("--config", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
)
def test_a_mistake_is_told_with_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    """What cannot be served is one message on standard error and exit code 2; no traceback."""
    ended = start(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_signal_before_it_is_ready_ends_it() -> None:
    """SIGTERM while TensorFlow and models are loaded: exit code 0 at once, and never ready."""
    models = [f"--model=m{number}={DEMO_MODEL}" for number in range(50)]  # for many seconds
    with subprocess.Popen(
        [sys.executable, "-m", "varserve_service", "serve", "--port", "0", *models],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert any("loading model" in line for line in process.stderr)
        process.terminate()
        assert "stopped before it was ready" in process.stderr.read()
        assert (process.wait(60), process.stdout.read()) == (0, "")


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "127.0.0.1:8500"),
        ({"VARSERVE_PORT": "9000"}, "127.0.0.1:9000"),
        ({"VARSERVE_PORT": "9000", "VARSERVE_HEALTH_PORT": "9002"}, "127.0.0.1:9002"),
        ({"VARSERVE_HEALTH_PORT": "9002", "VARSERVE_HOST": "0.0.0.0"}, "127.0.0.1:9002"),
        ({"VARSERVE_HOST": "10.0.0.1"}, "10.0.0.1:8500"),
        ({"VARSERVE_HOST": "::"}, "127.0.0.1:8500"),
        ({"VARSERVE_HOST": "[::1]"}, "[::1]:8500"),
    ],
)
def test_health_asks_where_the_environment_says(environment: dict[str, str], address: str) -> None:
    """The port for health alone, else the port of all calls, at an address that is listened on."""
    assert health_address(environment) == address


def healthy(**environment: str) -> bool:
    """Whether `varserve-service health` finds a service, in this environment alone."""
    ours = dict.fromkeys(("VARSERVE_HOST", "VARSERVE_PORT", "VARSERVE_HEALTH_PORT"))
    result = CliRunner().invoke(main, ["health", "--timeout", "5"], env=ours | environment)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code == 0


def test_health_finds_a_service_that_the_environment_configures(tmp_path: Path) -> None:
    """In plaintext by its port; behind a certificate by the port for health, and not without."""
    with serve_here(counter()) as address:
        port = address.rpartition(":")[2]
        assert healthy(VARSERVE_PORT=port)
        assert not healthy(VARSERVE_PORT=port, VARSERVE_HEALTH_PORT="1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        health = free.getsockname()[1]
    access = Access(tls=Place(tmp_path).watched(mutual=True))
    with serve_here(counter(), access=access, health_port=health) as address:
        port = address.rpartition(":")[2]
        assert not healthy(VARSERVE_PORT=port)
        assert healthy(VARSERVE_PORT=port, VARSERVE_HEALTH_PORT=str(health))
    assert not healthy(VARSERVE_PORT=port, VARSERVE_HEALTH_PORT=str(health))


@pytest.mark.slow
def test_a_model_that_does_not_load_is_told_with_exit_code_2(tmp_path: Path) -> None:
    """A broken SavedModel is named in the message, and nothing is served."""
    (tmp_path / "saved_model.pb").write_bytes(b"this is no SavedModel")
    ended = start("--model", f"broken={tmp_path}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "broken" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
