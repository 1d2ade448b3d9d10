"""Every call through the generated stubs: what a client that knows only the proto sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.rpc.bodies import value_of, values_of
from tests.rpc.models import counter, strings
from tests.rpc.requests import (
    MODEL,
    assign,
    chunk,
    entry,
    header,
    manifest,
    number,
    read,
    rows,
    run,
    run_manifest,
    slices,
    tensor,
)
from tests.serving import serve_here
from varserve import tensors
from varserve.v1 import model_pb2, model_service_pb2_grpc, tensor_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel

SET, ADD, SUB = pb.ASSIGN_OPERATION_SET, pb.ASSIGN_OPERATION_ADD, pb.ASSIGN_OPERATION_SUB
Stub = Any


@pytest.fixture
def stub() -> Iterator[Stub]:
    live = counter(
        FakeVariable("table", np.arange(8, dtype=np.int32).reshape(4, 2), in_place=True),
        FakeVariable("words", strings(b"a\0", b"", b"\xff")),
        FakeVariable("none", np.zeros((0, 3), np.float64)),
        FakeVariable("later", None, shape=(None, 2), path="deep/later"),
    )
    other = LiveModel(FakeModel([], name="another"))
    with serve_here(live, other) as address, grpc.insecure_channel(address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def floats(*values: float) -> tensor_pb2.Tensor:
    return tensor(shape=[len(values)], data=np.array(values, "<f4").tobytes())


def v_of(stub: Stub) -> list[float]:
    found: list[float] = value_of(stub.ReadVariable(read()).value)
    return found


def revision_of(stub: Stub) -> int:
    found: int = stub.GetModel(pb.GetModelRequest(model=MODEL)).header.revision
    return found


def test_list_models(stub: Stub) -> None:
    """Every model is listed, sorted by name, with its state, device and size."""
    models = stub.ListModels(pb.ListModelsRequest()).models
    assert [model.header.model for model in models] == ["another", "counter"]
    summary = models[1]
    assert (summary.header.version, summary.header.revision) == (1, 0)
    assert (summary.state, summary.device) == (model_pb2.MODEL_STATE_READY, "CPU:0")
    assert (summary.variable_count, summary.variable_bytes) == (6, 8 + 12 + 32)
    assert summary.header.epoch != models[0].header.epoch != ""


def test_list_no_models() -> None:
    """A service without models has an empty list, and no error."""
    with serve_here() as address, grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        assert len(stub.ListModels(pb.ListModelsRequest()).models) == 0


def test_get_model(stub: Stub) -> None:
    """One call tells all variables and functions, sorted, with their types and present state."""
    found = stub.GetModel(pb.GetModelRequest(model=MODEL))
    variables = {variable.name: variable for variable in found.variables}
    assert list(variables) == ["count", "later", "none", "table", "v", "words"]
    v, later, words = variables["v"], variables["later"], variables["words"]
    assert (v.path, v.dtype, list(v.shape.dimensions), v.byte_length) == ("v", 1, [3], 12)
    assert (v.initialized, v.trainable, v.device, v.revision) == (True, True, "CPU:0", 0)
    assert (later.path, list(later.shape.dimensions)) == ("deep/later", [-1, 2])
    assert (later.initialized, later.byte_length) == (False, 0)
    assert (words.dtype, words.byte_length, words.initialized) == (7, 0, True)
    add, total = found.functions
    assert (add.name, total.name) == ("add", "total")
    (overload,) = add.overloads
    assert (overload.inputs[0].name, overload.inputs[0].tensor.dtype) == ("n", 9)
    assert [found.variables[index].name for index in overload.writes] == ["count"]
    assert overload.outputs[0].name == "count"
    assert list(total.overloads[0].inputs[0].tensor.shape.dimensions) == [-1]
    assert found.summary.header == found.header


@pytest.mark.parametrize(
    ("variable", "region", "value"),
    [
        ("v", None, [1, 1, 1]),
        ("count", None, 0),
        ("words", None, [b"a\0", b"", b"\xff"]),
        ("none", None, []),
        ("table", None, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("table", slices({"start": 1, "step": 2}), [[2, 3], [6, 7]]),
        ("table", slices({"stop": 2}, {"start": 1}), [[1], [3]]),
        ("table", slices({"stop": 0}), []),
        ("table", slices(), [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("table", rows(3, 0, 3), [[6, 7], [0, 1], [6, 7]]),
        ("words", rows(2), [b"\xff"]),
    ],
)
def test_read_variable(stub: Stub, variable: str, region: Any, value: Any) -> None:
    """One read and the same in a stream give what numpy gives, with header and revision."""
    response = stub.ReadVariable(read(variable=variable, region=region))
    selection = pb.ReadSelection(variable=variable, region=region)
    request = pb.ReadVariablesRequest(model=MODEL, reads=[selection])
    first, streamed = values_of(stub.ReadVariables(request))
    assert value_of(response.value) == value
    assert streamed == [value]
    assert list(first.manifest.entries[0].tensor.shape) == list(response.value.shape)
    assert (response.header, response.variable_revision) == (first.manifest.header, 0)


def test_read_again(stub: Stub) -> None:
    """The same request again is answered with the state as it is now, in value and in header."""
    first = stub.ReadVariable(read())
    assert stub.ReadVariable(read()) == first
    stub.AssignVariable(assign(variable="count", value=number(5)))
    beside = stub.ReadVariable(read())
    assert (beside.value, beside.variable_revision) == (first.value, 0)
    assert beside.header.revision == 1
    stub.AssignVariable(assign(value=floats(4, 5, 6)))
    after = stub.ReadVariable(read())
    assert (value_of(after.value), after.variable_revision, after.header.revision) == (
        [4, 5, 6],
        2,
        2,
    )
    assert stub.ReadVariable(read()) == after
    assert not stub.ReadVariable(read(if_newer_than=2)).HasField("value")
    assert value_of(stub.ReadVariable(read(region=slices({"stop": 1}))).value) == [4]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("region", [None, slices({"start": 1}), rows(2, 0, 2)])
def test_read_as_another_dtype(stub: Stub, dtype: str, region: Any) -> None:
    """A float value is sent as the dtype that was asked for, in a message and in a stream."""
    values = np.array([1.0009765625, -3e-5, 70_000], np.float32)  # rounded, small, too large for 16
    stub.AssignVariable(assign(value=floats(*values)))
    part = {None: values, 1: values[1:], 2: values[[2, 0, 2]]}[
        region and (1 if region.HasField("slices") else 2)
    ]
    with np.errstate(over="ignore"):
        expected = part.astype(np.dtype(dtype))
    number = tensors.wire_dtype(dtype)
    value = stub.ReadVariable(read(region=region, dtype=number)).value
    assert (value.dtype, list(value.shape)) == (number, [len(part)])
    assert value.data == expected.tobytes()
    reads = [{"variable": "v"}, {"variable": "v", "region": region, "dtype": number}]
    manifest, *chunks = stub.ReadVariables(pb.ReadVariablesRequest(model=MODEL, reads=reads))
    own, cast = (entry.tensor for entry in manifest.manifest.entries)
    assert (own.dtype, cast.dtype) == (tensors.wire_dtype("float32"), number)
    assert cast.byte_length == expected.nbytes
    body = b"".join(each.chunk.data for each in chunks)
    assert body == values.tobytes() + expected.tobytes()


def test_answers_in_two_dtypes_are_kept_apart(stub: Stub) -> None:
    """A small read that came before is answered in the dtype of this request, and only in that."""
    asked = [0, *(tensors.wire_dtype(name) for name in ("float32", "bfloat16", "float16"))]
    for value in (floats(1, 2, 3), floats(4, 5, 6)):
        stub.AssignVariable(assign(value=value))
        answers = [[stub.ReadVariable(read(dtype=each)).value for each in asked] for _ in range(2)]
        assert answers[0] == answers[1]
        assert [each.dtype for each in answers[0]] == [asked[1], *asked[1:]]
        assert answers[0][0] == value


def test_a_past_value_as_another_dtype(stub: Stub) -> None:
    """A value of an earlier revision is cast as the present one is."""
    stub.AssignVariable(assign(value=floats(4, 5, 6)))
    number = tensors.wire_dtype("float16")
    value = stub.ReadVariable(read(at_revision=0, dtype=number)).value
    assert (value.dtype, value.data) == (number, np.ones(3, np.float16).tobytes())


def test_read_by_path(stub: Stub) -> None:
    """A variable is found by its path too, and answers with its name."""
    stub.AssignVariable(assign(variable="deep/later", value=tensor(shape=[1, 2], data=bytes(8))))
    request = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "deep/later"}])
    first, values = values_of(stub.ReadVariables(request))
    assert (first.manifest.entries[0].variable, values) == ("later", [[[0, 0]]])


def test_read_if_newer_than(stub: Stub) -> None:
    """A value that was not written since the revision is left out, but not that of another life."""
    stub.AssignVariable(assign(value=floats(4, 5, 6)))
    epoch = stub.GetModel(pb.GetModelRequest(model=MODEL)).header.epoch

    def result(**fields: Any) -> str:
        found: str = stub.ReadVariable(read(**fields)).WhichOneof("result")
        return found

    assert result() == "value"
    assert result(if_newer_than=0) == "value"
    assert result(if_newer_than=1) == "not_modified"
    assert result(if_newer_than=1, epoch=epoch) == "not_modified"
    assert result(if_newer_than=1, epoch="another life") == "value"
    assert result(variable="count", if_newer_than=0) == "not_modified"
    assert result(variable="count", if_newer_than=-1) == "value"


def test_read_variables(stub: Stub) -> None:
    """Many variables come at one revision, in the order they were asked for, also twice."""
    stub.RunFunction(run(function="add", inputs={"n": number(5)}))
    names = ["words", "v", "none", "count", "v"]
    request = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": name} for name in names])
    first, values = values_of(stub.ReadVariables(request))
    entries = first.manifest.entries
    assert values == [[b"a\0", b"", b"\xff"], [1, 1, 1], [], 5, [1, 1, 1]]
    assert [each.variable for each in entries] == names
    assert [each.variable_revision for each in entries] == [0, 0, 0, 1, 0]
    assert first.manifest.header.revision == 1


@pytest.mark.parametrize(
    ("operation", "region", "value", "expected"),
    [
        (0, None, floats(4, 5, 6), [4, 5, 6]),
        (SET, None, floats(4, 5, 6), [4, 5, 6]),
        (ADD, None, floats(4, 5, 6), [5, 6, 7]),
        (SUB, None, floats(4, 5, 6), [-3, -4, -5]),
        (SET, slices({"start": 1}), floats(7, 8), [1, 7, 8]),
        (ADD, rows(2, 2), floats(1, 2), [1, 1, 4]),
        (SET, rows(), floats(), [1, 1, 1]),
    ],
)
def test_assign_variable(
    stub: Stub, operation: int, region: Any, value: tensor_pb2.Tensor, expected: list[float]
) -> None:
    """A write is a commit; read back, it gives the variable or region as it is afterwards."""
    fields = {"operation": operation, "region": region, "value": value}
    response = stub.AssignVariable(assign(**fields, read_back=True))
    assert (v_of(stub), revision_of(stub), response.header.revision) == (expected, 1, 1)
    read_back = stub.ReadVariable(read(region=region)).value
    assert response.value == read_back
    again = stub.AssignVariable(assign(**fields))
    assert (again.HasField("value"), again.header.revision) == (False, 2)


def test_conditions_of_a_write(stub: Stub) -> None:
    """A write happens only at the revisions and in the epoch that it names."""
    first = stub.AssignVariable(assign(if_revision_match=0, if_model_revision_match=0))
    stub.RunFunction(run(function="add", inputs={"n": number(1)}))
    epoch = first.header.epoch
    good = {"if_revision_match": 1, "if_model_revision_match": 2, "if_epoch_match": epoch}
    for spoilt in ({"if_revision_match": 2}, {"if_model_revision_match": 1}):
        with pytest.raises(grpc.RpcError) as caught:
            stub.AssignVariable(assign(**good | spoilt))
        assert caught.value.code() is grpc.StatusCode.ABORTED
    assert stub.AssignVariable(assign(**good)).header.revision == 3


def uploads(*messages: Any) -> Iterator[Any]:
    return iter(messages)


def test_assign_variables(stub: Stub) -> None:
    """Values of several variables, of every kind, are one commit of one body."""
    texts = [b"longer", b"", b"x"]
    lengths = b"".join(len(text).to_bytes(8, "little") for text in texts)
    parts = [
        (entry(), np.array([4, 5, 6], "<f4").tobytes()),
        (
            entry(
                variable="table",
                operation=ADD,
                region=rows(0, 0),
                tensor=header(dtype=3, shape=[2, 2], byte_length=16),
            ),
            np.array([1, 2, 3, 4], "<i4").tobytes(),
        ),
        (entry(variable="none", tensor=header(dtype=2, shape=[0, 3], byte_length=0)), b""),
        (
            entry(variable="words", tensor=header(dtype=7, shape=[3], byte_length=31)),
            lengths + b"".join(texts),
        ),
        (entry(operation=SUB), np.array([1, 1, 1], "<f4").tobytes()),
    ]
    body = b"".join(data for _, data in parts)
    chunks = [chunk(start, body[start : start + 7]) for start in range(0, len(body), 7)]
    first = manifest(*(each for each, _ in parts), if_model_revision_match=0)
    response = stub.AssignVariables(uploads(first, *chunks))
    assert response.header.revision == revision_of(stub) == 1
    reads = [{"variable": name} for name in ("v", "table", "none", "words")]
    manifest_, values = values_of(
        stub.ReadVariables(pb.ReadVariablesRequest(model=MODEL, reads=reads))
    )
    assert values == [[3, 4, 5], [[4, 7], [2, 3], [4, 5], [6, 7]], [], texts]
    assert [each.variable_revision for each in manifest_.manifest.entries] == [1, 1, 1, 1]


def test_assign_variables_without_bytes(stub: Stub) -> None:
    """Tensors without elements, strings too, are a body without chunks, and still a commit."""
    empty_rows = entry(
        variable="words", region=rows(), tensor=header(dtype=7, shape=[0], byte_length=0)
    )
    nothing = entry(variable="none", tensor=header(dtype=2, shape=[0, 3], byte_length=0))
    response = stub.AssignVariables(uploads(manifest(nothing, empty_rows)))
    assert response.header.revision == 1


def test_run_function(stub: Stub) -> None:
    """A function that reads answers at the present revision; one that writes makes the next."""
    total = stub.RunFunction(run(inputs={"x": floats(1, 2, 3.5)}))
    assert (value_of(total.outputs[0].tensor), total.header.revision) == (6.5, 0)
    added = stub.RunFunction(run(function="add", inputs={"n": number(5)}))
    assert (value_of(added.outputs[0].tensor), added.header.revision) == (5, 1)
    named = stub.RunFunction(run(function="add", inputs={"n": number(1)}, outputs=["count"]))
    assert ([each.name for each in named.outputs], named.header.revision) == (["count"], 2)


def test_stream_run_function(stub: Stub) -> None:
    """Inputs and outputs in chunks give what the same call in one message gives."""
    x = np.ones(700_000, "<f4")
    named = [{"name": "x", "tensor": header(shape=[x.size], byte_length=x.nbytes)}]
    kind = pb.StreamRunFunctionRequest
    data = x.tobytes()
    chunks = [chunk(at, data[at : at + 2**20], kind=kind) for at in range(0, len(data), 2**20)]
    assert len(chunks) == 3
    first, values = values_of(stub.StreamRunFunction(uploads(run_manifest(inputs=named), *chunks)))
    assert ([output.name for output in first.result.outputs], values) == (["output_0"], [700_000])
    named = [{"name": "n", "tensor": header(dtype=9, shape=[], byte_length=8)}]
    request = run_manifest(function="add", inputs=named)
    five = chunk(0, number(5).data, kind=kind)
    first, values = values_of(stub.StreamRunFunction(uploads(request, five)))
    assert (first.result.header.revision, values) == (1, [5])


def test_every_answer_says_which_state_it_speaks_of(stub: Stub) -> None:
    """Model, version, epoch and revision are in the header of every response."""
    kind = pb.StreamRunFunctionRequest
    first = stub.AssignVariable(assign()).header
    reads = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "v"}])
    body = chunk(0, bytes(12), kind=kind)
    same_state = [
        stub.ListModels(pb.ListModelsRequest()).models[1].header,
        stub.GetModel(pb.GetModelRequest(model=MODEL)).header,
        stub.ReadVariable(read()).header,
        stub.ReadVariable(read(if_newer_than=1)).header,
        values_of(stub.ReadVariables(reads))[0].manifest.header,
        stub.RunFunction(run()).header,
        values_of(stub.StreamRunFunction(uploads(run_manifest(), body)))[0].result.header,
    ]
    assert all(found == first for found in same_state)
    then = stub.AssignVariables(uploads(manifest(), chunk(0, bytes(12)))).header
    assert (first.model, first.version, first.revision) == ("counter", 1, 1)
    assert (then.epoch, then.revision) == (first.epoch, 2)
