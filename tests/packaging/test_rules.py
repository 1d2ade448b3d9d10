"""The rules for Prometheus, as its own promtool judges them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT, program, run

RULES = ROOT / "deploy" / "monitoring" / "alerts.yaml"
TESTS = Path(__file__).parent / "data" / "alerts-test.yaml"

PROMTOOL = program("promtool")

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing (Debian's package prometheus)"
)


def promtool(*arguments: str | Path, cwd: Path, status: int = 0) -> str:
    assert PROMTOOL
    return run([PROMTOOL, *arguments], cwd=cwd, status=status)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    """They are rules for Prometheus, and one that is none would be refused."""
    said = promtool("check", "rules", RULES, cwd=tmp_path)
    assert "SUCCESS" in said
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RULES.read_text().replace("absent(", "gone("))
    assert "gone" in promtool("check", "rules", wrong, cwd=tmp_path, status=1)


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """For a service that is gone, a certificate, a refused reload and failures; else not."""
    shutil.copy(TESTS, tmp_path / "test.yaml")
    shutil.copy(RULES, tmp_path / "alerts.yaml")
    assert "SUCCESS" in promtool("test", "rules", "test.yaml", cwd=tmp_path)
    later = RULES.read_text().replace("< 604800", "< 604")
    (tmp_path / "alerts.yaml").write_text(later)
    assert "FAILED" in promtool("test", "rules", "test.yaml", cwd=tmp_path, status=1)
