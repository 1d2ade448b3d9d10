"""The docker commands of the pages, as far as they can be checked without a daemon."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PAGES = ("README.md", "docs/operations.md")


def lines(page: str, command: str) -> list[list[str]]:
    text = (ROOT / page).read_text()
    found = re.findall(rf"^(docker {command} .*)$", text, re.MULTILINE)
    assert found, f"{page}: no docker {command}"
    return [shlex.split(line, comments=True) for line in found]


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("page", PAGES)
def test_docker_run_fits_the_image(page: str) -> None:
    """It runs what the line above builds, publishes the port that the image serves on loopback,
    mounts the models read-only where the image looks for them, and waits as long as the service."""
    built = {after(words, "-t"): after(words, "--target") for words in lines(page, "build")}
    for target in built.values():
        assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)
    (command,) = re.findall(r"^CMD \[(.*)\]$", DOCKERFILE, re.MULTILINE)
    serve = [word.strip().strip('"') for word in command.split(",")]
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    for words in lines(page, "run"):
        assert words[-1] in built, "the image of another line"
        host, _, inside = after(words, "-p").rpartition(":")
        assert (host, inside) == (f"127.0.0.1:{port}", port)
        source, folder, mode = after(words, "-v").split(":")
        assert Path(source.removeprefix("$PWD/")) == Path("models")
        assert folder == after(serve, "--model-repository")
        assert mode == "ro"
        assert int(after(words, "--stop-timeout")) > 20  # more than the grace of the service
