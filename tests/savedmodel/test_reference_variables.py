"""Reference variables of TensorFlow 1 are variables like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_models
from tests.savedmodel.looking import function, names, overloads, run, variable
from varserve_service import savedmodel
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel, Operation
from varserve_service.core.ports.messages import Read
from varserve_service.savedmodel import Placement

Load = Callable[[str], LoadedModel]
VARIABLES = ["old/count", "old/m", "old/table/part_0", "old/table/part_1", "old/w"]
X = np.array([1, 2], np.float32)
IDS = np.array([1, 1, 0], np.int32)
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("itself", {}),
    ("look", {"ids": np.array([0, 3], np.int32)}),
    ("branch", {"x": X}),
    ("branch", {"x": -X}),
    ("loop", {"x": X}),
    ("rows", {"ids": IDS}),
    ("train", {"x": X}),
    ("counted", {}),
    ("counted", {}),
    ("train", {"x": X}),
    ("itself", {}),
    ("odd", {"x": X}),
]


def of_tensorflow(folder: Path) -> list[Any]:
    """What a session of TensorFlow 1 gives for the calls, one after the other."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        graph = v1.saved_model.load(session, ["serve"], str(folder))
        found = []
        for name, inputs in CALLS:
            signature = graph.signature_def[name]
            feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
            found.append(session.run(signature.outputs["y"].name, feeds))
    return found


def test_a_graph_means_what_it_meant(load: Load, models_root: Path) -> None:
    """Conditions, loops, rows, training and results of assignments, as in a session."""
    expected = of_tensorflow(saved_models.build("tf1_references", models_root))
    model = load("tf1_references")
    found = [run(model, name, **inputs)["y"] for name, inputs in CALLS]
    for (name, _), ours, theirs in zip(CALLS, found, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.tolist() == theirs.tolist(), name


def test_they_are_listed_with_what_functions_do_to_them(load: Load) -> None:
    """Those of a partitioned one too; one whose operation has no counterpart is told."""
    model = load("tf1_references")
    assert sorted(names(model)) == VARIABLES
    (omission,) = model.omissions
    assert omission.path == "old/odd"
    assert "reference variable" in omission.reason
    effects = {
        name: (overload.reads, overload.writes)
        for name in ("look", "loop", "train", "counted")
        for overload in overloads(model, name)
    }
    assert effects == {
        "look": (("old/table/part_0", "old/table/part_1"), ()),
        "loop": (("old/w",), ()),
        "train": (("old/w",), ("old/m", "old/w")),
        "counted": (("old/count",), ("old/count",)),
    }
    assert not any(each.changes_other_state for each in function(model, "train").spec.overloads)


def test_a_write_changes_what_functions_give(load: Load) -> None:
    """Whole and in rows; a run's writes are a commit; and all of it can be taken back."""
    live = LiveModel(load("tf1_references"))

    def give(name: str, **inputs: Any) -> Any:
        return live.run(name, inputs, {}).values["y"].numpy().tolist()

    live.assign([Write("old/w", Operation.SET, np.array([4, 6], np.float32))])
    assert give("loop", x=np.zeros(1, np.float32)) == 30
    row = np.full((1, 2), 7, np.float32)
    live.assign([Write("old/table/part_1", Operation.SET, row, Rows(np.array([1])))])
    assert give("look", ids=np.array([3, 2], np.int32)) == [[7, 7], [4, 5]]
    assert give("rows", ids=IDS) == [9, 8]
    assert live.header.revision == 3
    (entry,) = live.read([Read("old/w")]).entries
    assert entry.value is not None
    assert entry.value.numpy().tolist() == [9, 8]
    live.revert(0)
    assert give("itself") == [2, 3]
    assert give("look", ids=np.array([3], np.int32)) == [[6, 7]]


@pytest.mark.parametrize("name", ["tf1_references", "tf1_reference"])
def test_what_is_saved_is_loaded_again(
    name: str, load: Load, models_root: Path, placement: Placement, tmp_path: Path
) -> None:
    """With the values of now, under the same names."""
    source = saved_models.build(name, models_root)
    live = LiveModel(savedmodel.load(name, source, placement=placement))
    values = {}
    for number, spec in enumerate(live.specs):
        assert spec.shape is not None
        value = np.full(spec.shape, number + 10, spec.dtype)
        live.assign([Write(spec.path, Operation.SET, value.copy())])
        values[spec.path] = value
    entries = live.read([Read(spec.path) for spec in live.specs]).entries
    savedmodel.save_saved_model(
        tmp_path,
        {spec: entry.value for spec, entry in zip(live.specs, entries, strict=True) if entry.value},
        live.header,
        source,
        live.fingerprint,
    )
    again = savedmodel.load(name, tmp_path, placement=placement)
    assert sorted(names(again)) == sorted(values)
    for path, value in values.items():
        assert variable(again, path).read().numpy().tolist() == value.tolist()
