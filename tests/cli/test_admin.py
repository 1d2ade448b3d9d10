"""Operators' commands, against a service over fakes whose models come from a repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.lifecycle.administered import Administered, administered, saved_model
from tests.rpc.certified import HOST, Place
from tests.rpc.roles import POLICY
from varserve_service.access.policy_file import read_policy
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.lifecycle import SaveRoom
from varserve_service.rpc import Access

from .conftest import document, invoke
from .test_conduct import completed
from .test_secure import Bearer


def _saver(form: SaveFormat) -> Any:
    def write(folder: Path, *_: Any) -> None:
        (folder / "as").write_text(form.value)

    return write


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Administered]:
    room = SaveRoom(tmp_path / "saves", {form: _saver(form) for form in SaveFormat})
    with administered(tmp_path, room) as found:
        for version in (1, 2):
            saved_model(found.repository / "m" / str(version))
        saved_model(found.repository / "m" / "3", b"bad")
        yield found


def run(found: Administered, *arguments: str, code: int = 0) -> Result:
    return invoke("--admin-server", found.admin_address, "admin", *arguments, code=code)


def test_load_and_unload(found: Administered) -> None:
    """A name means the version that is loaded last, until the model is unloaded."""
    assert run(found, "load", "m", "1").stdout == "m is version 1 (revision 0)\n"
    header = found.client.model("m")
    told = document(run(found, "load", "m", "2", "--json"))
    assert told == {
        "model": "m",
        "version": 2,
        "epoch": found.client.model("m").epoch,
        "revision": 0,
        "label": "stable",
    }
    assert told["epoch"] != header.epoch
    assert found.states() == {("m", 2): "ready"}
    (gone,) = document(run(found, "unload", "m", "--json"))["unloaded"]
    assert gone == {key: told[key] for key in ("model", "version", "epoch", "revision")}
    assert found.states() == {}
    run(found, "load", "m", "1")
    assert run(found, "unload", "m").stdout == "m version 1 unloaded at revision 0\n"


def test_a_load_that_fails(found: Administered) -> None:
    """It is exit code 4, the version before goes on, and the list says why; it can be cleared."""
    run(found, "load", "m", "1")
    # The newest, which is broken.
    assert "MODEL_LOAD_FAILED" in run(found, "load", "m", code=4).stderr
    told = json.loads(run(found, "load", "m", "3", "--json", code=4).stderr)["error"]
    assert told["reason"] == "MODEL_LOAD_FAILED"
    assert found.version("m") == 1
    assert "is bad" in run(found, "versions", "m").stdout
    gone = document(run(found, "unload", "m", "--json"))["unloaded"]
    assert [(each["version"], bool(each["epoch"])) for each in gone] == [(1, True), (3, False)]


def test_labels(found: Administered) -> None:
    """A label means another version beside the present one; without it that one is unloaded."""
    run(found, "load", "m", "1")
    told = run(found, "set-label", "m", "canary", "2").stdout
    assert told == "m@canary is version 2 (revision 0)\n"
    assert (found.version("m"), found.version("m@canary")) == (1, 2)
    assert document(run(found, "set-label", "m", "second", "2", "--json"))["label"] == "second"
    left = run(found, "remove-label", "m", "second").stdout
    assert left == "nothing is unloaded: another label means the version\n"
    (gone,) = document(run(found, "remove-label", "m", "canary", "--json"))["unloaded"]
    assert (gone["version"], found.states()) == (2, {("m", 1): "ready"})
    run(found, "remove-label", "m", "canary", code=3)
    run(found, "set-label", "m", "Canary", "2", code=2)


def test_a_service_without_the_port_for_operators(found: Administered) -> None:
    """Who finds nobody there is told which flag opens it."""
    told = invoke("--admin-server", "127.0.0.1:1", "admin", "versions", code=6).stderr
    assert "127.0.0.1:1: no service listens there; a service has AdminService with `--admin" in told


def test_versions(found: Administered) -> None:
    """All versions, those in memory with their state and labels; also of one model."""
    saved_model(found.repository / "other" / "7")
    run(found, "load", "m", "1")
    run(found, "set-label", "m", "canary", "2")
    lines = run(found, "versions").stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["m", "1", "ready", "stable", "0", "yes"],
        ["m", "2", "ready", "canary", "0", "yes"],
        ["m", "3", "yes"],
        ["other", "7", "yes"],
    ]
    listed = document(run(found, "versions", "m", "--json"))["versions"]
    assert [(each["version"], each["state"], each["labels"]) for each in listed] == [
        (1, "ready", ["stable"]),
        (2, "ready", ["canary"]),
        (3, None, []),
    ]
    assert set(listed[0]) == {
        *("model", "version", "epoch", "revision"),
        *("state", "labels", "error", "loadable"),
    }
    assert document(run(found, "versions", "none", "--json")) == {"versions": []}


@pytest.mark.parametrize("form", list(SaveFormat))
def test_save(found: Administered, form: SaveFormat, tmp_path: Path) -> None:
    """A model is saved below the service's folder in each format, and nothing is overwritten."""
    run(found, "load", "m", "1")
    told = document(run(found, "save", "m", "kept/2", "--format", form.value, "--json"))
    assert (tmp_path / "saves" / "kept" / "2" / "as").read_text() == form.value
    assert told["bytes"] > 0
    assert {key: told[key] for key in ("model", "version", "folder", "format", "variables")} == {
        "model": "m",
        "version": 1,
        "folder": "kept/2",
        "format": form.value,
        "variables": 2,
    }
    assert "SAVE_EXISTS" in run(found, "save", "m", "kept/2", code=4).stderr
    run(found, "save", "m", "../out", code=2)
    run(found, "save", "m", "kept", "--format", "pickle", code=2)
    run(found, "save", "none", "kept", code=3)
    assert "2 variables of revision 0 saved in plain (" in run(found, "save", "m", "plain").stdout
    assert (tmp_path / "saves" / "plain" / "as").read_text() == "saved_model"


def test_where_the_admin_service_is(
    found: Administered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag goes before the environment, and that before the file's context."""
    nowhere = "127.0.0.1:1"
    config = tmp_path / "config.toml"
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))
    config.write_text(
        f'[contexts.good]\nserver = "{found.address}"\nadmin_server = "{found.admin_address}"\n'
        f'[contexts.bad]\nadmin_server = "{nowhere}"\ntimeout = 0.2\n'
    )
    versions = ("admin", "versions")
    invoke("--context", "good", *versions)
    invoke("--context", "bad", *versions, code=6)
    invoke("--context", "bad", "--admin-server", found.admin_address, "--timeout", "20", *versions)
    monkeypatch.setenv("VARSERVE_ADMIN_SERVER", nowhere)
    invoke("--context", "good", "--timeout", "0.2", *versions, code=6)
    invoke("--admin-server", found.admin_address, *versions)
    monkeypatch.setenv("VARSERVE_ADMIN_SERVER", found.admin_address)
    invoke("--context", "bad", "--timeout", "20", *versions)


def test_another_service_is_not_administered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a service alone is asked where its AdminService is; localhost is not meant."""
    told = invoke("--server", "example.org:8500", "admin", "versions", code=2).stderr
    assert "--admin-server" in told
    assert "example.org:8500" in told
    monkeypatch.setenv("VARSERVE_SERVER", "example.org:8500")
    invoke("admin", "unload", "m", code=2)


def test_the_models_port_is_not_the_admin_port(found: Administered) -> None:
    """Calls to the wrong port are wrong arguments, are told which port it is, and load nothing."""
    told = invoke("--admin-server", found.address, "admin", "load", "m", "1", code=2).stderr
    assert f"{found.address} has no AdminService: expected" in told
    assert "--admin-port" in told
    assert found.states() == {}
    told = invoke("--server", found.admin_address, "models", code=2).stderr
    assert "another port of one" in told


def test_a_service_that_is_named_is_the_one_that_is_administered(
    found: Administered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--server` never goes with AdminService of another service, as a context or the environment
    has it."""
    run(found, "load", "m", "1")
    config = tmp_path / "config.toml"
    monkeypatch.setenv("VARSERVE_CONFIG", str(config))
    config.write_text(
        f'current = "mine"\n[contexts.mine]\nserver = "{found.address}"\n'
        f'admin_server = "{found.admin_address}"\n'
    )
    unload, other = ("admin", "unload", "m"), ("--server", "other.example.org:8500")
    assert "other.example.org" in invoke(*other, *unload, code=2).stderr
    with monkeypatch.context() as environment:
        environment.setenv("VARSERVE_SERVER", "other.example.org:8500")
        invoke(*unload, code=2)
        environment.setenv("VARSERVE_ADMIN_SERVER", found.admin_address)
        environment.setenv("VARSERVE_SERVER", found.address)
        invoke(*other, *unload, code=2)
    assert found.states() == {("m", 1): "ready"}
    invoke("--server", found.address, *unload)


def test_tls_tokens_and_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin port is reached as the other is: TLS, a token, and a policy that allows `admin`. A
    context's token is for the admin port that the context names."""
    place = Place(tmp_path)
    policy = read_policy(POLICY)
    access = Access(place.watched(mutual=False), Bearer(), policy=lambda: policy)
    token = tmp_path / "token"
    with administered(tmp_path, access=access) as found:
        saved_model(found.repository / "m" / "1")
        here = ("--admin-server", found.admin_address)
        tls = ("--ca", str(place.server.ca), "--server-name", HOST)
        load = ("admin", "load", "m", "1")
        invoke(*here, "--timeout", "30", *load, code=6)
        assert "UNAUTHENTICATED" in invoke(*here, *tls, *load, code=5).stderr
        token.write_text("reader\n")
        mine = (*here, *tls, "--token-file", str(token))
        assert "PERMISSION_DENIED" in invoke(*mine, *load, code=5).stderr
        token.write_text("admin\n")
        invoke(*mine, *load)
        config = tmp_path / "config.toml"
        monkeypatch.setenv("VARSERVE_CONFIG", str(config))
        context = f'[contexts.mine]\nserver = "{found.address}"\ntoken_file = "token"\n'
        config.write_text(context)
        assert "were not sent" in invoke("-c", "mine", *here, *tls, *load, code=5).stderr
        config.write_text(f'{context}admin_server = "{found.admin_address}"\n')
        invoke("-c", "mine", *tls, *load)
        invoke("-c", "mine", *here, *tls, *load)
        assert found.states() == {("m", 1): "ready"}
        assert document(invoke(*mine, "admin", "versions", "--json"))["versions"]


def test_completion_knows_what_can_be_loaded(
    found: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are completed, and the names of models that nobody has loaded yet."""
    monkeypatch.setenv("VARSERVE_ADMIN_SERVER", found.admin_address)
    assert completed(found.address, "varserve admin set") == ["set-label"]
    assert completed(found.address, "varserve admin load ") == ["m"]
