"""Names and patterns of inner tensors: what they select, and what is said of others."""

from __future__ import annotations

import pytest

from tests.core.test_live_model import refusal
from varserve_service.core.errors import Reason
from varserve_service.core.inspection import selection
from varserve_service.core.inspection.ports import InnerTensor, Place
from varserve_service.core.inspection.selection import Catalogue


def tensor(path: str) -> InnerTensor:
    """As if each was reached by one call; `bare` is shared by tensors of two calls."""
    bare = path.partition("/")[2]
    return InnerTensor(path, bare, f"{path}/whole", "Relu", "float32", (None,), next(iter(Place)))


CATALOGUE = Catalogue("f", [tensor(name) for name in ("a/dense/Relu", "b/dense/Relu", "a/Softmax")])


@pytest.mark.parametrize(
    ("patterns", "indices"),
    [
        (["a/dense/Relu"], [0]),
        (["a/dense/Relu:0"], [0]),
        (["b/dense/Relu/whole"], [1]),
        (["Softmax"], [2]),
        (["Softmax", "*/dense/Relu"], [0, 1, 2]),
        (["dense/R*"], [0, 1]),
        (["*whole"], [0, 1, 2]),
        ([], []),
    ],
)
def test_what_names_and_patterns_select(patterns: list[str], indices: list[int]) -> None:
    """By the unique name, the bare name where one has it, and the path; in order."""
    assert CATALOGUE.select(patterns) == indices


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Softmux", "close names: Softmax"),
        ("max", "close names: Softmax"),
        ("ense/Rel", "close names: dense/Relu"),
        ("nothing like it", "list them with ListTensors"),
        ("", "list them with ListTensors"),
        ("q*", "list them with ListTensors"),
    ],
)
def test_a_name_that_none_has(name: str, said: str) -> None:
    """Those that are spelled alike are named, or else those that contain it."""
    error = refusal(CATALOGUE.select, [name])
    assert error.reason is Reason.TENSOR_NOT_FOUND
    assert error.message.endswith(said)


def test_a_bare_name_that_two_have() -> None:
    """It is refused with the names that tell them apart."""
    error = refusal(CATALOGUE.find, "dense/Relu")
    assert error.reason is Reason.NAME_AMBIGUOUS
    assert "a/dense/Relu" in error.message
    assert "b/dense/Relu" in error.message


def test_close_names_are_looked_for_among_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare takes longer, the more there are."""
    monkeypatch.setattr(selection, "_COMPARED", 1)
    assert "close" not in refusal(CATALOGUE.find, "Softmux").message
    monkeypatch.setattr(selection, "_COMPARED", 2)
    assert "close" in refusal(CATALOGUE.find, "Softmux").message
