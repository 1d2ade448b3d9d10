"""Handles that outlive the state that they were made of: restarts, other versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

from .test_watches import serve_again

Exchange = Callable[[FakeModel], None]


def model_of(rows: int, *names: str) -> FakeModel:
    spec = TensorSpec("float32", (rows,))
    return FakeModel(
        [FakeVariable(name, np.zeros((rows, 2), np.float32)) for name in names],
        [FakeFunction(f"f{rows}", lambda x: {"y": x}, inputs={"x": spec}, outputs={"y": spec})],
    )


@pytest.fixture
def served() -> Iterator[tuple[varserve.Client, Exchange]]:
    """A client of a model of three rows, and what puts another model in its place."""
    with ExitStack() as stack, ExitStack() as server:
        address = server.enter_context(serve_here(LiveModel(model_of(3, "table", "other", "gone"))))

        def exchange(model: FakeModel) -> None:
            server.close()
            server.enter_context(serve_again(int(address.rsplit(":", 1)[1]), LiveModel(model)))

        yield stack.enter_context(varserve.connect(address)), exchange


def test_what_another_version_has_not_is_not_found(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """A handle of what is gone raises what a look-up does, whatever is asked of it."""
    client, exchange = served
    model = client.model("fake")
    gone, function = model.variables["gone"], model.functions["f3"]
    part, change = gone[0], model.transaction()
    change.assign("gone", gone.numpy())
    exchange(model_of(3, "table", "other"))
    model.variables["other"].numpy()
    with pytest.raises(varserve.VariableNotFound, match="has no variable 'gone'"):
        gone.numpy()
    for ask in (
        lambda: gone.shape,
        lambda: gone.assign(np.zeros((3, 2), np.float32)),
        lambda: gone.update(lambda value: value),
        lambda: gone.summary(),
        part.numpy,
        lambda: part.assign_add([1, 2]),
        lambda: change.__exit__(None, None, None),
    ):
        with pytest.raises(varserve.VariableNotFound):
            ask()
    exchange(model_of(4, "table"))
    model.read(["table"])
    with pytest.raises(varserve.FunctionNotFound):
        function(x=[1, 2, 3])


def test_shapes_are_those_of_the_version_that_answers(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """Values of a new shape are read, written and updated; an index counts from the new end."""
    client, exchange = served
    model = client.model("fake")
    table = model.variables["table"]
    last, out = table[-1], np.empty((3, 2), np.float32)
    exchange(model_of(5, "table", "other"))
    with pytest.raises(varserve.ShapeMismatch, match="now"):
        table.numpy(out=out)
    assert table.numpy().shape == table.shape == (5, 2)
    exchange(model_of(4, "table", "other"))
    model.variables["other"].numpy()
    last.assign([7, 7])
    assert table.numpy().tolist() == [[0, 0]] * 3 + [[7, 7]]
    exchange(model_of(2, "table", "other"))
    model.variables["other"].numpy()
    table.update(lambda value: value + 1)
    assert last.numpy().tolist() == [1, 1]
    exchange(model_of(3, "table", "other"))
    model.variables["other"].numpy()
    assert model.update(["table"], lambda found: {"table": found["table"] + 1}) is not None
    assert table.sparse_read([-1, 2]).tolist() == [[1, 1], [1, 1]]


def test_an_index_counts_from_the_end_that_is_there(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """Of a version that the client has not heard of yet, too: no other row is read or written."""
    client, exchange = served
    table = client.model("fake").variables["table"]
    rows = iter((5, 2, 4, 6, 7))

    def another() -> int:
        exchange(model_of(size := next(rows), "table"))
        return size

    size = another()
    table[-1].assign([7, 7])
    assert table.numpy()[:, 0].tolist() == [0] * (size - 1) + [7]
    another()
    table[-2:].assign_add(np.ones((2, 2), np.float32))
    assert table.numpy().tolist() == [[1, 1]] * 2
    size = another()
    table.scatter_update([-1], [[7, 7]])
    assert table.numpy()[:, 0].tolist() == [0] * (size - 1) + [7]
    last = table[1:]
    size = another()
    assert last.numpy().shape == (size - 1, 2)
    size = another()
    table[-1].update(lambda value: value + 3)
    assert table.numpy()[:, 0].tolist() == [0] * (size - 1) + [3]


def test_revisions_of_two_lives_are_not_mixed(served: tuple[varserve.Client, Exchange]) -> None:
    """A revision that was learnt before is no condition on what came after; one learnt since is."""
    client, exchange = served
    model = client.model("fake")
    table, other = model.variables["table"], model.variables["other"]
    for _ in range(3):
        other.assign_add(np.ones((3, 2), np.float32))
    value = table.numpy()
    exchange(model_of(3, "table", "other"))
    other.numpy()
    assert table.revision == 0
    # Both lives have `table` at revision 0, and `value` is of the first.
    with pytest.raises(varserve.EpochMismatch):
        table.assign(value, if_revision_match=table.revision)
    exchange(model_of(3, "table", "other"))
    assert (other.numpy().max(), other.revision) == (0, 0)
    other.assign(value, if_revision_match=other.revision)
    for names in (["table"], ["other", "table"], ["table", "other"]):
        exchange(model_of(3, "table", "other"))
        other.numpy()
        change = model.transaction()
        for name in names:
            change.assign(name, value, if_revision_match=model.variables[name].revision)
        with pytest.raises(varserve.EpochMismatch):
            change.__exit__(None, None, None)


def test_conditions_of_variables_in_a_transaction_have_an_epoch(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """A transaction on a variable's revision fails after a restart, whatever its number is then."""
    client, exchange = served
    model = client.model("fake")
    value = model.variables["table"].numpy()
    exchange(model_of(3, "table", "other"))
    with pytest.raises(varserve.EpochMismatch), model.transaction() as change:
        change.assign("table", value, if_revision_match=0)


def test_leases_and_reverts_go_on_after_a_restart(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """A lease is for the state that there is, and a revert for the one whose history was listed."""
    client, exchange = served
    model = client.model("fake")
    value = model.variables["table"].numpy()
    exchange(model_of(3, "table", "other"))
    with model.variables["table"].lease(value + 1, seconds=60):
        assert model.variables["table"].numpy().max() == 1
    exchange(model_of(3, "table", "other"))
    assert list(model.commits()) == []
    assert model.revert(0).epoch == model.epoch


def test_a_revision_of_an_epoch_that_is_over_is_not_compared(
    served: tuple[varserve.Client, Exchange],
) -> None:
    """`diff` with a snapshot of another life is refused; a number alone is of the present one."""
    client, exchange = served
    model = client.model("fake")
    snapshot = model.read(["table"])
    exchange(model_of(3, "table", "other"))
    with pytest.raises(varserve.EpochMismatch, match=snapshot.epoch):
        model.diff(snapshot, ["table"])
    assert model.diff(0, ["table"]).equal == 1
