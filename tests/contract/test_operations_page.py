"""The page for operators tells of every setting and every alert there is, and of no others."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from varserve_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"


def table() -> str:
    """The table of the settings, as the page has it."""
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        empty = default is None or default in ({}, (), "")
        shown = (
            "" if empty else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        if isinstance(default, tuple) and default:
            shown = f"`{', '.join(map(str, default))}`"
        rows.append(f"| `{name}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_every_setting_is_in_the_table() -> None:
    """Names, defaults and descriptions are those of the code; the difference is what to write."""
    found = re.search(r"\| setting \|.*?(?=\n\n)", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found[0].splitlines() == table().splitlines(), f"expected in {PAGE.name}:\n{table()}"


def test_every_alert_has_its_section() -> None:
    """Where an alert points to, there is something to read."""
    alerts = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    names = {rule["alert"] for rule in rules if "alert" in rule}
    sections = re.findall(r"^### (Varserve\w+)\n\n(\S.*)", PAGE.read_text(), re.MULTILINE)
    assert {name for name, _ in sections} == names
    assert all(len(text) > 40 for _, text in sections)
