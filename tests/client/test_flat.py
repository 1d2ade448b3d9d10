"""The flat methods: one for each RPC, in both clients."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import varserve
from varserve._late import homes_of
from varserve.v1 import model_service_pb2 as pb

from .scripted import Scripted

# Sessions carry the calls of others, and have no methods of their own.
RPCS = [
    method.name
    for method in pb.DESCRIPTOR.services_by_name["ModelService"].methods
    if method.name not in ("Session", "WatchSession")
]


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_has_a_method(rpc: str) -> None:
    """Each RPC of the contract has a documented method of its name, with a timeout."""
    method = getattr(varserve.Client, snake(rpc))
    assert method.__doc__
    assert "timeout" in inspect.signature(method).parameters


def test_flat_methods(client: varserve.Client) -> None:
    """Each flat method does what its RPC says."""
    assert [each.name for each in client.list_models()] == ["fake"]
    spec = client.get_model("fake")
    assert {each.name for each in spec.functions} == {"double", "spread", "divide"}
    reading = client.read_variable("fake", "weights", region=np.s_[0, 1:3])
    assert (reading.value.shape, reading.variable_revision) == ((2, 5), 0)
    assert client.read_variable("fake", "weights", if_newer_than=0).value is None
    assert client.read_variable("fake", "weights", if_newer_than=0, epoch="other").value is not None
    commit = client.assign_variable(
        "fake", "counter", np.int64(3), operation="add", read_back=True, if_model_revision_match=0
    )
    assert (commit.revision, int(commit.value)) == (1, 10)
    writes = [
        varserve.Write("counter", np.int64(1)),
        varserve.Write("weights", np.ones((1, 4, 5), np.float32), "sub", varserve.Rows([0])),
    ]
    assert client.assign_variables("fake", writes).revision == 2
    assert client.assign_variables("fake", {"counter": np.int64(5)}).revision == 3
    half = client.read_variable("fake", "weights", dtype="float16").value
    assert half.dtype == np.float16
    cast = client.read_variables("fake", ["weights", "large"], dtypes={"large": np.float32})
    assert [cast[name].dtype for name in cast] == [np.float32, np.float32]
    with pytest.raises(varserve.CastUnsupported):
        client.read_variables("fake", ["counter"], dtypes={"counter": "float32"})
    snapshot = client.read_variables("fake", ["counter", "large"])
    assert (int(snapshot["counter"]), snapshot.revisions["counter"]) == (5, 3)
    x = np.ones(3, np.float32)
    assert client.run_function("fake", "double", {"x": x})["y"].tolist() == [2, 2, 2]
    large = np.ones(100_000, np.float32)
    assert client.stream_run_function("fake", "double", {"x": large})["y"].sum() == 200_000
    assert client.list_commits("fake", limit=2)[0].revision == 3
    assert int(client.read_variable("fake", "counter", at_revision=1).value) == 10
    assert int(client.read_variables("fake", ["counter"], at_revision=2)["counter"]) == 1
    watch = client.watch_variables("fake", "counter", after_revision=1)
    assert [int(next(watch)["counter"].value) for _ in range(2)] == [1, 5]
    watch.close()
    assert client.revert_commits("fake", 2, ["counter"], message="undo").revision == 4
    lease = client.assign_variable("fake", "counter", np.int64(9), lease_seconds=60).revision
    assert client.renew_lease("fake", lease) == 60
    assert client.revoke_lease("fake", lease).revision == 6
    with pytest.raises(varserve.LeaseNotFound):
        client.renew_lease("fake", lease)
    with pytest.raises(varserve.MessageTooLarge):
        client.read_variable("fake", "large")
    with pytest.raises(varserve.EpochMismatch):
        client.assign_variable("fake", "counter", np.int64(1), if_epoch_match="other")


def test_request_id_is_done_once(client: varserve.Client) -> None:
    """A write that comes again with its request_id is not done again."""
    for _ in range(2):
        commit = client.assign_variable(
            "fake", "counter", np.int64(1), operation="add", request_id="one"
        )
        assert commit.revision == 1
    with pytest.raises(varserve.RequestIdReused):
        client.assign_variable("fake", "counter", np.int64(2), request_id="one")


def test_signature_before_path(scripted: Scripted) -> None:
    """Where a signature's key is a function's path, the key means the signature."""
    with varserve.connect(scripted.address) as client:
        functions = client.model("m").functions
        assert functions["key"].path == functions["signatures/key"].path == "signatures/key"
        assert functions["./key"].path == "key"
        assert {each.name for each in functions.values()} == set(functions)


def test_async_client_is_the_same(address: str) -> None:
    """With await, the same names give the same answers."""

    async def use() -> None:
        async with varserve.aio.connect(address) as client:
            await client.wait_ready()
            await client.wait_ready("fake")
            assert [each.name for each in await client.models()] == ["fake"]
            model = await client.model("fake")
            weights = model.variables["weights"]
            before = await weights.numpy()
            assert (await weights.assign(before + 1)).revision == 1
            await weights[0].assign_add(np.ones((4, 5), np.float32))
            assert (await weights[0, 0, 0].numpy()) == 2
            assert (await weights.numpy(dtype="bfloat16")).dtype.name == "bfloat16"
            large = model.variables["large"]
            value = await large.numpy()
            assert (await large.assign(value[::-1])).revision == 3
            np.testing.assert_array_equal(await large.numpy(), value[::-1])
            snapshot = await model.read(["counter", "large"])
            async with model.transaction(if_revision_match=snapshot) as txn:
                txn.assign("counter", snapshot["counter"] + 1)
            assert txn.revision == 4
            assert (await model.functions["double"](x=[1]))["y"].tolist() == [2]
            assert (await model.functions["spread"](n=50_000))["ones"].sum() == 50_000
            values = await asyncio.gather(*(weights.numpy() for _ in range(20)))
            assert len({value.tobytes() for value in values}) == 1
            with pytest.raises(varserve.VariableUninitialized):
                await model.variables["unset"].numpy()
            with pytest.raises(varserve.DtypeMismatch):
                await weights.assign("text")
            with pytest.raises(TypeError, match="await"):
                np.asarray(weights)
        with pytest.raises(varserve.ClientClosed):
            await client.models()

    asyncio.run(use())


def test_wrong_kind_of_with(address: str) -> None:
    """`with` on an asyncio client and `async with` on a blocking one say what to use instead."""
    client = varserve.aio.connect(address)
    with pytest.raises(TypeError, match="async with"), client:  # type: ignore[attr-defined]
        pass

    async def enter() -> None:
        async with varserve.connect(address):  # type: ignore[attr-defined]
            pass

    with pytest.raises(TypeError, match="use with"):
        asyncio.run(enter())


def test_exported_members() -> None:
    """What the package exports is what it imports, sorted, and each has a docstring."""
    imported = [
        name
        for name, value in vars(varserve).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("Any", "TYPE_CHECKING")
    ]
    assert sorted(varserve.__all__) == varserve.__all__ == dir(varserve)
    assert set(imported) <= set(varserve.__all__)
    assert all(getattr(varserve, name).__doc__ for name in varserve.__all__)
    with pytest.raises(AttributeError, match="no attribute 'connekt'"):
        varserve.connekt  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "package",
    ["_public", "_client/operations", "_client/values", "_client/transport/sessions"],
)
def test_names_that_come_late_are_those_that_type_checkers_see(package: str) -> None:
    """What a package gives when it is first used is what it imports for type checkers."""
    file = Path(varserve.__file__).parent / package
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    (seen,) = (
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    expected = {
        (name.name, f"{'.' * each.level}{each.module}")
        for each in seen.body
        if isinstance(each, ast.ImportFrom)
        for name in each.names
    }
    homes = {
        key: value
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Dict)
        for key, value in homes_of(ast.literal_eval(node)).items()
    }
    assert expected == set(homes.items())
    module = import_module("varserve." + package.replace("/", "."))
    given = varserve if package == "_public" else module
    assert all(getattr(given, name) is not None for name in homes)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        given.nothing  # noqa: B018


def test_importing_brings_no_tensorflow() -> None:
    """Importing the client imports no TensorFlow, nothing of the service or the command line."""
    code = "import sys, varserve; varserve.Client; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    unwanted = re.compile(
        r"(tensorflow|keras|varserve_service|structlog|click|rich|safetensors|grpc_health\.v1)\b"
    )
    assert [name for name in loaded.stdout.split() if unwanted.match(name)] == []


def test_the_package_alone_brings_nothing() -> None:
    """Importing the package imports no gRPC and no numpy before something of it is used; a module
    of the contract comes without the client."""
    code = "import sys, varserve; print(*sys.modules); import varserve.tensors; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    alone, contract = (line.split() for line in loaded.stdout.splitlines())
    assert {"grpc", "numpy", "google.protobuf", "dataclasses"} & set(alone) == set()
    assert "varserve.tensors" in contract
    assert {"grpc", "varserve._public", "varserve._client"} & set(contract) == set()


def test_importing_brings_little() -> None:
    """The client imports nothing that only a rare feature needs, and grpc and numpy have not
    imported."""
    code = (
        "import sys, grpc, numpy; before = set(sys.modules); import varserve; "
        "varserve.connect; print(*(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert "varserve._client.client" in loaded
    rare = {
        "varserve.aio",
        "varserve._client.admin",
        "varserve._client.handles.models",
        "varserve._client.operations.reads",
        "varserve._client.transport.sessions.base",
        "varserve._client.values.specs",
        "varserve.v1.model_service_pb2",
        "crc32c",
        "difflib",
        "hashlib",
        "importlib.metadata",
        "ipaddress",
        "ml_dtypes",
        "json",
        "pathlib",
    }
    assert rare & set(loaded) == set()


TYPED = """
import numpy as np
import varserve
from varserve import aio


def blocking(client: varserve.Client) -> None:
    model: varserve.Model = client.model("m")
    kernel: varserve.Variable = model.variables["k"]
    reveal_type(kernel.numpy())
    reveal_type(kernel[0].assign([1], read_value=True))
    reveal_type(model.functions["f"](x=1))
    with model.transaction() as txn:
        reveal_type(txn.assign("a", 1))
    with client:
        reveal_type(client.read_variable("m", "k"))
    kernel.numpy(timeout="no")  # wrong: seconds are a number


async def awaited(client: aio.Client) -> None:
    model: aio.Model = await client.model("m")
    kernel: aio.Variable = model.variables["k"]
    reveal_type(await kernel.numpy())
    reveal_type(await model.functions["f"](x=1))
    async with aio.connect("x") as other:
        reveal_type(await other.read_variable("m", "k"))
    np.sum(kernel.numpy() + 1)  # wrong: not awaited
    with client:  # wrong: async with
        pass
"""


@pytest.mark.slow
def test_types_for_users(tmp_path: Path) -> None:
    """mypy --strict sees arrays from the blocking client and awaitables from the asyncio one."""
    source = tmp_path / "user.py"
    source.write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", str(source)]
    found = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    # Some versions of mypy write `builtins.tuple`.
    revealed = re.findall(r'Revealed type is "([^"]*)"', found.replace("builtins.", ""))
    array = "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]"
    assert revealed == [
        array,
        "varserve._client.values.results.Commit",
        "varserve._client.values.results.Outputs",
        "None",
        "varserve._client.values.results.Reading",
        array,
        "varserve._client.values.results.Outputs",
        "varserve._client.values.results.Reading",
    ], found
    lines = {int(line) for line in re.findall(r"user\.py:(\d+): error", found)}
    wrong = {n for n, text in enumerate(TYPED.splitlines(), 1) if "# wrong" in text}
    assert lines == wrong, found
