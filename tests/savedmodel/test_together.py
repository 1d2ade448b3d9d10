"""Many variables at once: as each alone, in fewer calls of TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel, Operation, Value, Variable
from varserve_service.core.ports.messages import Read
from varserve_service.savedmodel import variable_access
from varserve_service.savedmodel.runtime import graph_functions

Load = Callable[[str], LoadedModel]


@pytest.fixture
def model(load: Load) -> LoadedModel:
    return load("many")


def moved(variable: Variable, by: int) -> Value:
    """Another value for a variable."""
    old = variable.read().numpy()
    if variable.spec.dtype == "string":
        return variable.stage(np.array([b"new %d" % by, b"x"], object))
    return variable.stage((old + by).astype(old.dtype))


def numbers(values: Sequence[Value]) -> list[bytes]:
    return [repr(value.numpy().tolist()).encode() for value in values]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 15, 16, 17, 40, 48])
def test_reading_together_is_reading_each(model: LoadedModel, count: int) -> None:
    variables = list(model.variables)[::-1][:count]

    values = model.read(variables)

    assert numbers(values) == numbers([variable.read() for variable in variables])
    for variable, value in zip(variables, values, strict=True):
        assert value.dtype == variable.spec.dtype
        assert value.shape == variable.shape()


def test_a_value_is_the_memory_of_its_variable(model: LoadedModel) -> None:
    kept = [v for v in model.variables if v.spec.dtype == "float32" and not v.writes_in_place]
    assert len(kept) == 40

    for variable, value in zip(kept, model.read(kept), strict=True):
        assert np.shares_memory(value.numpy(), variable.read().numpy())
    staged = [variable.stage(aligned_empty((2,), np.float32)) for variable in kept]
    model.write(list(zip(kept, staged, strict=True)))
    for variable, value in zip(kept, staged, strict=True):
        assert np.shares_memory(value.numpy(), variable.read().numpy())


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 48])
def test_writing_together_is_writing_each(model: LoadedModel, count: int) -> None:
    variables = list(model.variables)
    written = variables[::-1][:count]
    before = model.read(variables)
    was = numbers(before)
    new = [moved(variable, n + 1) for n, variable in enumerate(written)]

    model.write(list(zip(written, new, strict=True)))

    assert numbers(model.read(written)) == numbers(new)
    assert numbers([variable.read() for variable in written]) == numbers(new)
    untouched = variables[: len(variables) - count]
    assert numbers(model.read(untouched)) == was[: len(untouched)]
    assert numbers(before) == was, "what was read before is what it was"


def test_nothing_is_traced_once_a_model_is_loaded(model: LoadedModel) -> None:
    variables = list(model.variables)
    before = graph_functions()

    model.write([(variable, moved(variable, 1)) for variable in variables])
    model.read(variables)

    assert graph_functions() == before


def test_an_assign_of_many_that_fails_changes_none(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveModel(model)
    names = [spec.name for spec in live.specs if spec.dtype == "float32"]
    reads = [Read(name) for name in names]
    before = live.read(reads)
    was = numbers([entry.value for entry in before.entries if entry.value is not None])
    calls = []
    compiled = variable_access.compiled

    def failing(kind: str, *rest: object) -> object:
        access = compiled(kind, *rest)  # type: ignore[arg-type]

        def call(*inputs: object) -> object:
            calls.append(kind)
            if calls.count("assign_together") == 2:
                raise MemoryError
            return access(*inputs)  # type: ignore[arg-type]

        return call

    monkeypatch.setattr("varserve_service.savedmodel.together.compiled", failing)

    def writes() -> list[Write]:
        return [
            Write(entry.variable, Operation.SET, entry.value.numpy() + 1)
            for entry in before.entries
            if entry.value is not None
        ]

    with pytest.raises(OutOfMemory, match="no memory for new values of variables 'f_23', 'f_24'"):
        live.assign(writes())

    monkeypatch.undo()
    after = live.read(reads)
    assert numbers([entry.value for entry in after.entries if entry.value is not None]) == was
    assert after.header.revision == before.header.revision
    assert calls.count("assign_together") == 2

    live.assign(writes())
    first = live.read([Read("f_7")]).entries[0].value
    assert first is not None
    assert first.numpy().tolist() == [8.0, -6.0]


def test_a_function_that_writes_many_can_be_taken_back(model: LoadedModel) -> None:
    live = LiveModel(model)
    revision = live.header.revision
    reads = [Read(f"f_{n}") for n in range(40)]

    live.run("step", {}, {})

    stepped = live.read(reads).entries
    live.revert(revision)
    back = live.read(reads).entries
    for n in range(40):
        new, old = stepped[n].value, back[n].value
        assert new is not None
        assert old is not None
        assert new.numpy().tolist() == [n + 1.0, -n + 1.0]
        assert old.numpy().tolist() == [float(n), -float(n)]
