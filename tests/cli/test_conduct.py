"""How the command line behaves: contexts, exit codes, terminals, completion, documentation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from tests.waiting import read_line
from varserve import cli as package
from varserve._client import errors
from varserve.cli.app import varserve as command_line
from varserve.cli.exits import DEFECT, MEANINGS, code_of
from varserve.cli.output import plain
from varserve_service.core.model.live_model import LiveModel

from .conftest import Cli, document, invoke

ROOT = Path(__file__).resolve().parents[2]
EVIL = "a\x1b[31mred\x1b]0;title\x07\r\n\u202e\u0085b"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("VARSERVE_CONFIG", str(file))
    return file


def test_where_the_service_is(address: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag goes before the environment, and that before the file's context."""
    nowhere = "127.0.0.1:1"
    config.write_text(
        f'current = "good"\n[contexts.good]\nserver = "{address}"\ntimeout = 20\n'
        f'[contexts.bad]\nserver = "{nowhere}"\ntimeout = 0.2\n'
    )
    invoke("models")
    invoke("--context", "bad", "models", code=6)
    invoke("--context", "bad", "--server", address, "--timeout", "20", "models")
    monkeypatch.setenv("VARSERVE_SERVER", nowhere)
    invoke("--timeout", "0.2", "models", code=6)
    invoke("--server", address, "models")
    monkeypatch.setenv("VARSERVE_SERVER", address)
    monkeypatch.setenv("VARSERVE_CONTEXT", "bad")
    monkeypatch.setenv("VARSERVE_TIMEOUT", "20")
    invoke("models")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = 1", "unknown x"),
        ("not toml", "config.toml"),
        ("[contexts.a]\nsevrer = 'x'", "unknown sevrer"),
        ("[contexts.a]\nserver = 5", "server cannot be 5"),
        ("[contexts.b]", "expected one of: b"),
        ("contexts = 5", "no context 'a'"),
    ],
)
def test_a_file_that_is_wrong(config: Path, content: str, told: str) -> None:
    """A mistake in the file is told with its place, and is exit code 2."""
    config.write_text(content)
    assert told in invoke("--context", "a", "models", code=2).stderr


def test_tokens_are_for_tls(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token goes to this machine or over TLS, never readable to elsewhere."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    cli("--token-file", str(token), "models")
    told = invoke("-s", "example.org:1", "--token-file", str(token), "models", code=2).stderr
    assert "plaintext" in told
    assert "secret" not in told
    monkeypatch.setenv("VARSERVE_TOKEN", "secret")
    invoke("-s", "example.org:1", "models", code=2)
    cli("models")
    none = ("--token-file", str(tmp_path / "none"), "models")
    cli(*none, code=2)  # a flag goes before the environment, for who calls too
    monkeypatch.setenv("VARSERVE_BEARER_FILE", str(tmp_path / "none"))
    cli("models")
    monkeypatch.delenv("VARSERVE_BEARER_FILE")
    monkeypatch.delenv("VARSERVE_TOKEN")
    cli(*none, code=2)
    cli("--ca", str(tmp_path / "none"), "models", code=2)
    cli("--cert", str(token), "models", code=2)


def test_every_error_has_an_exit_code() -> None:
    """Each class of errors has one of the documented codes; only defects have that of a defect."""
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.VarserveError)
    ]
    codes = {kind: code_of(kind("x")) for kind in kinds}
    assert set(codes.values()) <= set(MEANINGS)
    defects = {kind for kind, code in codes.items() if code == DEFECT}
    assert defects == {errors.VarserveError, errors.ServiceError}


def test_a_defect_has_its_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is exit code 8, and says where it happened."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("foreseen by nobody")

    monkeypatch.setattr("varserve.cli.look.output.size", fail)
    assert "foreseen by nobody" in cli("models", code=8).stderr


def test_errors_for_programs(cli: Cli) -> None:
    """With --json a failure is one document on standard error, with its reason."""
    result = cli("read", "fake", "nope", "--json", code=3)
    assert result.stdout == ""
    told = json.loads(result.stderr)["error"]
    assert told["reason"] == "VARIABLE_NOT_FOUND"
    assert told["metadata"]["variable"] == "nope"


@pytest.fixture
def evil() -> Iterator[str]:
    """A service whose names and values have what a terminal obeys."""
    words = np.array([b"\x1b[2J\x07"], object)
    model = FakeModel([FakeVariable(EVIL, words), FakeVariable("[bold]x[/bold]", words)])
    with serve_here(LiveModel(model)) as address:
        yield address


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "fake"),
        ("read", "fake", EVIL),
        ("summary", "fake"),
        ("summary", "fake", EVIL),
        ("history", "fake"),
        ("watch", "fake", "--after-revision", "0", "-n", "1", "--values"),
        ("diff", "fake", "--revision", "0"),
    ],
)
def test_nothing_drives_the_terminal(evil: str, arguments: tuple[str, ...]) -> None:
    """Names, values and messages are shown without any character that a terminal obeys."""
    invoke("-s", evil, "assign", "fake", EVIL, '["\\u001b[2J"]', "-m", EVIL)
    code = 1 if arguments[0] == "diff" else 0
    result = invoke("-s", evil, *arguments, code=code)
    shown = result.stdout + result.stderr
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    assert "red" in shown
    told = invoke("-s", evil, "read", "fake", f"{EVIL}!", code=3).stderr
    assert [c for c in told if not c.isprintable() and c != "\n"] == []


def test_markup_is_text(evil: str) -> None:
    """Names that look like markup are shown as they are."""
    assert "[bold]x[/bold]" in invoke("-s", evil, "ls", "fake").stdout


def test_plain() -> None:
    """What does not print is shown by its number."""
    assert plain("a\x1b\u202e\n é") == "a\\x1b\\u202e\\n é"


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its libraries the command line says what to install."""
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(SystemExit) as caught:
        package.main(["models"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told == ("varserve: the command line needs rich: pip install 'varserve[cli]'\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """Each shell has its script."""
    assert "_VARSERVE_COMPLETE" in invoke("completion", shell).stdout


def completed(address: str, words: str) -> list[str]:
    """What bash is offered after these words."""
    done = completing(address, words)
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def completing(address: str, words: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "_VARSERVE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "VARSERVE_SERVER": address,
    }
    command = [sys.executable, *options, "-m", "varserve"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_completion_knows_names(address: str) -> None:
    """Commands, models, variables and functions are completed; without a service, nothing."""
    assert "wait-ready" in completed(address, "varserve w")
    assert completed(address, "varserve read f") == ["fake"]
    assert completed(address, "varserve read fake w") == ["weights"]
    assert completed(address, "varserve run fake d") == ["divide", "double"]
    assert completed("127.0.0.1:1", "varserve read f") == []


def test_completion_knows_inputs_and_contexts(address: str, config: Path) -> None:
    """The inputs of the function that is typed, and the contexts of the file, are completed."""
    config.write_text("[contexts.production]\n[contexts.staging]\n")
    assert completed(address, "varserve run fake divide ") == ["x="]
    assert completed(address, "varserve --context s") == ["staging"]


def test_completion_needs_no_service_for_names_that_it_was_told() -> None:
    """Names are kept for minutes, for each server: TAB then asks nobody, and imports no gRPC."""
    with serve_here(LiveModel(FakeModel([FakeVariable("weights", np.zeros(2, np.float32))]))) as at:
        assert completed(at, "varserve read fake w") == ["weights"]
        assert completed(at, "varserve read f") == ["fake"]
    assert completed(at, "varserve read fake w") == ["weights"]
    assert completed(at, "varserve read f") == ["fake"]
    assert completed(at, "varserve read fake x") == []  # asked again, as no name fits
    assert completed("127.0.0.1:1", "varserve read fake w") == []
    told = completing(at, "varserve read fake w", "-X", "importtime").stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert "varserve.cli.look" in imported
    slow = {"numpy", "grpc", "google.protobuf", "rich", "safetensors", "asyncio", "email"}
    assert imported & slow == set()


def test_what_completion_keeps_is_for_its_user(address: str, tmp_path: Path) -> None:
    """The names that are kept are in a folder that nobody else may enter, and go when they are
    old."""
    assert completed(address, "varserve read f") == ["fake"]
    (folder,) = (Path(os.environ["XDG_CACHE_HOME"]) / "varserve" / "names").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == ["fake"]
    file.write_text('["fable"]')
    assert completed(address, "varserve read fab") == ["fable"]
    os.utime(file, (0, 0))
    assert completed(address, "varserve read fa") == ["fake"]
    file.write_text("broken")
    assert completed(address, "varserve read fa") == ["fake"]


def process(address: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "varserve", "-s", address, *arguments]
    # As from a terminal: where these tests run in the background of a shell, Ctrl-C is ignored, and
    # a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_as_a_process(address: str) -> None:
    """`python -m varserve` and the installed `varserve` do the same, with the same exit codes."""
    script = str(Path(sys.executable).with_name("varserve"))
    for command in ([sys.executable, "-m", "varserve"], [script]):
        done = subprocess.run(
            [*command, "-s", address, "read", "fake", "counter", "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, json.loads(done.stdout)["value"]) == (0, 7)
        missing = [*command, "-s", address, "read", "fake", "nope"]
        assert subprocess.run(missing, capture_output=True, timeout=60).returncode == 3


@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">/dev/full", "standard output cannot be written: No space left on device"),
        (">&-", "standard output is closed; nothing was changed"),
    ],
)
@pytest.mark.parametrize("command", ["models", "ls fake", "assign fake counter 3 --json"])
def test_output_that_cannot_be_written(
    address: str, command: str, redirection: str, told: str
) -> None:
    """It is told in one line, with the exit code of a wrong file, and is no defect."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    words = [sys.executable, "-m", "varserve", "-s", address, *command.split()]
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *words]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"varserve: {told}")


def test_ctrl_c_ends_a_watch(address: str) -> None:
    """A watch shows a commit at once, and ends with exit code 130 at Ctrl-C."""
    invoke("-s", address, "assign", "fake", "counter", "1")
    watching = process(address, "watch", "fake", "--after-revision", "0", "--json")
    assert json.loads(read_line(watching))["revision"] == 1
    invoke("-s", address, "assign", "fake", "counter", "2")
    assert json.loads(read_line(watching))["revision"] == 2
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=30)
    assert (watching.returncode, "Traceback" in told) == (130, False)


def test_nobody_there_in_time() -> None:
    """Waiting in vain is exit code 1."""
    told = invoke("-s", "127.0.0.1:1", "wait-ready", "--for", "0.3", code=1).stderr
    assert "not ready within" in told
    found = document(invoke("-s", "127.0.0.1:1", "wait-ready", "--for", "0.3", "--json", code=1))
    assert found["ready"] is False


def _within(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """Every command of a group, and of the groups in it, by its words."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[prefix + name] = command
        if isinstance(command, click.Group):
            found |= _within(command, f"{prefix}{name} ")
    return found


def test_every_command_is_documented() -> None:
    """docs/cli.md has a row for each command and each exit code, and a word for each option."""
    text = (ROOT / "docs" / "cli.md").read_text()
    assert isinstance(command_line, click.Group)
    commands = _within(command_line)
    rows = re.findall(r"^\| `([a-z][a-z-]*(?: [a-z][a-z-]*)*)", text, re.MULTILINE)
    leaves = [name for name, each in commands.items() if not isinstance(each, click.Group)]
    assert sorted(rows) == sorted(leaves)
    codes = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert {int(code): meaning for code, meaning in codes} == MEANINGS
    for command in [command_line, *commands.values()]:
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("help", "version"):
                assert parameter.help or parameter.is_flag, (command.name, parameter.name)
                assert any(f"`{name}" in text for name in parameter.opts), parameter.opts
