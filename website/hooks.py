"""Makes the site of what is in the repository: pages at its root, both references, and links.

mkdocs calls these. A link to a page becomes one to its place in the site; a link to another file of
the repository becomes its name, since the site has no address of a repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from website import contract, reference  # noqa: E402

AT_ROOT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the root, and where they are in the site."""

log = get_plugin_logger("website")

_LINK = re.compile(r"(!?\[(?P<text>[^\]]*)\])\((?P<target>[^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Name every decision in the navigation."""
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("*.md"))
    for section in config.nav:
        for pages in section.values():
            for page in pages if isinstance(pages, list) else ():
                if "Decisions" in page:
                    page["Decisions"] = [f"decisions/{name}" for name in decisions]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    made = {
        "contract.md": contract.reference(ROOT / "proto"),
        "python.md": reference.reference(ROOT / "client/src/varserve"),
    }
    for source, name in AT_ROOT.items():
        made[name] = (ROOT / source).read_text()
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead where the site has their targets."""
    source = {name: path for path, name in AT_ROOT.items()}.get(
        page.file.src_uri, f"docs/{page.file.src_uri}"
    )
    folder = source.rpartition("/")[0]

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"\w+:|#", target):
            return match[0]
        path, hash_, anchor = target.partition("#")
        path = normpath(f"{folder}/{path}" if folder else path)
        place = AT_ROOT.get(path, path.removeprefix("docs/"))
        if path not in AT_ROOT and not (path.startswith("docs/") and place in files.src_uris):
            if not (ROOT / path).exists():
                # With `strict` it fails the build, after all of them were found.
                log.warning("%s: %s is not there", source, target)
            text = match["text"]
            return text if "`" in text else f"`{path}`"
        here = page.file.src_uri.rpartition("/")[0] or "."
        return f"{match[1]}({relpath(place, here)}{hash_}{anchor})"

    return _LINK.sub(replaced, markdown)
