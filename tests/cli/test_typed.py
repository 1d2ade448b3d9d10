"""What people type: options anywhere, negative numbers, words of other tools, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import trustme

import varserve
from tests.client.scripted import Scripted
from tests.client.served import CHUNK_BYTES, MESSAGE_BYTES, fake_model
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from tests.waiting import killed_after, read_line
from varserve.cli import typed
from varserve.cli.session import Session
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Omission, OmissionKind

from .conftest import Cli, document, invoke
from .test_conduct import process


def test_negative_numbers_are_values(cli: Cli, client: varserve.Client) -> None:
    """No `--` is needed before one, wherever the options stand; `--` still may be there."""
    counter = client.model("fake").variables["counter"]
    cli("assign", "fake", "counter", "-3")
    assert counter.numpy() == -3
    cli("assign", "fake", "--add", "counter", "-4", "-m", "less")
    assert counter.numpy() == -7
    cli("assign", "fake", "counter", "--", "-5")
    assert counter.numpy() == -5
    cli("assign", "fake", "weights[0,0,:2]", "[-1.5, -2]")
    cli("assign", "fake", "weights[0,0,0]", "-.25", "--json")
    assert client.model("fake").variables["weights"].numpy()[0, 0, 0] == -0.25
    cli("summary", "fake", "weights", "--range", "-3", "-1")
    assert "expected a revision, from 0 on, found -1" in cli("revert", "fake", "-1", code=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        ["models", "--server", "{}", "--json"],
        ["models", "--server={}", "-o", "json"],
        ["--json", "models", "-s", "{}"],
        ["-o", "json", "-s", "{}", "models"],
        ["models", "--json", "--timeout", "30", "--no-tls", "-s", "{}"],
    ],
)
def test_options_stand_anywhere(address: str, words: list[str]) -> None:
    """The command line's own options are taken before and after the command."""
    found = document(invoke(*(each.format(address) for each in words)))
    assert [each["name"] for each in found["models"]] == ["fake"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("[" * 50_000 + "]" * 50_000, "has too many lists in lists"),
        ("9" * 5_000, "is neither JSON"),
        ("-9223372036854775809", "beyond what 64 bits hold"),
    ],
    ids=["deep", "long", "large"],
)
def test_values_beyond_all_bounds(cli: Cli, value: str, told: str) -> None:
    """They are told of in a short line."""
    (line,) = cli("assign", "fake", "counter", value, code=2).stderr.splitlines()
    assert told in line
    assert len(line) < 300


def test_a_value_that_looks_like_an_option(cli: Cli, client: varserve.Client) -> None:
    """The value of a command's option stays with it, and what follows `--` is no option."""
    cli("assign", "fake", "counter", "1", "--message", "because")
    cli("assign", "fake", "labels", "--", '["--server", "b", "c"]')
    assert client.model("fake").variables["labels"].numpy()[0] == b"--server"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("get", "`varserve read`"),
        ("modles", "`varserve models`"),
        ("sumary", "`varserve summary`"),
        ("rollback", "`varserve revert`"),
        ("load", "`varserve admin load`"),
        ("descibe", "`varserve describe`"),
        ("set", "`varserve assign`"),
    ],
)
def test_words_that_are_nearly_commands(word: str, meant: str) -> None:
    """The command that was meant is told, also by what other tools call it."""
    told = invoke(word, "x", code=2).stderr
    assert f"there is no command '{word}'; did you mean" in told
    assert meant in told


def test_a_word_that_is_nothing() -> None:
    """What is near no command is refused as click does it."""
    assert "No such command 'qqqq'" in invoke("qqqq", code=2).stderr


def test_describe(cli: Cli) -> None:
    """A model, a variable and a function are told in full, as lines and as JSON."""
    model = document(cli("describe", "fake", "--json"))
    assert (model["name"], model["state"], model["variables"]) == ("fake", "ready", 11)
    lines = cli("describe", "fake", "kernel").stdout.splitlines()
    assert ["path", "layers/0/kernel"] in [line.split() for line in lines]
    function = cli("describe", "fake", "double").stdout
    assert "(x: float32 [?]) -> {y: float32 [?]" in function
    assert document(cli("describe", "fake", "double", "--json"))["kind"] == "function"
    assert "no variable 'nothing'" in cli("describe", "fake", "nothing", code=3).stderr


def test_versions(cli: Cli) -> None:
    """`version` tells of the client, of what it stands on and of the service; without a service
    it says why that is missing."""
    told = document(cli("version", "--json"))
    assert (told["varserve"], told["service"]) == ("0.1.0", metadata.version("varserve-service"))
    alone = invoke("-s", "127.0.0.1:1", "version")
    assert "grpcio" in alone.stdout
    assert "service" not in alone.stdout
    assert "does not tell its version: 127.0.0.1:1: no service listens there" in alone.stderr


def test_many_copies_are_told_by_their_number() -> None:
    """`ls` shows a few of what is not served and says how many more there are; JSON has all."""
    copies = [Omission(OmissionKind.VARIABLE, f"all/{n}", "it is a copy") for n in range(40)]
    model = FakeModel([FakeVariable("v", np.zeros(1, np.float32))], [], omissions=copies)
    with serve_here(LiveModel(model)) as address:
        shown = invoke("-s", address, "ls", model.name).stdout
        assert ("all/2" in shown, "all/3" in shown) == (True, False)
        assert f"37 more are not served; `varserve ls {model.name} --json` lists them" in shown
        told = document(invoke("-s", address, "ls", model.name, "--json"))
        assert len(told["omissions"]) == 40


def test_what_there_is_none_of(cli: Cli) -> None:
    """An empty list is said to be one, for people alone."""
    assert cli("history", "fake").stderr == "varserve: no commit of fake is kept\n"
    assert cli("history", "fake", "weights").stderr.endswith("is kept that fits\n")
    assert document(cli("history", "fake", "--json"))["commits"] == []


def test_ls_of_a_few(cli: Cli) -> None:
    """Only functions, or only variables that are trained."""
    functions = document(cli("ls", "fake", "--functions", "--json"))
    assert (functions["variables"], len(functions["functions"])) == ([], 3)
    trained = document(cli("ls", "fake", "--trainable", "--json"))
    assert trained["functions"] == []
    assert all(each["trainable"] for each in trained["variables"])


def test_a_configuration_that_is_not_there(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that the environment names and that is not there is refused: no default is used."""
    monkeypatch.setenv("VARSERVE_CONFIG", str(tmp_path / "gone.toml"))
    told = cli("assign", "fake", "counter", "1", code=2).stderr
    assert f"VARSERVE_CONFIG: expected a file, found none at {tmp_path / 'gone.toml'}" in told
    monkeypatch.setenv("VARSERVE_CONFIG", str(tmp_path))
    assert "found none at" in cli("models", code=2).stderr
    monkeypatch.setenv("VARSERVE_CONFIG", os.devnull)  # an empty file
    assert cli("models").stdout


def test_what_is_not_finite_is_asked_for(cli: Cli, client: varserve.Client, tmp_path: Path) -> None:
    """NaN and infinities reach a live model only with a word of their own; integers are finite."""
    weights = client.model("fake").variables["weights"]
    told = cli("assign", "fake", "weights[0,0,:3]", '[1, "NaN", "Infinity"]', code=2).stderr
    assert "'weights': 2 of 3 elements are NaN or infinite; --allow-non-finite" in told
    cli("assign", "fake", "weights[0,0,:1]", '["NaN"]', "--allow-non-finite")
    assert np.isnan(weights.numpy()[0, 0, 0])
    file = tmp_path / "all.safetensors"
    cli("pull", "fake", str(file))
    assert "are NaN or infinite" in cli("push", "fake", str(file), code=2).stderr
    cli("push", "fake", str(file), "--allow-non-finite")
    cli("assign", "fake", "counter", "9")
    cli("assign", "fake", "labels", '["a", "b", "nan"]')


def test_a_large_variable_is_shown_by_its_beginning() -> None:
    """A person sees a few elements, and reads no more; JSON and files have all."""
    with serve_here(LiveModel(fake_model())) as address, varserve.connect(address) as client:
        growing = client.model("fake").variables["growing"]
        growing.assign(np.arange(1_500_000, dtype=np.float32).reshape(-1, 3))
        read = ("-s", address, "read", "fake")
        shown = invoke(*read, "growing").stdout
        assert "float32 [3, 3]" in shown
        assert "the beginning of 5.7 MiB; `varserve summary fake growing`" in shown
        assert len(document(invoke(*read, "growing", "--json"))["value"]) == 500_000
        assert "float32 [500000, 3]" in invoke(*read, "growing[:]").stdout


def test_a_watch_tells_of_its_connection() -> None:
    """While its service is away it says so on standard error, and when it goes on, once each."""
    live = LiveModel(fake_model())
    limits = {"message_bytes": MESSAGE_BYTES, "chunk_bytes": CHUNK_BYTES}
    with serve_here(live, **limits) as address:
        port = int(address.rpartition(":")[2])
        watching = process(address, "watch", "fake", "--after-revision", "0", "--json")
        invoke("-s", address, "assign", "fake", "counter", "1")
        assert json.loads(read_line(watching))["revision"] == 1
    assert watching.stderr is not None
    with killed_after(watching, 60):
        lost = watching.stderr.readline()
    assert lost.startswith("warning: connection lost: ")
    with serve_here(live, port=port, **limits) as address:
        with killed_after(watching, 60):
            assert "connection resumed: after revision 1" in watching.stderr.readline()
        invoke("-s", address, "assign", "fake", "counter", "2")
        assert json.loads(read_line(watching))["revision"] == 2
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert told.splitlines()[-1] == "varserve: interrupted; nothing was changed"


def test_ctrl_c_ends_a_command_at_once() -> None:
    """While the service does not answer: exit code 130, and what became of it."""
    begun, leave = threading.Event(), threading.Event()

    def wait(*_: object) -> list[bytes]:
        begun.set()
        leave.wait(300)  # longer than the command may take
        return []

    with Scripted() as server:
        for method, words, told in (
            ("AssignVariable", ["assign", "m", "v", "[1, 2]"], "a change may have been made"),
            ("ReadVariables", ["read", "m", "v"], "nothing was changed"),
        ):
            begun.clear()
            server.script[method] = [wait]
            running = process(server.address, *words)
            assert begun.wait(60)
            running.send_signal(signal.SIGINT)
            _, shown = running.communicate(timeout=60)
            assert running.returncode == 130
            (line,) = shown.splitlines()
            assert line.startswith(f"varserve: interrupted; {told}")
        leave.set()


def test_ctrl_c_before_the_command_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the command line in the same way while the arguments are read."""

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(typed, "pulled_out", interrupted)
    result = invoke("models", code=130)
    assert result.stderr == "varserve: interrupted; nothing was changed\n"


def test_a_push_that_has_sent_nothing_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the service is asked for the model, and while a plan is made, says so."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "model", interrupted)
    for words in ((), ("--dry-run",)):
        result = invoke("push", "fake", str(tmp_path / "x.npz"), *words, code=130)
        assert result.stderr == "varserve: interrupted; nothing was changed\n"


def test_grpc_s_own_lines_are_not_shown(address: str, tmp_path: Path) -> None:
    """A TLS mistake is one line of the command line's own, also for programs."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    running = process(address, "--ca", str(tmp_path / "ca.pem"), "models", "--json")
    _, told = running.communicate(timeout=60)
    assert running.returncode == 6
    assert "expected TLS, found plaintext" in json.loads(told)["error"]["message"]
