"""Read and write sets of functions, as they are found in the graphs of real SavedModels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from varserve_service.core.ports.loaded_model import LoadedModel

from .looking import overloads, variable

Load = Callable[[str], LoadedModel]


@pytest.mark.parametrize(
    ("model", "function", "reads", "writes"),
    [
        ("counter", "get", ["count"], []),
        ("counter", "add", ["count"], ["count"]),
        ("counter", "total", ["v"], []),
        ("counter", "fail", ["count"], ["count", "v"]),
        ("branches", "cond", ["a", "b"], ["a"]),
        ("branches", "loop", ["a", "b"], ["b"]),
        ("branches", "case", ["a", "b", "c"], ["c"]),
        ("branches", "inner", ["c"], ["c"]),
        ("branches", "outer", ["a", "c"], ["c"]),
        ("branches", "mapped", ["a"], []),
        ("embedding", "look", ["dense", "table"], []),
        ("embedding", "set_rows", [], ["table"]),
        ("embedding", "draw", [], ["random/_state_var"]),
        ("partial_shapes", "grow", ["rows"], ["rows"]),
        ("hash_table", "look", ["bias"], []),
        ("datasets", "mapped", ["w"], []),
        ("datasets", "counted", ["w"], ["n"]),
        ("datasets", "looped", ["w"], []),
        ("tf1", "serving_default", ["scope/w"], []),
        ("tf1", "count", ["step"], ["step"]),
    ],
)
def test_reads_and_writes(
    load: Load, model: str, function: str, reads: list[str], writes: list[str]
) -> None:
    """A function's sets name what it reads and writes, in branches, loops and callees too."""
    (overload,) = overloads(load(model), function)
    assert (list(overload.reads), list(overload.writes)) == (reads, writes)


@pytest.mark.parametrize(
    ("model", "function", "changes"),
    [
        ("hash_table", "look", False),
        ("hash_table", "put", True),
        ("datasets", "mapped", False),
        ("datasets", "looped", False),
        ("branches", "loop", False),
        ("tf1_table", "serving_default", False),
        ("files", "save", True),
        ("files", "restore", True),
        ("files", "listed", True),
        ("files", "cached", True),
        ("files", "plain", False),
    ],
)
def test_other_state(load: Load, model: str, function: str, changes: bool) -> None:
    """What inserts into a table or touches a file changes other state; what looks up does not."""
    (overload,) = overloads(load(model), function)
    assert overload.changes_other_state is changes


def test_what_takes_a_dataset_is_told(load: Load) -> None:
    """A function of a dataset is left out, with the reason."""
    model = load("datasets")
    (omission,) = model.omissions
    assert (omission.path, "variant" in omission.reason) == ("given", True)


def test_only_sparse_variables_are_written_in_place(load: Load) -> None:
    """A variable that the model's functions gather or scatter is written in place, no other one."""
    model = load("embedding")
    assert variable(model, "table").writes_in_place
    assert not variable(model, "dense").writes_in_place
