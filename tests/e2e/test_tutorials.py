"""The tutorials, typed as they stand: files are written, commands run in one shell, and what a page
says that they print is printed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = "-- end of block --"


class Block(NamedTuple):
    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(page.read_text())]


def script(of: list[Block]) -> str:
    """One shell script: a file is written where the page shows it."""
    lines = ["set -e"]
    for block in of:
        if block.kind == "sh":
            lines += [block.text, f"echo '{_MARK}'"]
        elif block.kind == "python":
            lines += [f"cat > {block.title} <<'END OF FILE'", f"{block.text}END OF FILE"]
    return "\n".join(lines)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Each command ends well, and prints what the page shows below it; `…` is for anything."""
    told = blocks(page)
    assert {block.kind for block in told} == {"sh", "python", "text"}
    assert all(block.title for block in told if block.kind == "python")
    port = free_port()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VARSERVE_") and name != "TF_CPP_MIN_LOG_LEVEL"
    } | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VARSERVE_PORT": str(port),
        "VARSERVE_SERVER": f"127.0.0.1:{port}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    work = tmp_path / "work"
    work.mkdir()
    files = tmp_path / "printed", tmp_path / "errors"
    with files[0].open("w") as printing, files[1].open("w") as complaining:
        shell = subprocess.Popen(
            ["bash", "-c", script(told)],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printing,
            stderr=complaining,
            start_new_session=True,
        )
        try:
            code = shell.wait(600)
        finally:
            # The service of a page that was not typed to its end.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait(60)
    printed, errors = (file.read_text() for file in files)
    whole = f"{printed}\n{errors}"
    assert code == 0, whole
    outputs = iter(printed.split(f"{_MARK}\n"))
    output = ""
    for block in told:
        if block.kind == "sh":
            output = next(outputs)
        elif block.kind == "text":
            for line in block.text.splitlines():
                pattern = re.escape(line.strip()).replace("…", ".*")
                assert re.search(pattern, output), f"expected {line!r} in:\n{output}\n{whole}"


def test_there_is_one_for_each_user() -> None:
    """The three users that varserve is for have a tutorial, and the README leads to it."""
    assert {page.stem for page in TUTORIALS} == {"push-weights", "hot-fix", "prove-the-release"}
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in TUTORIALS if f"docs/tutorials/{page.name}" not in readme] == []
