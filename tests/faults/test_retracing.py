"""TensorFlow never frees a trace: nothing that a client sends may cause one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import rss_bytes
from varserve.tensors import DTYPES, numpy_dtype
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Constant, Operation
from varserve_service.core.ports.messages import Read
from varserve_service.core.values.casts import FLOATS
from varserve_service.core.values.summaries import HistogramSpec, summarize

CALLS = 10_000
MIB = 2**20


def an_array(choose: random.Random) -> np.ndarray[Any, Any]:
    """Half of them fit `total(x: float32 [?])`, in one of 2,000 lengths."""
    dtype: str = choose.choice(DTYPES)
    shape = [choose.randrange(6) for _ in range(choose.randrange(4))]
    if choose.random() < 0.5:
        dtype, shape = "float32", [choose.randrange(2000)]
    if dtype == "string":
        return np.full(shape, b"x", object)
    return np.ones(shape, numpy_dtype(dtype))


def a_region(choose: random.Random) -> Region | None:
    rows = Rows(np.arange(choose.randrange(5)))
    return choose.choice([None, rows, Slices((Slice(0, choose.randrange(5)),))])


def call(live: LiveModel, choose: random.Random) -> bool:
    """One call of any kind; whether it was accepted."""
    array = an_array(choose)
    constant = Constant(choose.choice([None, True, 1, 1.5, "x"]))
    try:
        match choose.randrange(5):
            case 0 | 1:
                live.run("total", {"x": array}, {"y": constant} if choose.random() < 0.1 else {})
            case 2:
                operation = choose.choice(list(Operation))
                live.assign([Write("v", operation, array[:3], a_region(choose))])
            case 3:
                (entry,) = live.read([Read("v", a_region(choose))]).entries
                assert entry.value is not None
                summarize(entry.value, histogram=HistogramSpec(choose.randint(1, 99)))
            case _:
                dtype = choose.choice([None, *FLOATS])
                (entry,) = live.read([Read("v", a_region(choose), dtype)]).entries
                assert entry.value is not None
                entry.value.numpy()
    except (RequestError, IndexError):
        return False
    return True


def test_ten_thousand_shapes_and_dtypes_trace_nothing(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 calls of as many shapes and dtypes: no new trace, and at most 20 MiB more memory."""
    from tensorflow.python.framework.func_graph import FuncGraph

    from varserve_service import savedmodel

    folder = model_folder("counter")
    live = LiveModel(savedmodel.load("counter", folder, placement=savedmodel.Placement()))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    for _ in range(500):  # what is compiled on first use, and what the allocator keeps
        call(live, choose)

    traced = []
    make = FuncGraph.__init__

    def count(self: Any, name: Any, *args: Any, **kwargs: Any) -> None:
        traced.append(name)
        make(self, name, *args, **kwargs)

    monkeypatch.setattr(FuncGraph, "__init__", count)
    before = rss_bytes()
    accepted = sum(call(live, choose) for _ in range(CALLS))
    grown = rss_bytes() - before

    assert traced == []
    assert grown <= 20 * MIB
    assert accepted >= CALLS // 4, "too few calls were accepted to say anything"
