"""The README and the pages of the documentation, taken at their word."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import varserve
from tests.packaging.fresh_debian import README_COMMANDS
from tests.serving import ServiceProcess
from varserve_service.rpc.methods import ADMIN_SERVICE, MODEL_SERVICE

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
SERVICES = (MODEL_SERVICE, ADMIN_SERVICE)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SNIPPETS = [
    (name, snippet)
    for name in ("README.md", "docs/client.md")
    for snippet in re.findall(
        r"^```python\n(.*?)^```$", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
    )
]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs_as_it_stands(
    number: int,
    demo_service: ServiceProcess,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Every Python snippet runs, unchanged, against the service that it names."""
    monkeypatch.chdir(tmp_path)
    for module in (varserve, varserve.aio):
        connect = module.connect

        def to_the_demo(target: str, connect: object = connect, **options: object) -> object:
            assert target == "localhost:8500"
            return connect(demo_service.address, **options)  # type: ignore[operator]

        monkeypatch.setattr(module, "connect", to_the_demo)
    page, snippet = SNIPPETS[number]
    exec(compile(snippet, f"{page}, snippet {number + 1}", "exec"), {})


COMMANDS = re.findall(r"^\.venv/bin/varserve (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in COMMANDS if not line.startswith("web")])
def test_a_command_of_the_readme_works(line: str, demo_service: ServiceProcess) -> None:
    """Every command of the README ends well on the service that it names."""
    arguments = shlex.split(line, comments=True)
    done = subprocess.run(
        [sys.executable, "-m", "varserve", *arguments],
        cwd=ROOT,
        env=os.environ | {"VARSERVE_SERVER": demo_service.address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # Other tests of this run may have left a difference, which `diff` tells by its exit code.
    assert done.returncode in ((0, 1) if arguments[0] == "diff" else (0,)), done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/watching.md"])
def test_every_test_that_is_named_is_there(page: str) -> None:
    """A promise names tests that exist."""
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / page).read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made for links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    """A link to a file, a folder or a heading of this project has its target."""
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_leads_to_every_page() -> None:
    """Each page of docs/ is in the README's table."""
    readme = (ROOT / "README.md").read_text()
    assert [n for n in NAMES if re.fullmatch(r"docs/[\w-]+\.md", n) and n not in readme] == []


def test_the_readme_has_the_two_commands() -> None:
    """What `make test-fresh` runs is what the README says."""
    readme = (ROOT / "README.md").read_text()
    assert [command for command in README_COMMANDS if command not in readme] == []


def test_every_target_that_is_named_is_there() -> None:
    """A `make` target in any page is one of the Makefile's."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (name, target)
        for name, page in zip(NAMES, PAGES, strict=True)
        for target in re.findall(r"(?:^|`|    )make ([a-z]+(?:-[a-z]+)*)", page.read_text(), re.M)
    }
    assert ("README.md", "demo") in named
    assert {(name, target) for name, target in named if target not in targets} == set()


def test_every_module_that_is_named_is_there() -> None:
    """A file or folder of the code that ARCHITECTURE.md or CONTRIBUTING.md names exists."""
    roots = [ROOT, ROOT / "service/src/varserve_service", ROOT / "client/src/varserve"]
    roots += [root / room for root in roots[1:] for room in ("core", "rpc", "_client")]
    files = {path.name for root in roots[1:3] for path in root.rglob("*.py")}
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        named = re.findall(r"`([\w./]+(?:\.py|/))`", (ROOT / page).read_text())
        assert named
        missing = [n for n in named if not any((root / n).exists() for root in roots)]
        assert [name for name in missing if name not in files] == []


def test_the_page_of_the_contract_lists_every_call() -> None:
    """docs/api.md has a row for each method of the services, and no other."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs/api.md").read_text(), re.M)
    listed = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(listed) == sorted(
        method.name for service in SERVICES for method in service.methods
    )
