"""`connect()` without a target finds the service as the command line does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import varserve
from tests.cli.conftest import invoke
from tests.client.test_credentials import Bearer
from tests.rpc.models import counter
from tests.serving import serve_here
from varserve._client import contexts
from varserve_service.rpc import Access


@pytest.fixture
def bearer() -> Bearer:
    return Bearer()


@pytest.fixture
def address(bearer: Bearer) -> Iterator[str]:
    with serve_here(counter(), access=Access(authenticator=bearer)) as address:
        yield address


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in contexts._VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("VARSERVE_CONTEXT", raising=False)
    file = tmp_path / "config.toml"
    file.touch()
    monkeypatch.setenv("VARSERVE_CONFIG", str(file))
    return file


def names(**options: object) -> list[str]:
    with varserve.connect(**options) as client:  # type: ignore[arg-type]
        return [each.name for each in client.models()]


def test_a_context_is_enough(
    address: str, bearer: Bearer, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's current context, the one that the environment names, and the one that the program
    names, give address and token, each before the other."""
    for name in ("current", "variable", "program"):
        (config.parent / name).write_text(f"{name}\n")
    config.write_text(
        'current = "a"\n'
        + f'[contexts.a]\nserver = "{address}"\ntoken_file = "current"\n'
        + f'[contexts.b]\nserver = "{address}"\ntoken_file = "variable"\n'
        + f'[contexts.c]\nserver = "{address}"\ntoken_file = "program"\n'
    )
    assert names() == ["counter"]
    monkeypatch.setenv("VARSERVE_CONTEXT", "b")
    assert names() == ["counter"]
    assert names(context="c") == ["counter"]
    assert names(token="own") == ["counter"]
    seen = list(dict.fromkeys(bearer.seen))
    assert seen == ["Bearer current", "Bearer variable", "Bearer program", "Bearer own"]


@pytest.mark.parametrize(
    ("context", "environment"),
    [
        ('server = "{}"\ntoken_file = "token"', {}),
        ('server = "127.0.0.1:1"', {"SERVER": "{}", "TOKEN": "t"}),
        ('token_file = "token"', {"SERVER": "{}"}),
        ('server = "127.0.0.1:1"\ntoken_file = "token"', {"SERVER": "{}"}),
        ('server = "{}"\ntoken_file = "token"\nca = "none.pem"', {}),
        ('server = "{}"\nca = "none.pem"', {"TLS": "no"}),
        ('server = "127.0.0.1:1"\ntimeout = 0.2', {}),
        ('server = "{}"', {"TIMEOUT": "soon"}),
        ('server = "{}"', {"TLS": "perhaps"}),
        ("sevrer = 5", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:the context's credentials")
def test_the_same_as_the_command_line(
    address: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    context: str,
    environment: dict[str, str],
) -> None:
    """The same file and environment lead a program and the command line to the same end, in
    the same words."""
    (config.parent / "token").write_text("t")
    config.write_text(f'current = "a"\n[contexts.a]\n{context.format(address)}\n')
    for name, value in environment.items():
        monkeypatch.setenv(f"VARSERVE_{name}", value.format(address))
    try:
        told = str(names())
        code = 0
    except varserve.VarserveError as error:
        told = error.message
        code = {"Unauthenticated": 5, "InvalidRequest": 2, "Unavailable": 6, "DeadlineExceeded": 6}[
            type(error).__name__
        ]
    result = invoke("models", code=code)
    if code:
        assert told.splitlines()[0] in result.stderr
    else:
        assert "counter" in result.stdout


def test_credentials_stay_with_their_server(
    address: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context's credentials do not go to a server that the environment names; a warning says
    so."""
    (config.parent / "token").write_text("secret")
    config.write_text('current = "a"\n[contexts.a]\nserver = "127.0.0.1:1"\ntoken_file = "token"\n')
    monkeypatch.setenv("VARSERVE_SERVER", address)
    with pytest.warns(UserWarning, match="were not sent"), pytest.raises(varserve.Unauthenticated):
        names()


def test_with_a_target_nothing_comes_from_outside(
    address: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that names its service takes nothing of the environment and the file."""
    config.write_text("broken")
    monkeypatch.setenv("VARSERVE_TOKEN", "t")
    with varserve.connect(address) as client, pytest.raises(varserve.Unauthenticated):
        client.models()
    with pytest.raises(varserve.InvalidRequest, match="a target or a context, found both"):
        varserve.connect(address, context="a")
    with pytest.raises(varserve.InvalidRequest, match=r"config\.toml"):
        varserve.connect()


async def test_the_others_find_it_too(address: str, config: Path) -> None:
    """`aio.connect` and both `connect_admin` do as `connect` does, each with its own address."""
    (config.parent / "token").write_text("t")
    config.write_text(
        f'[contexts.a]\nserver = "{address}"\nadmin_server = "127.0.0.1:2"\ntoken_file = "token"\n'
        f'[contexts.b]\nserver = "{address}"\n'
    )
    async with varserve.aio.connect(context="a") as client:
        assert [each.name for each in await client.models()] == ["counter"]
    with varserve.connect_admin(context="a") as admin:
        assert admin._driver.endpoint.target == "127.0.0.1:2"
    with pytest.raises(varserve.InvalidRequest, match="address of AdminService"):
        varserve.aio.connect_admin(context="b")
    for connect in (varserve.connect, varserve.connect_admin, varserve.aio.connect):
        parameters = inspect.signature(connect).parameters
        assert list(parameters)[:3] == ["target", "context", "timeout"]
        assert "found" in parameters["target"].default


def test_without_anything_the_service_is_here(config: Path) -> None:
    """Without a file and without variables the service is on this machine, at its own port."""
    with varserve.connect() as client:
        assert client._driver.endpoint.target == "localhost:8500"
    with varserve.connect_admin() as admin:
        assert admin._driver.endpoint.target == "localhost:8502"
