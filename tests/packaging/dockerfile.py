"""Carry out one target of the Dockerfile in a folder, without a container.

Knows the few instructions that this Dockerfile uses and fails on any other, so that a step that it
did not carry out never passes for one that works. What it cannot show is the base image: the
interpreter of the tests stands in for it, as `python`, whatever this machine calls it. All stages
share the folder, so that absolute paths, also those inside an environment, stay true.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.packaging.tools import ROOT, clean_environment, run


@dataclass
class Stage:
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """A target that was carried out: how its container would be started."""

    root: Path
    environment: dict[str, str]
    user: str = ""
    port: int = 0
    workdir: Path = Path("/")
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Where a path of the image is on this machine."""
        return Path(f"{self.root}{self.workdir / path}")


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order; comments are gone, continued lines are one."""
    found: dict[str, Stage] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            found[name] = stage = Stage(parent)
        else:
            stage.steps.append((instruction, rest.strip()))
    return found


def build(target: str, root: Path, overrides: Mapping[str, str]) -> Image:
    """Carry out `target` and every stage that it needs below `root`.

    `overrides` are environment variables that win over those that the Dockerfile sets.
    """
    known = stages((ROOT / "Dockerfile").read_text())
    return _Build(known, root, dict(overrides)).image(target)


class _Build:
    def __init__(self, known: dict[str, Stage], root: Path, overrides: dict[str, str]) -> None:
        self.known = known
        self.root = root
        self.overrides = overrides
        self.done: dict[str, Image] = {}

    def image(self, name: str) -> Image:
        if name not in self.known:  # an image from outside: this machine stands in for it
            return Image(self.root, self.base_environment())
        if name not in self.done:
            stage = self.known[name]
            parent = self.image(stage.parent)
            image = replace(parent, environment=dict(parent.environment))
            for instruction, rest in stage.steps:
                getattr(self, f"do_{instruction.lower()}")(image, rest)
            self.done[name] = image
        return self.done[name]

    def base_environment(self) -> dict[str, str]:
        """The environment of this machine, where `python` is the interpreter of the tests."""
        programs = self.root / "base" / "bin"
        if not programs.exists():
            programs.mkdir(parents=True)
            # Not sys.executable: an environment's own link is no environment elsewhere.
            (programs / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
        environment = clean_environment()
        path = f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return environment | {"PATH": path} | self.overrides

    def rooted(self, text: str) -> str:
        """Move the absolute paths that the image owns below the root."""
        return re.sub(r"(?<![\w./])(/(?:opt|wheels|tmp|build|models)\b)", rf"{self.root}\1", text)

    def do_workdir(self, image: Image, rest: str) -> None:
        image.workdir = Path(rest)
        image.place(".").mkdir(parents=True, exist_ok=True)

    def do_env(self, image: Image, rest: str) -> None:
        for pair in shlex.split(rest):
            key, value = pair.split("=", 1)
            value = string.Template(self.rooted(value)).substitute(image.environment)
            image.environment[key] = self.overrides.get(key, value)

    def do_run(self, image: Image, rest: str) -> None:
        shell = re.sub(r"^--mount=\S+\s+", "", self.rooted(rest))
        run(["/bin/sh", "-c", shell], cwd=image.place("."), environment=image.environment)

    def do_copy(self, image: Image, rest: str) -> None:
        source, target = shlex.split(rest)[-2:]
        place = image.place(target)
        if match := re.match(r"--from=(\S+) ", rest):
            self.image(match[1])
            assert source == target, "the stages share one folder: a copy has to keep its path"
            assert place.exists()
            return
        if target.endswith("/"):
            place = place / Path(source).name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist")
            shutil.copytree(ROOT / source, place, ignore=ignored, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, place)

    def do_user(self, image: Image, rest: str) -> None:
        image.user = rest

    def do_expose(self, image: Image, rest: str) -> None:
        image.port = int(rest)

    def do_entrypoint(self, image: Image, rest: str) -> None:
        image.entrypoint = json.loads(rest)

    def do_cmd(self, image: Image, rest: str) -> None:
        image.command = json.loads(rest)

    def do_healthcheck(self, image: Image, rest: str) -> None:
        image.health = json.loads(rest.split("CMD", 1)[1])
