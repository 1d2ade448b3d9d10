"""Functions that scatter into large tables: a run costs the rows that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from tests.core.shared_log import Replica, SharedLog
from tests.journal.kept import kept
from tests.savedmodel.looking import overloads, variable
from tests.waiting import until
from varserve_service.core.arrays.differences import differing_rows
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.running import EarlierCopy
from varserve_service.core.ports.commits import Changed, Commit
from varserve_service.core.ports.loaded_model import LoadedModel, Operation
from varserve_service.core.ports.messages import Read
from varserve_service.savedmodel.effects import EffectsAnalysis
from varserve_service.savedmodel.row_writes import RowWrites
from varserve_service.savedmodel.runtime import function_definition, is_stateful

Load = Callable[[str], LoadedModel]
ROWS, COLUMNS = 40_000, 64
IDS = np.array([7, 0, 9, 7], np.int64)

KNOWN = {
    "direct": ({"table": [0, 7, 9]}, {"ids": IDS}),
    "called": ({"table": [0, 7, 9]}, {"ids": IDS}),
    "mapped": ({"table": [0, 2, 9]}, {"ids": IDS}),
    "twice": ({"other": [1, 8, 10], "table": [0, 7, 9]}, {"ids": IDS}),
    "spelled": ({"table": [3, 5]}, {"words": np.array([b"b", b"?", b"a"], object)}),
    "nested": ({"table": [0, 7, 9]}, {"ids": IDS}),
}
UNKNOWN = ["chosen", "looped", "whole", "drawn", "moved", "own"]


def run(live: LiveModel, function: str, **inputs: Any) -> Commit:
    """The commit of a run."""
    commits: list[Commit] = []
    given = {name: value.copy() for name, value in inputs.items()}
    live.run(function, given, {}, on_commit=lambda _, commit: commits.append(commit))
    (commit,) = commits
    return commit


def table(live: LiveModel, name: str = "table") -> np.ndarray:
    (entry,) = live.read([Read(name)]).entries
    assert entry.value is not None
    return entry.value.numpy()


def agrees(changed: Changed, before: np.ndarray, after: np.ndarray) -> None:
    """What a commit says of a table is what happened to it."""
    assert isinstance(changed.region, Rows)
    rows = changed.region.indices
    assert changed.previous is not None
    assert np.array_equal(changed.previous.numpy(), before[rows])
    assert np.array_equal(changed.value.numpy(), after[rows])
    assert set(differing_rows(before, after)) <= set(rows)


@pytest.mark.parametrize("function", KNOWN)
def test_rows_that_follow_from_the_inputs(load: Load, function: str) -> None:
    """The commit has these rows alone, and no whole table is copied for them."""
    live = LiveModel(load("row_writers"))
    expected, inputs = KNOWN[function]
    live.assign([Write("table", Operation.SET, np.full((ROWS, COLUMNS), 1, np.float32))])
    for _ in range(2):
        before = {name: table(live, name) for name in expected}
        with mock.patch.object(EarlierCopy, "__init__", side_effect=AssertionError):
            commit = run(live, function, **inputs)
        assert [each.variable.path for each in commit.changed] == list(expected)
        for changed in commit.changed:
            name = changed.variable.path
            assert isinstance(changed.region, Rows)
            assert changed.region.indices.tolist() == expected[name]
            agrees(changed, before[name], table(live, name))
            assert not np.array_equal(before[name], table(live, name))
    live.revert(1)
    assert np.array_equal(table(live), np.full((ROWS, COLUMNS), 1, np.float32))


@pytest.mark.parametrize("function", UNKNOWN)
def test_rows_that_do_not_follow_from_the_inputs(load: Load, function: str) -> None:
    """They are not told beforehand; the commit has those that are other bits after the run."""
    model = load("row_writers")
    (overload,) = overloads(model, function)
    assert overload.writes_rows == ()
    live = LiveModel(model)
    for _ in range(2):
        before = table(live)
        commit = run(live, function, ids=IDS[:2])
        after = table(live)
        changed = next(each for each in commit.changed if each.variable.path == "table")
        agrees(changed, before, after)
        assert isinstance(changed.region, Rows)
        assert np.array_equal(changed.region.indices, differing_rows(before, after))
        assert changed.region.indices.size
    live.revert(0)
    assert not table(live).any()


def test_a_run_that_fails_puts_its_rows_back(load: Load) -> None:
    """Those in range: the operation wrote some of them before it saw one that is not."""
    live = LiveModel(load("row_writers"))
    run(live, "direct", ids=IDS)
    before = table(live)
    for wrong in (ROWS, -1):
        with pytest.raises(RequestError, match="not in"):
            run(live, "direct", ids=np.array([3, wrong], np.int64))
        assert np.array_equal(table(live), before)
    assert live.header.revision == 1


def test_a_run_that_writes_no_rows(load: Load) -> None:
    """It is a commit, of no rows."""
    live = LiveModel(load("row_writers"))
    for function in ("direct", "looped"):
        commit = run(live, function, ids=IDS[:0])
        (changed,) = commit.changed
        agrees(changed, table(live), table(live))
        assert changed.nbytes == 0


def test_a_run_that_writes_most_rows_writes_the_whole(load: Load) -> None:
    """It is told as a whole, where the rows were not known before."""
    live = LiveModel(load("row_writers"))
    commit = run(live, "looped", ids=np.arange(3, dtype=np.int64))
    assert commit.changed[0].region is not None
    with mock.patch("varserve_service.core.model.running._MOST_ROWS", 2 / ROWS):
        commit = run(live, "looped", ids=np.arange(3, dtype=np.int64))
    assert commit.changed[0].region is None
    assert np.array_equal(commit.changed[0].value.numpy(), table(live))
    live.revert(1)
    assert table(live)[:4, 0].tolist() == [1, 1, 1, 0]


OPERATIONS = [
    name
    for name in sorted(dir(tf.raw_ops))
    if name.startswith(("ResourceScatter", "ResourceSparseApply"))
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_writes_rows_writes_no_others(name: str) -> None:
    """Each operation of TensorFlow that is taken for one changes the rows of its indices alone."""
    definition = op_def_registry.get(name)
    nested = name.startswith("ResourceScatterNd")
    variables: dict[str, tf.Variable] = {}
    inputs: dict[str, tf.Tensor] = {}
    for argument in definition.input_arg:
        if argument.type == tf.resource.as_datatype_enum:
            variables[argument.name] = tf.Variable(tf.fill([12, 3], 0.5))
        elif argument.name == "indices":
            inputs[argument.name] = tf.constant([[5], [2], [9]] if nested else [5, 2, 9])
        elif argument.name in ("updates", "grad"):
            inputs[argument.name] = tf.constant([[2.0, -2.0, 2.0]] * 3)
        elif argument.type == tf.int64.as_datatype_enum:
            inputs[argument.name] = tf.constant(1, tf.int64)
        else:
            inputs[argument.name] = tf.constant(-0.5 if argument.name == "lr_power" else 0.25)

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec(each.shape, each.dtype) for each in inputs.values()],
    )
    def apply(*given: Any) -> None:
        handles = {key: variable.handle for key, variable in variables.items()}
        getattr(tf.raw_ops, name)(**handles, **dict(zip(inputs, given, strict=True)))

    concrete = apply.get_concrete_function()
    definition = concrete.inference_fn.definition
    effects = EffectsAnalysis(function_definition, is_stateful).of_definition(definition)
    captures = range(len(inputs), len(inputs) + len(variables))
    paths = {number: f"v{number}" for number in captures}
    rows = RowWrites.of(definition.signature.name, effects, paths)
    assert rows is not None
    assert set(rows.paths) == set(paths.values())
    found = rows.find([*inputs.values(), *concrete.captured_inputs])
    assert all(each.tolist() == [2, 5, 9] for each in found.values())
    before = [each.numpy() for each in variables.values()]
    concrete(*inputs.values())
    after = [each.numpy() for each in variables.values()]
    changed = [differing_rows(old, new) for old, new in zip(before, after, strict=True)]
    assert all(set(each) <= {2, 5, 9} for each in changed)
    assert any(each.size for each in changed)


def test_what_another_wrote_before_the_run_is_replaced(load: Load) -> None:
    """Rows are taken as they are when the run begins, whoever wrote them last."""
    live = LiveModel(load("row_writers"))
    row = np.full((1, COLUMNS), 5, np.float32)
    live.assign([Write("table", Operation.SET, row, Rows(np.array([7])))])
    (changed,) = run(live, "direct", ids=IDS).changed
    assert changed.previous is not None
    assert changed.previous.numpy()[:, 0].tolist() == [0, 5, 0]
    assert variable(live._loaded, "table").writes_in_place  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", ["direct", "looped"])
def test_a_run_adds_its_rows_to_the_state(load: Load, tmp_path: Path, function: str) -> None:
    """The journal grows by the rows, of 10 MiB, and a restart finds the table as it was."""
    with kept(tmp_path, lambda: load("row_writers")) as (live, journal):  # type: ignore[arg-type, return-value]
        before = journal.nbytes
        for _ in range(3):
            run(live, function, ids=IDS[1:])
        assert journal.nbytes - before < 100_000
        expected = table(live)
        assert expected[[0, 7, 9], 0].tolist() == [3, 3, 3]
    with kept(tmp_path, lambda: load("row_writers")) as (live, _):  # type: ignore[arg-type, return-value]
        assert np.array_equal(table(live), expected)
        live.revert(1)
        assert table(live)[[0, 7, 9], 0].tolist() == [1, 1, 1]


def test_a_restart_swaps_whole_tables_in(load: Load, tmp_path: Path) -> None:
    """Wholes and rows come back as they were, with their history; no whole is read or written."""

    def whole(number: float) -> np.ndarray:
        return np.full((ROWS, COLUMNS), number, np.float32)

    with kept(tmp_path, lambda: load("row_writers")) as (live, _):  # type: ignore[arg-type, return-value]
        for number in (1, 2):
            live.assign([Write("table", Operation.SET, whole(number))])
            run(live, "direct", ids=IDS[1:])
    model = load("row_writers")
    kind = type(variable(model, "table"))
    read, write = kind.read, kind.write

    def reads_no_whole(self: Any, region: Any = None) -> Any:
        assert region is not None or not self.writes_in_place
        return read(self, region)

    def writes_no_whole(self: Any, value: Any, region: Any = None) -> None:
        assert region is not None or not self.writes_in_place
        write(self, value, region)

    with (
        mock.patch.object(kind, "read", reads_no_whole),
        mock.patch.object(kind, "write", writes_no_whole),
        kept(tmp_path, lambda: model) as (live, _),  # type: ignore[arg-type, return-value]
    ):
        assert live.header.revision == 4
        for revision, (seven, eight) in enumerate([(0, 0), (1, 1), (2, 1), (2, 2), (3, 2)]):
            (entry,) = live.timeline.read([Read("table")], revision).entries
            assert entry.value is not None
            assert entry.value.numpy()[[7, 8], 0].tolist() == [seven, eight]


def test_replicas_swap_whole_tables_in(load: Load) -> None:
    """What one assigns or runs, the other has; it neither reads nor writes a whole table."""
    log = SharedLog()
    one, two = (
        LiveModel(load("row_writers"), journal=Replica(log, follows=True))  # type: ignore[arg-type]
        for _ in range(2)
    )
    kind = type(variable(two._loaded, "table"))  # type: ignore[attr-defined]
    write = kind.write

    def writes_no_whole(self: Any, value: Any, region: Any = None) -> None:
        assert region is not None or not self.writes_in_place
        write(self, value, region)

    with (
        mock.patch.object(kind, "write", writes_no_whole),
        mock.patch.object(Replica, "max_commit_bytes", 2**30),
    ):
        one.assign([Write("table", Operation.SET, np.full((ROWS, COLUMNS), 1, np.float32))])
        run(one, "direct", ids=IDS[1:])
        until(lambda: two.header == one.header)
        assert np.array_equal(table(two), table(one))
        assert table(two)[[7, 8], 0].tolist() == [2, 1]
        two.revert(0)
        until(lambda: one.header.revision == 3)
    assert not table(one).any()
    one.close()
    two.close()
