"""The site of the documentation: what `make docs` builds, and what it refuses."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import varserve
from varserve_service.rpc.methods import ADMIN_SERVICE, MODEL_SERVICE

ROOT = Path(__file__).resolve().parents[2]
SERVICES = (MODEL_SERVICE, ADMIN_SERVICE)


def build(tree: Path, site: Path) -> subprocess.CompletedProcess[str]:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    return subprocess.run(
        [mkdocs, "build", "--config-file", tree / "mkdocs.yml", "--site-dir", site],
        cwd=tree,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    done = build(ROOT, site)
    assert done.returncode == 0, done.stdout
    return site


def anchors(page: Path) -> set[str]:
    return set(re.findall(r'id="([^"]+)"', page.read_text()))


def test_every_public_name_is_described(site: Path) -> None:
    """The Python reference has a section for each name of `varserve`, with its docstring."""
    there = {anchor.rpartition(".")[2] for anchor in anchors(site / "python.html")}
    assert {name for name in varserve.__all__ if name != "aio"} - there == set()
    text = (site / "python.html").read_text()
    assert "Some rows, by their indices" in text  # of a method
    shown = re.sub(r"<[^>]+>", "", text)
    assert "Op[" not in shown


def test_what_is_internal_is_not_shown(site: Path) -> None:
    """No private name, no argument of a constructor that only the client calls, no type that only
    the client knows."""
    page = (site / "python.html").read_text()
    (content,) = re.findall(r"<article.*?</article>", page, re.DOTALL)
    shown = html.unescape(re.sub(r"<[^>]+>", "", content))
    assert re.findall(r"(?<![\w-])_[a-z]\w*", shown) == []
    for internal in (
        "D_co",
        "Defaults",
        "[Sync]",
        "ModelCache",
        "ModelHandle",
        "Renewable",
        "_pb2",
    ):
        assert internal not in shown
    errors = [anchor for anchor in anchors(site / "python.html") if "_client.errors." in anchor]
    assert {anchor for anchor in errors if anchor.rpartition(".")[2].startswith("_")} == set()


def test_every_call_and_message_of_the_contract_is_described(site: Path) -> None:
    """The contract reference has each method, message and enumeration of the services' files, and
    the comments of their files."""
    there = anchors(site / "contract.html")
    for service in SERVICES:
        assert {f"{service.name}{each.name}".lower() for each in service.methods} <= there
        file = service.file
        names = [*file.message_types_by_name, *file.enum_types_by_name]
        assert {name.lower() for name in names} <= there
    text = re.sub(r"<[^>]+>", "", (site / "contract.html").read_text())
    assert "if_revision_match" in text
    assert "VARIABLE_NOT_FOUND" in text


def test_nothing_is_fetched_by_a_reader(site: Path) -> None:
    """A page needs nothing from another host: no fonts, scripts or pictures."""
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert fetched == [], page


def test_broken_links_fail(tmp_path: Path) -> None:
    """Links to a page or a heading that is not there fail the build, and each is named."""
    tree = tmp_path / "tree"
    for name in ("docs", "website", "proto", "client/src"):
        shutil.copytree(ROOT / name, tree / name)
    for path in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(path, tree)
    for name in ("deploy", "examples", "demo", "service", "tests", "Dockerfile", "LICENSE"):
        if (ROOT / name).exists():
            (tree / name).symlink_to(ROOT / name)
    for page, link in (
        ("docs/client.md", "[x](nowhere.md) [x](cli.md#no-such-heading)"),
        ("README.md", "[x](docs/nowhere-else.md)"),
    ):
        with (tree / page).open("a") as file:
            file.write(f"\n{link}\n")
    done = build(tree, tmp_path / "site")
    assert done.returncode != 0
    assert "docs/client.md: nowhere.md is not there" in done.stdout
    assert "no-such-heading" in done.stdout
    assert "README.md: docs/nowhere-else.md is not there" in done.stdout
