"""Mistakes that people made in their first hour: what they are told.

A message names the thing, what was expected, what was found, or what to type next, in one line of
the command line's own, without a traceback and without a line of gRPC's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from click.testing import CliRunner

from tests.client.listening import tls_server, write_files
from tests.client.served import CHUNK_BYTES, MESSAGE_BYTES, fake_model
from tests.client.test_explanations import CASES
from tests.serving import serve_here
from varserve.cli.app import varserve as command_line
from varserve_service.core.model.live_model import LiveModel

# What was typed, the exit code, and what the message has. {} is a folder of files of all kinds.
MISTAKES = {
    "a variable's name": ("read fake wieghts", 3, "'wieghts'; did you mean 'weights'?"),
    "a model's name": ("read fkae weights", 3, "no model 'fkae'; expected one of: fake"),
    "a function's name": ("run fake doubel x=[1]", 3, "'doubel'; did you mean 'double'?"),
    "an input's name": ("run fake double y=[1]", 2, "has no input 'y'; there is 'x'"),
    "an input that is missing": ("run fake double", 2, "'x' is missing; expected float32"),
    "an input without a value": ("run fake double x", 2, "expected NAME=VALUE"),
    "an output's name": ("run fake double x=[1] --out q={}/o.npy", 2, "one of: half/0, y"),
    "a shape": ("assign fake weights[0,0,:2] [1,2,3]", 2, r"expected shape \[2\], found \[3\]"),
    "a fraction for an integer": ("assign fake counter 1.5", 2, "dtype int64, found .*float64"),
    "a word for a number": ("assign fake counter seven", 2, "'seven' is neither JSON, as 0.5"),
    "NaN": ("assign fake weights[0,0,0] NaN", 2, "1 of 1 .* NaN .*--allow-non-finite writes"),
    "an index that is too large": ("read fake weights[9]", 2, "index 9 .* for size 3"),
    "too many indices": ("read fake weights[0,0,0,0]", 2, "has 3 dimensions, found 4"),
    "a name as an index": ("read fake weights[a]", 2, "expected an integer, found 'a'"),
    "a value that is not there": ("read fake unset", 4, "'unset' has no value yet; a SET"),
    "a revision that moved": (
        "assign fake counter 1 --if-revision 9",
        4,
        "expected revision 9, found 0",
    ),
    "a revision to come": ("revert fake 99", 4, "at most revision 0, .* found 99"),
    "a pattern": ("summary fake wieghts*", 3, r"fits 'wieghts\*'; did you mean 'weights'?"),
    "a file that is not there": ("assign fake weights @{}/no.npy", 2, "no.npy: No such file"),
    "a file of another kind": ("assign fake weights @{}/text.npy", 2, "a file of numpy.save"),
    "a file of another dtype": ("assign fake weights @{}/f8.npy", 2, "float64; --cast makes"),
    "a folder that is not there": ("read fake counter --out {}/no/x.npy", 2, "no folder .*no"),
    "a format": ("read fake counter --out {}/x.txt", 2, "expected .npy, .npz, .json"),
    "a Keras file": ("push fake {}/m.keras", 2, "m.keras: no file of Keras that can be read"),
    "names of another model": (
        "push fake {}/other.npz",
        2,
        "wieghts, did you mean 'weights'.*--map",
    ),
    "the folder above a version": ("diff fake {}/saved", 2, "expected the folder .*saved/3"),
    "a command of another tool": ("get fake weights", 2, "did you mean `varserve read`"),
    "an option": ("assign fake counter 1 --mesage x", 2, "Did you mean '--message'"),
    "a context": ("-c prod models", 2, "no context 'prod'; expected one of"),
    "admin without an address": ("admin versions", 2, "--admin-server HOST:PORT"),
    "a port that is missing": ("-s localhost models", 2, "expected a port, as localhost:8500"),
    "a port that is none": ("-s localhost:99999 models", 2, "from 1 to 65535, found '99999'"),
    "a URL": ("-s http://localhost:8500 models", 2, "found the URL .*; try 'localhost:8500'"),
    "a token in plaintext": (
        "-s a.example:1 --token-file {}/token models",
        2,
        "in plaintext.* --tls, or --ca FILE",
    ),
    "a key for an authority": ("--ca {}/key.pem models", 2, "CERTIFICATE, found .*PRIVATE KEY"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.npy").write_text("no array")
    (folder / "m.keras").write_bytes(b"x")
    (folder / "token").write_text("abc")
    (folder / "saved" / "3").mkdir(parents=True)
    np.save(folder / "f8.npy", np.zeros((3, 4, 5)))
    np.savez(folder / "other.npz", wieghts=np.zeros((3, 4, 5), np.float32))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_pem.write_to_path(folder / "key.pem")
    return folder


@pytest.fixture(scope="module")
def served_here() -> Iterator[str]:
    model = LiveModel(fake_model())
    with serve_here(model, message_bytes=MESSAGE_BYTES, chunk_bytes=CHUNK_BYTES) as address:
        yield address


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake: str, served_here: str, files: Path) -> None:
    """The message has the thing and what helps, and is one line, after the usage where there is
    one."""
    typed, code, told = MISTAKES[mistake]
    words = [word.format(files) if "{}" in word else word for word in typed.split()]
    result = CliRunner().invoke(command_line, ["-s", served_here, *words])
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert re.search(told, line), line
    assert line.startswith(("varserve: ", "Error: "))
    assert len(result.stderr.splitlines()) in (1, 4)


def test_there_are_as_many_as_were_made() -> None:
    """No fewer than the 31 that were tried."""
    assert len(MISTAKES) + len(CASES) >= 31


def typed(*words: str | Path) -> tuple[int, str]:
    """As a process, where gRPC writes what it wants to write. Its exit code and its one line."""
    done = subprocess.run(
        [sys.executable, "-m", "varserve", "--timeout", "20", *words, "models"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return done.returncode, line


@pytest.mark.parametrize("case", CASES)
def test_a_connection_that_cannot_be_is_told(case: str, tmp_path: Path) -> None:
    """By the command line as by Python: one line, and what is not there is not an answer."""
    server, told, tls, timeout = CASES[case]
    files = write_files(tmp_path)
    flags = [word for key, file in (tls or {}).items() for word in (f"--{key}", str(files / file))]
    if tls == {}:
        flags = ["--tls"]
    with server() as at:
        port = str(at).rpartition(":")[2]
        options = ("-s", f"localhost:{port}", "--timeout", str(timeout))
        result = CliRunner().invoke(command_line, [*options, *flags, "models"])
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (6, ""), line
    assert told in line


def test_grpc_itself_says_nothing(files: Path) -> None:
    """As a process, where gRPC would log what it thinks of a certificate: one line, the command
    line's own."""
    with tls_server(mutual=False) as at:
        code, line = typed("-s", f"localhost:{at}", "--ca", files / "ca.pem")
        assert (code, "not believed" in line) == (6, True), line
