"""Bodies large enough for a thread that copies them beside the one that receives."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from varserve import bodies, frames, tensors
from varserve.bodies import BodyDownload
from varserve.frames import ChunkFrame, FrameError
from varserve.v1 import model_service_pb2 as pb

CHUNK = 1 << 20
VALUE = np.arange(10 * CHUNK // 4 + 1, dtype=np.float32)
THREAD = "varserve-copy"


def messages(value: tensors.Array = VALUE) -> Iterator[pb.ReadManifest | ChunkFrame]:
    """What the service sends of one value, as it is read."""
    manifest = pb.ReadManifest(entries=[pb.ReadEntry(tensor=tensors.to_header(value))])
    yield pb.ReadVariablesResponse(manifest=manifest)
    for each in frames.body_messages([frames.BytesPart(value)], CHUNK):
        yield frames.read_variables_response(each)


def download(into: tensors.Array | None = None) -> BodyDownload:
    return BodyDownload(lambda found: [each.tensor for each in found.entries], CHUNK, 1, [into])


def receive(receiver: BodyDownload, wrong: int | None = None) -> tensors.Array:
    """The value; `wrong` is the number of a chunk whose checksum is not its own."""
    for number, message in enumerate(messages()):
        if number == wrong:
            assert isinstance(message, ChunkFrame)
            receiver.take(message._replace(crc32c=message.crc32c ^ 1))
        else:
            receiver.take(message)
    _, (array,) = receiver.finish()
    return array


def copying() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.mark.parametrize("into", [None, np.zeros_like(VALUE)])
def test_a_large_body_is_copied_beside_what_receives_it(into: tensors.Array | None) -> None:
    """Every byte of it is there when it has ended, and the thread is not."""
    told: list[tuple[int, int]] = []
    with bodies.telling(lambda *moved: told.append(moved)):
        receiver = download(into)
    for message in messages():
        receiver.take(message)
    assert len(copying()) == 1
    _, (array,) = receiver.finish()
    assert (array == VALUE).all()
    assert into is None or np.shares_memory(array, into)
    assert told[-1] == (VALUE.nbytes, VALUE.nbytes)
    assert not copying()


@pytest.mark.parametrize("which", [1, 5, 11])
def test_a_chunk_that_does_not_hold_is_told(which: int) -> None:
    """By one of the next, or at the end; what comes after it is not written."""
    into = np.zeros_like(VALUE)
    receiver = download(into)
    with pytest.raises(FrameError) as caught:
        receive(receiver, which)
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    receiver.close()
    assert not copying()
    whole = (which - 1) * CHUNK // 4
    assert (into[:whole] == VALUE[:whole]).all()
    assert not into[whole:].any()


def test_a_body_that_breaks_off_leaves_no_thread() -> None:
    """Nobody writes into the caller's array after the call."""
    into = np.zeros_like(VALUE)
    receiver = download(into)
    for message, _ in zip(messages(), range(4), strict=False):
        receiver.take(message)
    receiver.close()
    assert not copying()
    assert (into[: 3 * CHUNK // 4] == VALUE[: 3 * CHUNK // 4]).all()
    receiver.close()
    with pytest.raises(FrameError, match="ended after"):
        receiver.finish()


def test_who_is_told_and_fails_ends_the_call() -> None:
    """As where there is no thread."""

    def fail(moved: int, total: int) -> None:
        raise RuntimeError(f"{moved} of {total}")

    with bodies.telling(fail):
        receiver = download()
    with pytest.raises(RuntimeError, match=f"of {VALUE.nbytes}"):
        receive(receiver)
    receiver.close()
    assert not copying()
