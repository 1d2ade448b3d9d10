"""Several variables at once by name, state dicts, and a local copy that follows the commits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from tests.waiting import until
from varserve_service.core.model.live_model import LiveModel


def model() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("net/dense/kernel", np.zeros((2, 3), np.float32)),
            FakeVariable("net/dense/bias", np.zeros(3, np.float32)),
            FakeVariable("table", np.zeros((100, 2), np.float32)),
        ]
    )


@pytest.fixture
def served() -> Iterator[varserve.Model]:
    with serve_here(LiveModel(model())) as address, varserve.connect(address) as client:
        yield client.model("fake")


def test_variables_are_assigned_by_name_in_one_commit(served: varserve.Model) -> None:
    """`model.assign({...})` is one commit; nothing to assign, or a wrong name, changes nothing."""
    commit = served.assign({"table": np.ones((100, 2), "f4"), "net/dense/bias": [1, 2, 3]})
    assert commit.revision == 1
    assert served.variables["net/dense/bias"].numpy().tolist() == [1, 2, 3]
    with pytest.raises(varserve.InvalidRequest):
        served.assign({})
    with pytest.raises(varserve.VariableNotFound):
        served.assign({"table": np.zeros((100, 2), "f4"), "none": 1})
    with pytest.raises(varserve.RevisionMismatch):
        served.assign({"net/dense/bias": [0, 0, 0]}, if_revision_match=0)
    assert served.variables["table"].numpy().sum() == 200


def test_a_state_dict_is_loaded_by_a_map_of_names(served: varserve.Model) -> None:
    """Names by a map, arrays as they are transformed; one commit with its message."""
    state = {"0.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "0.bias": np.ones(3, "f4")}
    names = {"0.weight": "net/dense/kernel", "0.bias": "net/dense/bias"}
    commit = served.load_state_dict(
        state,
        names=names,
        transform=lambda name, value: value.T if name.endswith("weight") else value,
        message="from torch",
    )
    assert served.variables["net/dense/kernel"].numpy().tolist() == [[0, 2, 4], [1, 3, 5]]
    assert served.commits()[0].info.message == "from torch"
    assert served.commits()[0].revision == commit.revision


@pytest.mark.parametrize(
    ("state", "names", "said"),
    [
        ({"dense/kernal": (2, 3)}, None, "did you mean net/dense/kernel"),
        ({"other/dense/kernel": (3, 2)}, None, "has the shape [3, 2]"),
        ({"a": (3,)}, {"a": "net/dense/bia"}, "did you mean net/dense/bias"),
        ({"a": (3,), "b": (3,)}, dict.fromkeys("ab", "net/dense/bias"), "several weights are"),
    ],
)
def test_weights_that_do_not_match_are_named(
    served: varserve.Model,
    state: dict[str, tuple[int, ...]],
    names: dict[str, str] | None,
    said: str,
) -> None:
    """A weight without a variable, of another shape, or twice, is refused; nothing is changed."""
    values = {name: np.ones(shape, np.float32) for name, shape in state.items()}
    with pytest.raises(varserve.InvalidRequest, match="weights that do not match") as caught:
        served.load_state_dict(values, names=names)
    assert said in str(caught.value)
    served.refresh()
    assert served.revision == 0


def test_weights_that_are_not_served_can_be_left_out(served: varserve.Model) -> None:
    """Without `strict`, or by a function that gives None."""
    state = {"model_7/dense/bias": np.ones(3, "f4"), "optimizer/step": np.ones((), "f4")}
    served.load_state_dict(state, strict=False)
    served.load_state_dict(
        state, names=lambda name: "net/dense/bias" if name.endswith("bias") else None
    )
    assert served.commits()[0].variables == ("net/dense/bias",)


def test_a_mirror_follows_every_commit(served: varserve.Model) -> None:
    """Whole values, rows and slices; what it gave before stays as it was."""
    with served.mirror() as mirror:
        before = mirror["table"]
        served.variables["table"].scatter_update([5, 7], np.ones((2, 2), np.float32))
        served.variables["net/dense/kernel"][0:1].assign(np.full((1, 3), 2, np.float32))
        commit = served.assign({"net/dense/bias": [1, 1, 1]})
        assert mirror.wait_for(commit.revision)
        assert mirror["table"].sum() == 4
        assert before.sum() == 0
        assert mirror["net/dense/kernel"].tolist() == [[2, 2, 2], [0, 0, 0]]
        assert mirror["net/dense/bias"].tolist() == [1, 1, 1]
        assert sorted(mirror) == sorted(served.variables)
        with pytest.raises(ValueError, match="read-only"):
            mirror["table"][0] = 1
    assert not mirror.wait_for(commit.revision + 1, timeout=0.1)


def test_a_mirror_takes_parts_after_wholes(served: varserve.Model) -> None:
    """A region that is written after its whole variable, in the same block or the next commit."""
    table = served.variables["table"]
    with served.mirror("table") as mirror:
        table.assign(np.full((100, 2), 3, np.float32))
        commit = table.scatter_update([5], np.full((1, 2), 4, np.float32))
        until(lambda: mirror.revision >= commit.revision)
        expected = np.full((100, 2), 3, np.float32)
        expected[5] = 4
        assert np.array_equal(mirror["table"], expected)


def test_a_mirror_of_some_variables_has_no_others(served: varserve.Model) -> None:
    """Patterns say which; the revision moves on by commits to those alone."""
    with served.mirror("net/*") as mirror:
        served.assign({"table": np.ones((100, 2), "f4")})
        commit = served.assign({"net/dense/bias": [1, 1, 1]})
        assert mirror.wait_for(commit.revision)
        assert sorted(mirror) == ["net/dense/bias", "net/dense/kernel"]
    with pytest.raises(varserve.VariableNotFound):
        served.mirror("none*")


def test_a_mirror_goes_on_with_a_state_that_began_anew() -> None:
    """A service that was replaced, with other values, is read again by itself."""
    with serve_here(LiveModel(model())) as address:
        client = varserve.connect(address, retries=0)
        served = client.model("fake")
        served.assign({"net/dense/bias": [1, 1, 1]})
        mirror = served.mirror()
        first = mirror.epoch
    port = int(address.rpartition(":")[2])
    with client, mirror, serve_here(LiveModel(model()), port=port):
        until(lambda: mirror.epoch != first, seconds=60)
        assert mirror["net/dense/bias"].tolist() == [0, 0, 0]
