"""Summaries as the client's user asks for them."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import pytest

import varserve
import varserve.aio

WEIGHTS = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def test_of_a_variable(model: varserve.Model) -> None:
    """A variable's summary has Python numbers, the hash of its value, and reads well."""
    found = model.variables["weights"].summary(bins=4)
    assert (found.variable, found.variable_revision) == ("weights", 0)
    assert (found.dtype, found.shape, found.nbytes) == (np.float32, (3, 4, 5), 240)
    assert (found.count, found.zeros, found.min, found.max) == (60, 1, 0.0, 59.0)
    assert type(found.min) is float
    assert np.isclose(found.mean, 29.5)
    assert np.isclose(found.standard_deviation, WEIGHTS.std())
    assert np.isclose(found.norm, np.linalg.norm(WEIGHTS))
    assert found.finite
    assert found.content_hash == varserve.content_hash(WEIGHTS)
    assert found.histogram is not None
    assert found.histogram.counts.tolist() == [15, 15, 15, 15]
    assert found.histogram.edges.tolist() == [0, 14.75, 29.5, 44.25, 59]
    assert repr(found.histogram) == "<varserve.Histogram [0|████|59]>"
    assert repr(found) == (
        "<varserve.Summary of 'weights' float32 [3, 4, 5]: min 0, max 59, mean 29.5, "
        f"std 17.3181, norm 264.972, 1 zeros, histogram |████|, hash {found.content_hash[:12]}>"
    )


def test_of_a_region(model: varserve.Model) -> None:
    """A region's summary is of what numpy shows, its shape and hash too."""
    region = model.variables["weights"][0, 1:3]
    found = region.summary(content_hash=False, bins=2, range=(6, 8))
    assert (found.shape, found.count, found.content_hash) == ((2, 5), 10, "")
    assert found.histogram is not None
    assert found.histogram.counts.tolist() == [1, 2]
    assert "1 below, 6 above" in repr(found.histogram)


def test_hashes_of_regions_are_of_the_shape_as_it_travels(model: varserve.Model) -> None:
    """No dimension is dropped on the way: the hash is of the region with all of them."""
    found = model.variables["weights"][0, 1:3].summary()
    assert found.content_hash == varserve.content_hash(WEIGHTS[0:1, 1:3])


def test_of_many(model: varserve.Model) -> None:
    """Names, paths and patterns choose; variables without a value are left out of patterns."""
    every = model.summaries()
    assert set(every) == set(model.variables) - {"unset"}
    assert every.revision == 0
    some = model.summaries(["la*s", "layers/0/kernel"])
    assert list(some) == ["labels", "layers/0/kernel"]
    assert some["labels"].max == 3
    assert some["layers/0/kernel"].variable == "kernel"
    parts = model.summaries({"weights": np.s_[0], "table": varserve.Rows([1, 2])})
    assert [each.count for each in parts.values()] == [20, 8]
    assert repr(some).splitlines()[0] == "2 summaries of 'fake' at revision 0:"
    assert model.summaries("flag")["flag"].max is True
    assert type(model.summaries("counter")["counter"].min) is int


def test_refusals(model: varserve.Model) -> None:
    """What cannot be summarized is told before or by the service, by its class."""
    with pytest.raises(varserve.VariableNotFound, match="nope"):
        model.summaries("nope*")
    with pytest.raises(varserve.VariableNotFound, match="weight"):
        model.summaries(["weight"])
    with pytest.raises(varserve.VariableUninitialized):
        model.variables["unset"].summary()
    with pytest.raises(varserve.InvalidRequest, match="at least one"):
        model.summaries([])
    with pytest.raises(varserve.InvalidRequest, match="bins"):
        model.summaries(range=(0, 1))
    with pytest.raises(varserve.InvalidRequest, match="4096"):
        model.summaries(bins=4097)
    with pytest.raises(varserve.InvalidRequest):
        model.summaries(bins="x")  # type: ignore[arg-type]
    with pytest.raises(varserve.MessageTooLarge):
        model.summaries(bins=4096)


def test_earlier_revisions(model: varserve.Model) -> None:
    """A summary at an earlier revision is of the value as it was."""
    counter = model.variables["counter"]
    counter.assign(9)
    assert (counter.summary().max, counter.summary().variable_revision) == (9, 1)
    assert counter.summary(at_revision=0).max == 7
    assert model.summaries(["counter"], at_revision=0)["counter"].max == 7
    with pytest.raises(varserve.RevisionInFuture):
        counter.summary(at_revision=5)


def test_flat(client: varserve.Client) -> None:
    """The flat method takes names or a mapping with regions."""
    found = client.summarize_variables("fake", ["counter", "flag"], bins=1)
    assert [each.count for each in found.values()] == [1, 2]
    found = client.summarize_variables("fake", {"weights": np.s_[1:]}, content_hash=False)
    assert (found["weights"].min, found["weights"].content_hash) == (20.0, "")


async def test_awaited(address: str) -> None:
    """The asyncio client gives the same."""
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        one = await model.variables["weights"].summary()
        assert one.content_hash == (await model.summaries("w*"))["weights"].content_hash
        flat = await client.summarize_variables("fake", ["weights"])
        assert flat["weights"].max == one.max


def test_a_hash_anybody_can_make() -> None:
    """The hash is SHA-256 of dtype, shape and bytes, in whatever layout the array is."""
    a = np.arange(6, dtype=">f4").reshape(2, 3)
    expected = hashlib.sha256(b"float32 2,3\n" + a.astype("<f4").tobytes()).hexdigest()
    assert varserve.content_hash(a) == expected
    assert varserve.content_hash(np.asfortranarray(a)) == expected
    assert varserve.content_hash(a.T) != expected
    lengths = b"\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"
    strings = hashlib.sha256(b"string 2\n" + lengths + b"abb").hexdigest()
    assert varserve.content_hash(["a", b"bb"]) == strings
    bfloat16 = np.ones((), ml_dtypes.bfloat16)
    assert varserve.content_hash(bfloat16) == hashlib.sha256(b"bfloat16 \n\x80\x3f").hexdigest()
