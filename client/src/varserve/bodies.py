"""Bodies of streaming calls here: arrays to chunk messages, and chunk messages to arrays.

Owns where received bytes go: straight into the arrays that are the answer. Knows no calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from queue import Queue
from threading import Thread
from typing import Any, TypeAlias

import numpy as np

from . import errors, frames, tensors
from .frames import BodyReceiver, BytesPart, ChunkFrame
from .tensors import Array

Progress: TypeAlias = Callable[[int, int], None]
"""Is told the bytes that have moved, and how many there are in all."""

# A body of this size is worth a thread, which takes a tenth of a millisecond to begin.
_THREAD_BYTES = 8 << 20
# Chunks that may have come and wait to be copied.
_WAITING = 4

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Bodies of calls that are made in the block tell how far they have come.

    An attempt that is made again begins at 0 again. `progress` may be called from any thread.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


@cache
def keep_what_is_freed() -> None:
    """Let the memory that one message leaves be there for the next one.

    glibc gives what is free at the end of its heap back to the system when it is more than twice
    the largest block that it ever mapped by itself and freed, as mallopt(3) has it, and each
    message of a body would have to be given its pages anew: a third of the time. So it is shown
    one of nearly 32 MiB, the most that counts. Nothing touches it; any other allocator does not
    mind.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


class BodyDownload:
    """Receives a manifest and then chunks, straight into the arrays that are the answer.

    `into`: for each tensor the caller's own array, C-contiguous and writable; None for a new one.
    """

    def __init__(
        self,
        headers: Callable[[Any], Sequence[Any]],
        chunk_bytes: int,
        expected: int | None = None,
        into: Sequence[Array | None] = (),
    ) -> None:
        keep_what_is_freed()
        self._headers = headers
        self._chunk_bytes = chunk_bytes
        self._expected = expected
        self._into = into
        self._manifest: Any = None
        self._arrays: list[Array] = []
        self._shapes: list[tuple[int, ...] | None] = []
        self._receiver: BodyReceiver | None = None
        self._copying: _Copying | None = None
        self._progress = _progress.get()
        self._received = self._total = 0

    def take(self, message: Any) -> None:
        """The manifest first, then a ChunkFrame each."""
        if isinstance(message, ChunkFrame):
            if self._receiver is None:
                raise errors.ServiceError("a chunk came before the manifest")
            (self._copy if self._copying is None else self._copying.take)(message)
        elif self._receiver is None:
            self._open(message)
        else:
            raise errors.ServiceError("a second manifest came")

    def _copy(self, frame: ChunkFrame) -> None:
        assert self._receiver is not None
        self._receiver.take(frame)
        if self._progress is not None:
            self._received += len(frame.data)
            self._progress(self._received, self._total)

    def _open(self, message: Any) -> None:
        self._manifest = getattr(message, message.WhichOneof("message") or "", None)
        headers = [] if self._manifest is None else self._headers(self._manifest)
        if self._manifest is None or self._expected not in (None, len(headers)):
            raise errors.ServiceError(f"expected a manifest of {self._expected} tensors")
        destinations = []
        for index, header in enumerate(headers):
            name, shape, nbytes = tensors.check_header(header)
            is_string = name == tensors.STRING
            own = self._into[index] if index < len(self._into) else None
            array: Array
            if own is not None:
                if own.dtype != tensors.numpy_dtype(name) or own.nbytes != nbytes:
                    raise errors.ShapeMismatch(
                        f"the value is {name} {list(shape)} now; `out` is {own.dtype} "
                        f"{list(own.shape)}"
                    )
                array = own.reshape(shape)
            elif is_string:
                array = np.empty(nbytes, np.uint8)
            else:
                array = np.empty(shape, tensors.numpy_dtype(name))
            self._arrays.append(array)
            self._shapes.append(shape if is_string else None)
            destinations.append(array.reshape(-1).view(np.uint8))
        self._receiver = BodyReceiver(destinations, self._chunk_bytes)
        self._total = sum(each.nbytes for each in destinations)
        if self._total >= _THREAD_BYTES:
            self._copying = _Copying(self._copy)

    def close(self) -> None:
        """Touch the arrays no more. To be called however the call ended."""
        if self._copying is not None:
            self._copying.close()

    def finish(self) -> tuple[Any, list[Array]]:
        """The manifest and its arrays."""
        if self._receiver is None:
            raise errors.ServiceError("the answer ended before its manifest")
        if self._copying is not None:
            self._copying.finish()
        self._receiver.finish()
        arrays = []
        for array, shape in zip(self._arrays, self._shapes, strict=True):
            if shape is None:
                tensors.check_bool(array)
                arrays.append(array)
            else:
                arrays.append(tensors.strings_from_body(array.data, shape))
        return self._manifest, arrays


class _Copying:
    """Takes chunks on a thread of its own: to check and copy one costs half of receiving it."""

    def __init__(self, copy: Callable[[ChunkFrame], None]) -> None:
        self._copy = copy
        self._waiting: Queue[ChunkFrame | None] = Queue(_WAITING)
        self._failure: BaseException | None = None
        self._thread: Thread | None = Thread(target=self._run, name="varserve-copy", daemon=True)
        self._thread.start()

    def take(self, frame: ChunkFrame) -> None:
        """Let it be copied. Raises what an earlier one has raised."""
        if self._failure is not None:
            raise self._failure
        self._waiting.put(frame)

    def finish(self) -> None:
        """All are copied. Raises what one of them has raised."""
        self.close()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Copy what has been taken, unless one failed, and end the thread. Again: nothing."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (frame := self._waiting.get()) is not None:
            if self._failure is None:
                try:
                    self._copy(frame)
                except BaseException as error:
                    self._failure = error


def upload(manifest: bytes, arrays: Sequence[Array], chunk_bytes: int) -> Iterator[bytes]:
    """The messages of a request: the manifest, and the chunks of the arrays' body."""
    keep_what_is_freed()
    # Here and now: the messages are made on a thread of gRPC's.
    progress = _progress.get()
    messages = _upload(manifest, arrays, chunk_bytes)
    if progress is None:
        return messages
    total = sum(tensors.body_length(each) for each in arrays)
    return _told(messages, chunk_bytes, total, progress)


def _upload(manifest: bytes, arrays: Sequence[Array], chunk_bytes: int) -> Iterator[bytes]:
    yield manifest
    parts = (
        BytesPart(tensors.strings_to_body(each) if each.dtype.kind == "O" else each)
        for each in arrays
    )
    yield from frames.body_messages(parts, chunk_bytes)


def _told(
    messages: Iterator[bytes], chunk_bytes: int, total: int, progress: Progress
) -> Iterator[bytes]:
    yield next(messages)
    for count, message in enumerate(messages, 1):
        yield message
        progress(min(total, count * chunk_bytes), total)
