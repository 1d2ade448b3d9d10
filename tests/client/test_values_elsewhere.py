"""Handles and values beside other packages: pickles, operators, DLPack, arrays of any library."""

from __future__ import annotations

import array
import copy
import ctypes
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import varserve
import varserve.aio
from tests.waiting import until

# ---- pickles ----


def again(handle: Any) -> Any:
    return pickle.loads(pickle.dumps(handle))


def test_handles_pickle_and_connect_when_they_are_used(model: varserve.Model) -> None:
    """A handle of each kind reads and writes after a pickle, on a connection of its own."""
    counter, weights = model.variables["counter"], model.variables["weights"]
    assert again(counter).numpy() == 7
    assert again(counter).dtype == np.int64
    assert np.array_equal(again(weights[1, ..., -1]).numpy(), weights[1, ..., -1].numpy())
    again(weights[0, 0, 0]).assign(50)
    assert weights.numpy()[0, 0, 0] == 50
    assert again(model.variables["kernel"]).path == "layers/0/kernel"
    assert again(model.functions["double"])(x=np.ones(2, np.float32))["y"].tolist() == [2, 2]
    assert again(model).read(["counter"])["counter"] == 7
    assert list(again(model.variables)) == list(model.variables)
    assert list(again(model.functions)) == list(model.functions)


def test_a_pickle_asks_nobody(address: str) -> None:
    """Neither making nor reading a pickle needs the service; a use of the handle does."""
    with varserve.connect(address) as client:
        data = pickle.dumps(client.model("fake").variables["counter"])
    moved = data.replace(address.encode(), b"127.0.0.1:" + b"1".rjust(len(address) - 10, b"0"))
    handle = pickle.loads(moved)
    with pytest.raises(varserve.Unavailable):
        handle.numpy(timeout=20)
    assert pickle.loads(data).numpy() == 7


def test_handles_of_one_model_share_a_connection(model: varserve.Model) -> None:
    """Any number of unpickled handles ask for the description once."""
    handles = [again(each) for each in model.variables.values()]
    assert len({id(each._cache) for each in handles}) == 1
    assert len({id(each._driver) for each in handles}) == 1
    assert handles[0]._driver is not model._driver


async def test_awaited_handles_pickle_too(address: str) -> None:
    """They ask with their first call; before it, attributes say what to await."""
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        counter = again(model.variables["counter"])
        with pytest.raises(varserve.InvalidRequest, match="await its numpy"):
            counter.shape  # noqa: B018
        assert await counter.numpy() == 7
        assert counter.shape == ()
        await counter._driver._channel.close()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"token": "very-secret"}, "token"),
        ({"token": lambda: "very-secret"}, "token"),
        ({"metadata": [("x-key", "very-secret")]}, "metadata"),
    ],
)
def test_credentials_are_not_pickled(address: str, options: Any, missing: str) -> None:
    """A handle whose client had a credential says so when it is used elsewhere."""
    with varserve.connect(address, **options) as client:
        data = pickle.dumps(client.model("fake").variables["counter"])
    assert b"very-secret" not in data
    handle = pickle.loads(data)
    with pytest.raises(
        varserve.InvalidRequest, match=f"its {missing} was not: connect to {address}"
    ):
        handle.numpy()
    with pytest.raises(varserve.InvalidRequest, match=f"its {missing} was not"):
        again(handle).numpy()


def test_what_belongs_to_its_process_does_not_pickle(model: varserve.Model) -> None:
    """Watches, leases and mirrors say so by name; copies of them and of handles are themselves."""
    counter = model.variables["counter"]
    with (
        model.watch(timeout=30) as watch,
        model.transaction() as transaction,
        model.mirror("counter") as mirror,
    ):
        for each in (watch, transaction, mirror, counter.lease(1, seconds=9)):
            with pytest.raises(TypeError, match=f"a {type(each).__name__} belongs to its process"):
                pickle.dumps(each)
            assert copy.copy(each) is copy.deepcopy(each) is each
    assert copy.copy(counter) is counter
    assert copy.deepcopy(model) is model


def test_what_lists_a_model_is_compared_without_its_values(model: varserve.Model) -> None:
    """Mappings of handles are equal to themselves alone, and go into sets."""
    for each in (model.variables, model.functions):
        assert each == each
        assert each != dict(each)
        assert len({each, each}) == 1


# ---- operators ----


def test_a_variable_is_its_value_in_arithmetic(model: varserve.Model) -> None:
    """Operators, numpy's functions and conversions work on the value, and give local arrays."""
    counter, weights = model.variables["counter"], model.variables["weights"]
    value = weights.numpy()
    assert (counter + 1, 1 + counter, counter * 2, -counter, counter**2) == (8, 8, 14, -7, 49)
    assert (counter // 2, counter % 4, counter / 2, divmod(counter, 2)) == (3, 3, 3.5, (3, 1))
    assert (float(counter), int(counter), complex(counter), bool(counter)) == (7.0, 7, 7 + 0j, True)
    assert range(10)[counter] == 7
    assert (counter > 6, counter == 7, counter != 7) == (True, True, False)
    assert np.array_equal(weights - weights, np.zeros_like(value))
    assert np.array_equal(weights[0] @ weights[0].numpy().T, value[0] @ value[0].T)
    assert np.array_equal(np.sqrt(weights), np.sqrt(value))
    assert np.array_equal(value + weights, value * 2)
    assert np.add.reduce(weights[0, 0]) == value[0, 0].sum()
    assert abs(weights[2, 3, 4]) == 59
    assert (len(weights), len(weights[0]), len(model.variables["growing"])) == (3, 4, 2)
    assert len({counter: 1, weights: 2}) == 2
    assert model.revision == 0


def test_operators_change_nothing_in_silence(model: varserve.Model) -> None:
    """`+=` says which methods write; what has no meaning is a TypeError."""
    counter, weights = model.variables["counter"], model.variables["weights"]
    with pytest.raises(TypeError, match="expected assign, assign_add or assign_sub"):
        counter += 1
    with pytest.raises(TypeError, match="expected assign"):
        np.add(1, 1, out=(weights,))
    with pytest.raises(TypeError, match="scalar and has no length"):
        len(counter)
    with pytest.raises(TypeError, match="is no integer"):
        range(3)[weights]
    with pytest.raises(TypeError):
        iter(weights)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(weights)
    assert model.revision == 0


async def test_awaited_handles_do_not_block_for_an_operator(address: str) -> None:
    """They say what to await."""
    async with varserve.aio.connect(address) as client:
        counter = (await client.model("fake")).variables["counter"]
        for use in (float, lambda v: v + 1, np.asarray, bool):
            with pytest.raises(TypeError, match=r"await variable\.numpy"):
                use(counter)  # type: ignore[operator]


def test_dlpack(model: varserve.Model) -> None:
    """Values go to other libraries by DLPack; what numpy cannot hand on is refused by name."""
    weights = model.variables["weights"]
    assert np.array_equal(np.from_dlpack(weights), weights.numpy())
    assert weights.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="variable 'labels': numpy hands on no string by DLPack"):
        model.variables["labels"].__dlpack__()


def test_an_event_is_iterated(model: varserve.Model) -> None:
    """`list(event)`, `len` and `in` work beside `event[name]`."""
    with model.watch(timeout=30) as watch:
        with model.transaction() as transaction:
            transaction.assign("counter", 1)
            transaction["weights"][0, 0, 0].assign(2)
        event = next(watch)
    assert [change.variable for change in event] == ["counter", "weights"]
    assert (len(event), "counter" in event, "flag" in event) == (2, True, False)
    assert event["weights"].value == 2


# ---- arrays of other libraries ----


class Tensor:
    """What this client uses of a PyTorch tensor, which numpy cannot take as it is."""

    __module__ = "torch"

    def __init__(self, values: np.ndarray, dtype: str) -> None:
        self.values, self.dtype = values, dtype

    def __array__(self, *_: object) -> np.ndarray:
        raise TypeError(f"Got unsupported ScalarType {self.dtype}")

    def detach(self) -> Tensor:
        return self

    cpu = resolve_conj = resolve_neg = detach

    def view(self, dtype: Any) -> Tensor:
        return Tensor(self.values.view(dtype), f"torch.{np.dtype(dtype).name}")

    def numpy(self) -> np.ndarray:
        if self.values.dtype.name in ("bfloat16", "float8_e5m2"):
            raise TypeError(f"Got unsupported ScalarType {self.dtype}")
        return self.values


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch")
    module.int16, module.uint8 = np.int16, np.uint8  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2", "float32"])
def test_torch_tensors_are_taken_bit_for_bit(name: str) -> None:
    """Also of dtypes that PyTorch does not hand to numpy."""
    from varserve import tensors

    values = np.array([1, -2.5, np.nan, 448]).astype(tensors.numpy_dtype(name))
    taken = tensors.as_array(Tensor(values, f"torch.{name}"), name)  # type: ignore[arg-type]
    assert taken.dtype == values.dtype
    assert taken.tobytes() == values.tobytes()


@pytest.mark.usefixtures("torch")
def test_a_tensor_that_gives_no_array_is_refused(model: varserve.Model) -> None:
    """With the variable's name and the library's own reason."""
    tensor = Tensor(np.zeros(1, ml_dtypes.bfloat16), "torch.qint8")
    with pytest.raises(
        varserve.DtypeUnsupported, match=r"'counter': a torch tensor of torch\.qint8"
    ):
        model.variables["counter"].assign(tensor)
    broken = SimpleNamespace(__array__=lambda *_: 1 / 0)
    with pytest.raises(varserve.InvalidRequest, match="'counter'"):
        model.variables["counter"].assign(broken)


def test_masked_arrays(model: varserve.Model) -> None:
    """A masked array without a masked element is its data; with one it is refused."""
    target = model.variables["flag"]
    target.assign(np.ma.MaskedArray([False, True]))
    assert target.numpy().tolist() == [False, True]
    with pytest.raises(varserve.InvalidRequest, match=r"no value for 1 of its elements.*filled"):
        target.assign(np.ma.MaskedArray([True, True], mask=[True, False]))
    assert target.numpy().tolist() == [False, True]


@pytest.mark.parametrize(
    "value",
    [
        array.array("f", [1.5, 2.5]),
        memoryview(np.array([1.5, 2.5], np.float32)),
        (ctypes.c_float * 2)(1.5, 2.5),
        np.array([1.5, 2.5], ">f4"),
    ],
    ids=["array.array", "memoryview", "ctypes", "big-endian"],
)
def test_buffers_are_taken_exactly(model: varserve.Model, value: Any) -> None:
    """Buffers have a dtype of their own: the same one is taken, another one is refused."""
    row = model.variables["table"][0, :2]
    row.assign(value)
    assert row.numpy().tolist() == [1.5, 2.5]
    with pytest.raises(varserve.DtypeMismatch, match="found float32"):
        model.variables["large"][:2].assign(value)


@pytest.mark.parametrize(
    "value",
    [array.array("d", [0.1, 0.2]), array.array("i", [1, 2]), bytearray(b"ab"), {1, 2}, {"a": 1}],
    ids=["doubles", "ints", "bytearray", "set", "dict"],
)
def test_what_would_change_is_refused(model: varserve.Model, value: Any) -> None:
    """Nothing is rounded, cast or made an object in silence."""
    with pytest.raises(varserve.DtypeMismatch, match="'table'"):
        model.variables["table"][0, :2].assign(value)
    assert model.revision == 0


def test_nothing_is_left_of_restored_handles(model: varserve.Model) -> None:
    """The connection of unpickled handles ends with the last of them."""
    import gc
    import weakref

    handle = again(model.variables["counter"])
    assert handle.numpy() == 7
    driver = weakref.ref(handle._driver)
    del handle
    until(lambda: gc.collect() >= 0 and driver() is None)
