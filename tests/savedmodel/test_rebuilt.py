"""Probes that come again: given by a rebuilt function, to the same bits, and freed in the end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import InspectionLimits, SummarySpec
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel import graph_functions
from varserve_service.savedmodel.inspection import SavedInspector, rebuilt

from .looking_inside import catalogue, inspector, look, outputs, probes

Load = Callable[[str], LoadedModel]

ONES = {"x": np.ones((2, 2), np.float32)}
FIRST, SECOND = "StatefulPartitionedCall/layer/relu", "StatefulPartitionedCall_1/layer/relu"


def kept(model: LoadedModel, name: str) -> int:
    """How many rebuilt functions there are."""
    found = cast(SavedInspector, inspector(model, name))._insides.rebuilt._kept
    return sum(each is not None for each in found.values())


def test_the_third_time_the_function_is_rebuilt(load: Load) -> None:
    """The same probes come from the interpreter twice and then from a rebuilt function, alike."""
    model = load("inner")
    asked = ["x", FIRST, SECOND, "sum_of_both"]
    found = [look(model, "twice", ONES, probes=asked) for _ in range(5)]
    assert kept(model, "twice") == 1
    assert all(probes(each) == probes(found[0]) for each in found)
    assert all(outputs(each) == outputs(found[0]) for each in found)
    assert [probe.name for probe in found[-1].probes] == asked


def test_a_rebuilt_function_takes_assumed_values_and_summaries(load: Load) -> None:
    """What is assumed, summarized and limited holds for it as for the interpreter."""
    model = load("inner")
    for _ in range(4):
        seen = look(model, "twice", ONES, probes=[FIRST], assume={"w": np.zeros((2, 3))})
        assert probes(seen)[FIRST] == [((), [[1, 2, 3], [1, 2, 3]])]
    assert kept(model, "twice") == 1
    summary = look(model, "twice", ONES, probes=[FIRST], summarize=SummarySpec()).probes[0].summary
    assert summary is not None
    assert summary.moments.reduced.count == 6
    with pytest.raises(RequestError) as failed:
        look(model, "twice", ONES, probes=[FIRST], limits=InspectionLimits(nbytes=1))
    assert failed.value.reason is Reason.INSPECTION_TOO_LARGE


def test_what_cannot_be_rebuilt_goes_on_as_before(load: Load) -> None:
    """Probes in loops and branches, and functions that print, stay with the interpreter."""
    model = load("inner")
    for _ in range(5):
        assert len(look(model, "loop", {"n": np.int32(3)}, probes=["turns/square"]).messages) == 3
        look(model, "scanned", {"x": np.ones((2, 3), np.float32)}, probes=["scan/while/*"])
    assert kept(model, "loop") == kept(model, "scanned") == 0


def test_a_failing_check_is_told_step_by_step(load: Load) -> None:
    """A rebuilt function that fails is run once more, to tell the assertion and its parts."""
    model = load("inner")
    good, bad = np.array([1, 2], np.float32), np.array([0, 2], np.float32)
    for _ in range(3):
        look(model, "checked", {"x": good}, probes=["Log"])
    with pytest.raises(RequestError, match=r"x must be positive.*\[0\. 2\.\]"):
        look(model, "checked", {"x": bad}, probes=["Log"])


def test_many_sets_of_probes_are_freed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sets of probes come again, few functions stay, and memory is given back."""
    trims: list[int] = []
    monkeypatch.setattr(rebuilt._trim, "ask", lambda: trims.append(1))
    model = load("inner")
    names = [t.name for t in catalogue(model, "twice").tensors if t.op != "Const"]
    sets = [names[i : i + 3] for i in range(len(names) - 2)]
    gc.collect()
    before = graph_functions()
    for asked in sets:
        for _ in range(3):
            look(model, "twice", ONES, probes=asked)
    gc.collect()
    # Each version is of the signature, of the function in it, and of the layer that it calls.
    assert graph_functions() - before <= 8 * 4
    assert kept(model, "twice") == 8
    assert len(trims) == len(sets)
