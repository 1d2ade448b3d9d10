"""The examples, run as they stand against the demo's model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import varserve
from tests.serving import ServiceProcess
from tests.waiting import killed_after

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KERNEL = "conv2d_1/kernel"


@pytest.fixture(autouse=True)
def environment(demo_service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARSERVE_SERVER", demo_service.address)
    monkeypatch.setenv("VARSERVE_CONFIG", os.devnull)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=120, check=True).stdout


def outputs(cell: Any) -> dict[str, str]:
    """What a cell shows, by media type; the last of each."""
    return {kind: text for each in cell.outputs for kind, text in each.get("data", {}).items()}


def test_the_notebook_runs_and_shows(demo_service: ServiceProcess) -> None:
    """Every cell of the notebook runs in a real kernel; models, variables, functions, outputs,
    commits and the history are shown as HTML, with the histogram as a picture."""
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs")] == [], (
        "it is kept without outputs"
    )
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = {
        cell.source.splitlines()[-1]: outputs(cell)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "73 variables" in shown["model"]["text/html"]
    assert "<svg" in shown["kernel"]["text/html"]
    assert "elements from" in shown["kernel"]["text/html"]
    assert shown["kernel.plot(bins=40);"]["image/png"]
    assert "input_2" in shown["transcribe"]["text/html"]
    assert "outputs of basic_pitch" in shown["before"]["text/html"]
    assert "revision" in shown["commit"]["text/html"]
    (history,) = (each for line, each in shown.items() if "list_commits" in line)
    assert "twice as loud, from a notebook" in history["text/html"]
    with varserve.connect(demo_service.address) as client:
        kernel = client.model("basic_pitch").variables[KERNEL]
        released = client.model("basic_pitch").variables[KERNEL].numpy(at_revision=0)
        np.testing.assert_array_equal(kernel.numpy(), released)


def test_no_update_is_lost() -> None:
    """Four writers add 1 five times each, and 20 were added."""
    assert run("conditional_update.py") == "4 writers, 5 updates each: 20 were added\n"


def test_a_change_that_ends_by_itself() -> None:
    """What would be useless is found without a commit, and a lease puts everything back."""
    told = run("guarded_change.py").splitlines()
    assert told[0] == "with NaN the answers would be useless: not committed"
    assert re.fullmatch(r"while the lease lasts: revision \d+", told[1])
    assert told[2] == "restored: True"


def test_changes_are_followed(demo_service: ServiceProcess) -> None:
    """A commit of another program is told, with who, what and why."""
    command = [sys.executable, EXAMPLES / "follow_changes.py", "1"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following,
        killed_after(following, 120),
        varserve.connect(demo_service.address) as client,
    ):
        assert following.stdout is not None
        assert following.stdout.readline() == "watching basic_pitch\n"
        bias = client.model("basic_pitch").variables["conv2d_1/bias"]
        commit = bias.assign(bias.numpy(), message="nothing new")
        told = following.stdout.read()
        assert following.wait(60) == 0
    assert told == f"revision {commit.revision}: conv2d_1/bias (nothing new)\n"


def test_every_example_is_told_of() -> None:
    """The table of examples has each of them, and no other."""
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text()))
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert listed == there
