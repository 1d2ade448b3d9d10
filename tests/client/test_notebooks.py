"""Handles and values in a notebook: what they show, and what TAB completes."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import varserve
from tests.client.served import fake_model
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel

EVIL = "<script>alert(1)</script>&\"'"


@pytest.fixture
def evil() -> Iterator[varserve.Client]:
    """Every name that a service chooses could drive a page."""
    model = FakeModel([FakeVariable(EVIL, np.arange(6, dtype=np.float32))])
    with serve_here(LiveModel(model)) as address, varserve.connect(address) as client:
        yield client


@pytest.fixture
def model() -> Iterator[varserve.Model]:
    with serve_here(LiveModel(fake_model())) as address, varserve.connect(address) as client:
        yield client.model("fake")


def parsed(shown: Any) -> ElementTree.Element:
    """What a notebook gets, as the well-formed tree that it must be."""
    html = shown._repr_html_()
    return ElementTree.fromstring(html.replace("<br>", "<br/>"))


def text(shown: Any) -> str:
    return " ".join("".join(parsed(shown).itertext()).split())


def test_everything_is_shown(model: varserve.Model) -> None:
    """Models, variables, functions, snapshots, outputs, commits and summaries are well-formed
    HTML, which says what they are."""
    weights = model.variables["weights"]
    commit = weights.assign(weights.numpy(), message="the same again")
    assert "weights" in text(model)
    assert "weights" in text(model.variables)
    assert "divide" in text(model.functions)
    assert "divide" in text(model.functions["divide"])
    assert f"revision {commit.revision}" in text(commit)
    assert f"at revision {commit.revision}" in text(model.read(["weights"]))
    assert "the same again" in text(model.commits())
    assert "min" in text(weights.summary(bins=8))
    shown = parsed(weights)
    (picture,) = shown.iter("svg")
    assert re.fullmatch(r"\d+ elements from \S+ to \S+", picture.attrib["aria-label"])
    counted = int(picture.attrib["aria-label"].split()[0])
    assert counted == weights.numpy().size


def test_names_are_text(evil: varserve.Client) -> None:
    """Names and messages that look like markup are shown as they are."""
    model = evil.model("fake")
    variable = model.variables[EVIL]
    variable.assign(variable.numpy(), message=EVIL)
    for shown in (
        model,
        model.variables,
        variable,
        model.read([EVIL]),
        variable.summary(bins=4),
        evil.list_commits("fake"),
    ):
        assert "<script" not in shown._repr_html_()
        assert EVIL in text(shown)


def test_a_service_that_is_gone_is_said() -> None:
    """Where the service does not answer, its reason is there in place of the histogram."""
    with serve_here(LiveModel(fake_model())) as address:
        client = varserve.connect(address, timeout=20, retries=0)
        weights = client.model("fake").variables["weights"]
    with client:
        shown = text(weights)
    assert "weights" in shown
    assert address in shown


async def test_nothing_blocks_an_event_loop() -> None:
    """A handle of the asyncio client asks nobody when it is shown."""
    with serve_here(LiveModel(fake_model())) as address:
        async with varserve.aio.connect(address) as client:
            model = await client.model("fake")
            assert "await variable.summary" in text(model.variables["weights"])
            axes = await model.variables["weights"].plot(bins=4)
            assert "weights" in axes.get_title()


def test_plot(model: varserve.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The histogram is drawn on axes; without matplotlib an error says what to install."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    weights = model.variables["weights"]
    axes = weights.plot(bins=5)
    assert len(axes.patches) == 1
    assert weights[0].plot(ax=axes) is axes
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="pip install matplotlib"):
        weights.plot()


def test_ipython_completes(model: varserve.Model) -> None:
    """IPython's own completer offers names of variables, functions, inputs and attributes."""
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.push({"model": model, "snapshot": model.read(["weights"]), "varserve": varserve})

    def completed(line: str) -> set[str]:
        with provisionalcompleter():
            return {each.text for each in shell.Completer.completions(line, len(line))}

    assert {"weights"} <= completed('model.variables["w')
    assert {"divide", "double"} <= completed('model.functions["d')
    assert {"weights"} <= completed('snapshot["')
    assert any("connect_admin" in each for each in completed("varserve.conn"))
    assert any("variables" in each for each in completed("model.va"))
