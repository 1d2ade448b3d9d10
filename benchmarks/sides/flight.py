"""Arrow Flight, `do_get` and `do_put` of one record batch: its fastest way to one array.

The server sends from warm memory; both receive into memory that Arrow allocates for each transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight

from benchmarks.sides import Ready


def _batch(nbytes: int) -> pa.RecordBatch:
    return pa.record_batch([pa.array(np.ones(nbytes // 4, np.float32))], names=["value"])


class _Server(pa.flight.FlightServerBase):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._batch = _batch(0)

    def do_get(self, context: Any, ticket: Any) -> Any:
        nbytes = int(ticket.ticket)
        if self._batch.num_rows * 4 != nbytes:
            self._batch = _batch(nbytes)
        reader = pa.RecordBatchReader.from_batches(self._batch.schema, [self._batch])
        return pa.flight.RecordBatchStream(reader)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._batch = reader.read_chunk().data


def serve(ready: Ready) -> None:
    server = _Server()
    ready(f"127.0.0.1:{server.port}")
    server.serve()


class Client:
    """Works over one connection."""

    def __init__(self, address: str) -> None:
        self._client = pa.flight.connect(f"grpc://{address}")

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        ticket = pa.flight.Ticket(str(nbytes))
        yield lambda: self._client.do_get(ticket).read_chunk().data.column(0).to_numpy()
        self._client.do_get(pa.flight.Ticket("0")).read_all()

    @contextmanager
    def assign(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        batch = _batch(nbytes)
        descriptor = pa.flight.FlightDescriptor.for_path("value")

        def put(what: pa.RecordBatch) -> None:
            writer, _ = self._client.do_put(descriptor, what.schema)
            writer.write_batch(what)
            writer.close()

        yield lambda: put(batch)
        put(_batch(0))
