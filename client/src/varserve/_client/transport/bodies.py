"""Bodies of streaming calls here: arrays to chunk messages, and chunk messages to arrays.

Owns where received bytes go: straight into the arrays that are the answer. Knows no calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from varserve import frames, tensors
from varserve._client import errors
from varserve.frames import BodyReceiver, BytesPart, ChunkFrame, keep_what_is_freed
from varserve.tensors import Array

from .copying import copy_all
from .pool import POOL

if TYPE_CHECKING:
    from .lane import Lane

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the bytes that have moved, and how many there are in all."""

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


class reporting:
    """Let the bodies of calls that are made in the block report how far they have come.

    An attempt that is made again begins at 0 again. `progress` may be called from any thread.
    """

    # No generator: one that is given up in the block would end wherever it is collected, in a
    # context that has not its token.
    def __init__(self, progress: Progress) -> None:
        self._given = progress

    def __enter__(self) -> None:
        self._token = _progress.set(self._given)

    def __exit__(self, *error: object) -> None:
        _progress.reset(self._token)


def current_progress() -> Progress | None:
    """What bodies of calls that are made here and now report to."""
    return _progress.get()


class Moved:
    """Reports how far a body has come, if anybody wants to know. May be called from any thread."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._changing = threading.Lock()

    def __call__(self, nbytes: int) -> None:
        """So many bytes more have moved."""
        if self._progress is not None:
            with self._changing:
                self._done += nbytes
                self._progress(self._done, self._total)


def fits_no_more(out: Array, dtype: str, shape: Sequence[int]) -> errors.ShapeMismatch:
    """The value is another than the one that the caller's array was checked for."""
    return errors.ShapeMismatch(
        f"the value is {dtype} {list(shape)} now; `out` is {out.dtype} {list(out.shape)}"
    )


class BodyDownload:
    """Receives a manifest and then chunks, straight into the arrays that are the answer.

    `into`: for each tensor the caller's own array, C-contiguous and writable; None for a new one.
    `lane`: where the manifest may send for the bodies; `mapped`: memory that comes from there is
    not copied, and is read-only.
    """

    def __init__(
        self,
        headers: Callable[[Any], Sequence[Any]],
        chunk_bytes: int,
        expected: int | None = None,
        into: Sequence[Array | None] = (),
        lane: Lane | None = None,
        mapped: bool = False,
    ) -> None:
        keep_what_is_freed()
        self._lane = lane
        self._mapped = mapped
        self._headers = headers
        self._chunk_bytes = chunk_bytes
        self._expected = expected
        self._into = into
        self._manifest: Any = None
        self._arrays: list[Array] = []
        self._shapes: list[tuple[int, ...] | None] = []
        self._receiver: BodyReceiver | None = None
        self._progress = _progress.get()
        self._received = self._total = 0

    def blocks(self, message: Any) -> bool:
        """Whether to take it means to wait, or to copy large values at once."""
        return self._lane is not None and not isinstance(message, ChunkFrame)

    def take(self, message: Any) -> None:
        """The manifest first, then a ChunkFrame each. Raises LaneFailed."""
        if isinstance(message, ChunkFrame):
            if self._receiver is None:
                raise errors.ServiceError("a chunk came before the manifest")
            self._receiver.take(message)
            if self._progress is not None:
                self._received += len(message.data)
                self._progress(self._received, self._total)
        elif self._receiver is None:
            self._open(message)
        else:
            raise errors.ServiceError("a second manifest came")

    def _open(self, message: Any) -> None:
        self._manifest = getattr(message, message.WhichOneof("message") or "", None)
        headers = [] if self._manifest is None else self._headers(self._manifest)
        if self._manifest is None or self._expected not in (None, len(headers)):
            raise errors.ServiceError(f"expected a manifest of {self._expected} tensors")
        checked = [tensors.check_header(header) for header in headers]
        borrowed: list[Array] | None = None
        beside = self._lane if self._lane and self._manifest.HasField("lane") else None
        if beside is not None:
            lengths = [nbytes for _, _, nbytes in checked]
            borrowed = beside.borrow(self._manifest.lane, lengths)
            if borrowed is not None and self._mapped:
                for body, (name, shape, _) in zip(borrowed, checked, strict=True):
                    self._arrays.append(body.view(tensors.numpy_dtype(name)).reshape(shape))
                    self._shapes.append(None)
                self._receiver = BodyReceiver([], self._chunk_bytes)
                return
        destinations = []
        for index, (name, shape, nbytes) in enumerate(checked):
            is_string = name == tensors.STRING
            own = self._into[index] if index < len(self._into) else None
            array: Array
            if own is not None:
                if own.dtype != tensors.numpy_dtype(name) or own.nbytes != nbytes:
                    raise fits_no_more(own, name, shape)
                array = own.reshape(shape)
            elif is_string:
                array = np.empty(nbytes, np.uint8)
            else:
                array = POOL.empty(tuple(shape), tensors.numpy_dtype(name))
            self._arrays.append(array)
            self._shapes.append(shape if is_string else None)
            destinations.append(array.reshape(-1).view(np.uint8))
        self._total = sum(each.nbytes for each in destinations)
        if beside is not None and borrowed is None:
            beside.receive(self._manifest.lane, destinations)
            destinations = []
        elif borrowed is not None:
            copy_all(destinations, borrowed, Moved(self._total, self._progress))
            destinations = []
        self._receiver = BodyReceiver(destinations, self._chunk_bytes)

    def finish(self) -> tuple[Any, list[Array]]:
        """The manifest and its arrays."""
        if self._receiver is None:
            raise errors.ServiceError("the answer ended before its manifest")
        self._receiver.finish()
        arrays = []
        for array, shape in zip(self._arrays, self._shapes, strict=True):
            if shape is None:
                tensors.check_bool(array)
                arrays.append(array)
            else:
                arrays.append(tensors.strings_from_body(array.data, shape))
        return self._manifest, arrays


def upload(manifest: bytes, arrays: Sequence[Array], chunk_bytes: int) -> Iterator[bytes]:
    """The messages of a request: the manifest, and the chunks of the arrays' body."""
    keep_what_is_freed()
    # Here and now: the messages are made on a thread of gRPC's.
    progress = _progress.get()
    messages = _upload(manifest, arrays, chunk_bytes)
    if progress is None:
        return messages
    total = sum(tensors.body_length(each) for each in arrays)
    return _reported(messages, chunk_bytes, total, progress)


def _upload(manifest: bytes, arrays: Sequence[Array], chunk_bytes: int) -> Iterator[bytes]:
    yield manifest
    parts = (
        BytesPart(tensors.strings_to_body(each) if each.dtype.kind == "O" else each)
        for each in arrays
    )
    yield from frames.body_messages(parts, chunk_bytes)


def _reported(
    messages: Iterator[bytes], chunk_bytes: int, total: int, progress: Progress
) -> Iterator[bytes]:
    yield next(messages)
    for count, message in enumerate(messages, 1):
        yield message
        progress(min(total, count * chunk_bytes), total)
