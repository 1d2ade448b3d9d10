"""Names and patterns of inner tensors: what they select, and what is said of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import refusal
from varserve_service.core.errors import Reason
from varserve_service.core.inspection import selection
from varserve_service.core.inspection.ports import (
    InnerTensor,
    Inspection,
    Patch,
    PatchKind,
    Place,
    Selection,
)
from varserve_service.core.inspection.selection import Catalogue
from varserve_service.core.ports.loaded_model import (
    Constant,
    InputSpec,
    OutputSpec,
    Overload,
    TensorSpec,
)


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


# What an inspection asks for, found and checked before anything runs.

INNER = Catalogue(
    "f",
    [
        InnerTensor("top", "top", "p/top", "Relu", "float32", (None, 2), Place.TOP),
        InnerTensor("x/one", "one", "p/x/one", "Relu", "float32", (2,), Place.XLA),
        InnerTensor("x/two", "two", "p/x/two", "Relu", "float32", (2,), Place.LOOP),
        InnerTensor("count", "count", "p/count", "Shape", "int32", (2,), Place.TOP),
    ],
)
F32 = TensorSpec("float32", (2,))
OVERLOAD = Overload(
    (
        InputSpec("x", F32),
        InputSpec("n", TensorSpec("int64", ())),
        InputSpec("training", Constant(True)),
    ),
    (OutputSpec("y", F32), OutputSpec("index", TensorSpec("int64", ()))),
)
VARIABLES = {"kernel": "layer/kernel", "x": "another/x", "n": "another/n"}


def resolve(**asked: Any) -> Selection:
    return INNER.resolve(Inspection(**asked), OVERLOAD, VARIABLES)


def zero() -> Patch:
    return Patch(PatchKind.ZERO)


def value(array: np.ndarray[Any, Any]) -> Patch:
    return Patch(PatchKind.VALUE, value=array)


def test_what_is_asked_for_is_found() -> None:
    """Probes and patches by index; gradients with respect to inputs, variables and tensors.

    An input's name means the input, also where a variable has it.
    """
    two = np.zeros((7, 2), np.float32)
    found = resolve(probes=("top", "x/tw*"), patches={"two": zero(), "top": value(two)})
    assert (found.probes, set(found.patches)) == ({0, 2}, {2, 0})
    assert found.asked.probes == ("top", "x/tw*")
    found = resolve(gradients_of="y", wrt=("kernel", "x", "top", "x/one"))
    assert found.wrt_inputs == ("x",)
    assert found.wrt_variables == (("kernel", "layer/kernel"),)
    assert found.wrt_tensors == (("top", 0), ("x/one", 1))
    nothing = resolve()
    assert (nothing.probes, nothing.patches, nothing.wrt_inputs) == (frozenset(), {}, ())


def test_what_xla_runs_as_one_is_out_of_reach_unless_it_is_opened() -> None:
    """A pattern that fits others, too, selects those; gradients open it as well."""
    for asked in ({"probes": ("x/one",)}, {"probes": ("*one",)}, {"patches": {"one": zero()}}):
        error = refusal(resolve, **asked)
        assert (error.reason, error.metadata["tensor"]) == (Reason.TENSOR_INSIDE_XLA, "x/one")
        for opening in ({"open_xla": True}, {"gradients_of": "y"}):
            found = resolve(**asked, **opening)
            assert found.probes | set(found.patches) == {1}
    assert resolve(probes=("x/*",)).probes == {2}
    assert resolve(probes=("x/*",), open_xla=True).probes == {1, 2}


@pytest.mark.parametrize(
    ("asked", "reason", "said"),
    [
        ({"patches": {"count": zero()}}, Reason.PATCH_UNSUPPORTED, "of dtype int32"),
        (
            {"patches": {"top": value(np.zeros((1, 2)))}},
            Reason.DTYPE_MISMATCH,
            "expected dtype float32, found float64",
        ),
        (
            {"patches": {"top": value(np.zeros((2, 3), np.float32))}},
            Reason.SHAPE_MISMATCH,
            "expected shape [?, 2], found [2, 3]",
        ),
        ({"wrt": ("x",)}, Reason.INPUT_MISMATCH, "wrt without gradients_of"),
        ({"gradients_of": "z"}, Reason.INPUT_MISMATCH, "expected one of the outputs: y, index"),
        ({"gradients_of": "index"}, Reason.GRADIENT_UNAVAILABLE, "'index' is of dtype int64"),
        (
            {"gradients_of": "y", "wrt": ("n",)},
            Reason.GRADIENT_UNAVAILABLE,
            "'n' is of dtype int64",
        ),
        (
            {"gradients_of": "y", "wrt": ("count",)},
            Reason.GRADIENT_UNAVAILABLE,
            "'count' is of dtype int32",
        ),
        ({"gradients_of": "y", "wrt": ("training",)}, Reason.TENSOR_NOT_FOUND, "'training'"),
        ({"probes": ("none",)}, Reason.TENSOR_NOT_FOUND, "'none'"),
    ],
)
def test_what_cannot_be_done_is_refused(asked: Any, reason: Reason, said: str) -> None:
    """Before anything runs, with what was expected."""
    error = refusal(resolve, **asked)
    assert error.reason is reason
    assert said in error.message


def test_a_patch_without_a_value_has_any_shape() -> None:
    """A factor and zeros are of whatever the tensor is; so is a value that is not there."""
    for patch in (Patch(PatchKind.SCALE, 2.0), Patch(PatchKind.VALUE)):
        assert resolve(patches={"top": patch}).patches == {0: patch}
    wrong = Patch(PatchKind.ZERO, value=np.zeros(9))
    assert resolve(patches={"top": wrong}).patches == {0: wrong}


@pytest.mark.parametrize(("count", "ending"), [(8, "'c7/same'"), (10, "'c7/same' and 2 more")])
def test_names_are_listed_up_to_a_bound(count: int, ending: str) -> None:
    """Of those that share a bare name the first ones, and how many more there are."""
    same = [
        InnerTensor(f"c{n}/same", "same", f"p/c{n}/same", "Relu", "float32", (), Place.TOP)
        for n in range(count)
    ]
    error = refusal(Catalogue("f", same).find, "same")
    assert error.message.startswith(f"function 'f': {count} inner tensors are called 'same'")
    assert error.message.endswith(ending)


def test_close_names_are_three_at_most() -> None:
    """Of those that contain a name, too."""
    many = [
        InnerTensor(f"a/{n}rest", f"{n}rest{'z' * 40}", f"p{n}", "Relu", "float32", (), Place.TOP)
        for n in range(5)
    ]
    message = refusal(Catalogue("f", many).find, "rest").message
    assert message.count("zz") // 20 == 3


def test_a_caller_s_name_is_repeated_up_to_a_bound() -> None:
    """Whatever is said of it: that it is not there, that two have it, that it has no gradient."""
    long = "n" * 500
    same = [
        InnerTensor(f"c{n}", long, f"p/c{n}", "Relu", "float32", (), Place.TOP) for n in range(2)
    ]
    errors = [
        refusal(INNER.find, long),
        refusal(Catalogue("f", same).find, long),
        refusal(resolve, gradients_of="y", wrt=(long,)),
    ]
    assert [error.metadata["tensor"] for error in errors] == ["n" * 200] * 3
    assert all("n" * 200 in error.message for error in errors)
    errors.append(refusal(resolve, gradients_of=long))
    assert all("n" * 201 not in error.message for error in errors)
