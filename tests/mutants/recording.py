"""A plugin of pytest: writes how long each test that passed took to the file RECORDED_TIMES."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_seconds: dict[str, float] = {}
_unusable: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if not report.passed:
        _unusable.add(report.nodeid)


def pytest_sessionfinish() -> None:
    passed = {node: spent for node, spent in _seconds.items() if node not in _unusable}
    Path(os.environ["RECORDED_TIMES"]).write_text(json.dumps(passed))
