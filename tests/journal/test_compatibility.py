"""Whether a state is of the loaded model, and what is said of the differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.errors import JournalError
from varserve_service.journal.compatibility import check_compatible, describe


def described(**variables: Any) -> dict[str, Any]:
    """A model's description: by path, what is different from a float32 vector of 2."""
    usual = {"dtype": "float32", "shape": [2], "begins_as": [2]}
    return {
        "begins_with": "values",
        "variables": {
            path: {"name": f"n{path}"} | usual | more for path, more in variables.items()
        },
    }


def test_what_a_state_and_a_model_have_in_common() -> None:
    """Name, first values, and of each variable dtype, shape as declared and as it is."""
    loaded = FakeModel(
        [
            FakeVariable("fixed", np.zeros((2, 3), np.float32), path="layer/fixed"),
            FakeVariable("dynamic", np.zeros(4, np.int64), shape=(None,)),
            FakeVariable("any", np.zeros(1, np.int64), shape=None),
            FakeVariable("unset", None, shape=(2,)),
        ]
    )
    found = describe(loaded)
    assert (found["name"], found["begins_with"]) == ("fake", "fake")
    assert found["variables"] == {
        "layer/fixed": {
            "name": "fixed",
            "dtype": "float32",
            "shape": [2, 3],
            "begins_as": [2, 3],
        },
        "dynamic": {"name": "dynamic", "dtype": "int64", "shape": [None], "begins_as": [4]},
        "any": {"name": "any", "dtype": "int64", "shape": None, "begins_as": [1]},
        "unset": {"name": "unset", "dtype": "float32", "shape": [2], "begins_as": None},
    }
    check_compatible(found, describe(loaded))


@pytest.mark.parametrize(
    ("kept", "loaded", "said"),
    [
        (described(a={}, b={}), described(a={}), "variable 'nb' is gone"),
        (described(a={}), described(a={}, b={}), "variable 'nb' is new"),
        (
            described(a={}),
            described(a={"dtype": "int32", "shape": [3]}),
            "variable 'na': expected dtype float32, found int32",
        ),
        (
            described(a={}),
            described(a={"shape": [None]}),
            "variable 'na': expected shape [2], found [None]",
        ),
        (
            described(a={"shape": [None]}),
            described(a={"shape": [None], "begins_as": [5]}),
            "variable 'na': expected shape [2], found [5]",
        ),
        (
            described(a={}),
            described(a={}) | {"begins_with": "others"},
            "its variables begin with other values",
        ),
        (
            described(a={}),
            described(a={"shape": [3], "begins_as": [3]}) | {"begins_with": "others"},
            "variable 'na': expected shape [2], found [3]",
        ),
    ],
)
def test_each_difference_is_named_once(
    kept: dict[str, Any], loaded: dict[str, Any], said: str
) -> None:
    """Of the values only where the variables are the same."""
    with pytest.raises(JournalError) as caught:
        check_compatible(kept, loaded)
    start = "the model is not the one that the state was written for: "
    assert str(caught.value) == start + said


@pytest.mark.parametrize(
    ("count", "ending"), [(5, "'n4' is gone"), (7, "'n4' is gone; and 2 more")]
)
def test_differences_are_named_up_to_a_bound(count: int, ending: str) -> None:
    """The first ones, and how many more there are."""
    kept = described(**{str(number): {} for number in range(count)})
    with pytest.raises(JournalError) as caught:
        check_compatible(kept, described())
    assert str(caught.value).endswith(ending)
