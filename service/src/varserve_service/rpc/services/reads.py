"""ReadVariable, ReadVariables and SummarizeVariables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event
from typing import Any

from varserve import tensors
from varserve.lane import OWN_BYTES
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import ModelReservation
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import Admit, Read, Snapshot, sent_bytes
from varserve_service.core.values.summaries import Summary, summarize
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.giving_way import Pace
from varserve_service.rpc.lane import Lent, lend_memory
from varserve_service.rpc.messages import summary_messages, translate
from varserve_service.rpc.messages.bodies import Beside, Download

from .backend import Backend, check_count
from .consistency import is_recent, wait_until_recent

# A summary of fewer elements, or with fewer for each bin, or a hash of fewer, singles elements out.
_FEW_ELEMENTS = 16
_FEW_PER_BIN = 4
_FEW_HASHED = 64
# To summarize a value of so many bytes, Python is most of the time.
_SMALL_BYTES = 128 << 10


async def read_variable(
    backend: Backend, request: pb.ReadVariableRequest, call: RpcCall
) -> pb.ReadVariableResponse | bytes:
    """ReadVariable."""
    if not is_recent(backend, request):
        await wait_until_recent(backend, request, call)
    cached = backend.read_cache.answer(request, call)
    if cached is not None:
        return cached
    newer, at = (translate.optional(request, key) for key in ("if_newer_than", "at_revision"))
    if newer is not None and at is not None:
        raise translate.malformed("expected one of if_newer_than and at_revision, found both")

    def admit(spec: VariableSpec, read: Read, shape: tuple[int, ...], copied: bool) -> None:
        check(spec.name, translate.least_bytes(read.dtype or spec.dtype, shape))

    def check(variable: str, nbytes: int) -> None:
        if nbytes > backend.max_message_bytes:
            raise translate.too_large(f"variable {variable!r}", nbytes, backend.max_message_bytes)

    def work(live: LiveModel, deadline: float | None) -> pb.ReadVariableResponse:
        read = Read(request.variable, translate.region(request), translate.dtype(request))
        snapshot = _snapshot(
            [read], at, request.epoch, live, if_newer_than=newer, admit=admit, deadline=deadline
        )
        (entry,) = snapshot.entries
        response = pb.ReadVariableResponse(
            header=translate.header(snapshot.header), variable_revision=entry.revision
        )
        if entry.value is None:
            response.not_modified = True
        else:
            nbytes = sent_bytes(entry.value)
            check(entry.variable, nbytes)
            call.note(read_bytes=nbytes)
            response.value.CopyFrom(translate.tensor(entry.value))
        return response

    with backend.serving.use(call, request.model) as served:
        response = await served.run(work, call)
        if not served.retired:
            backend.read_cache.keep(request, served.live, response)
        return response


async def read_variables(backend: Backend, request: pb.ReadVariablesRequest, call: RpcCall) -> None:
    """ReadVariables."""
    if not request.reads:
        raise translate.malformed("reads: expected at least one, found none")
    at = translate.optional(request, "at_revision")

    lane = backend.lane if request.lane else None
    port = backend.port if request.lane_port else None

    def work(
        live: LiveModel, deadline: float | None
    ) -> tuple[pb.ReadVariablesResponse, Download | Lent | Beside]:
        reads = [
            Read(read.variable, translate.region(read), translate.dtype(read))
            for read in request.reads
        ]
        admit = _admit_copies(backend, copies, whole_too=at is not None)
        snapshot = _snapshot(reads, at, request.epoch, live, admit=admit, deadline=deadline)
        body: Download | Lent | Beside | None = None
        if lane is not None and lane.has_room(call.subject):
            body = lend_memory(live, reads, snapshot.entries, call.subject, copies)
        if body is None:
            values = [entry.value for entry in snapshot.entries if entry.value is not None]
            if port is not None and _is_large(values):
                connections = port.connections(request.lane_connections)
                body = Beside(values, connections) if connections else None
        if body is None:
            body = Download(values, backend.limits.chunk_bytes)
        manifest = pb.ReadManifest(
            header=translate.header(snapshot.header),
            entries=[
                pb.ReadEntry(
                    variable=entry.variable, variable_revision=entry.revision, tensor=header
                )
                for entry, header in zip(snapshot.entries, body.headers, strict=True)
            ],
        )
        call.note(read_bytes=body.nbytes)
        return pb.ReadVariablesResponse(manifest=manifest), body

    await wait_until_recent(backend, request, call)
    with (
        backend.serving.use(call, request.model) as served,
        served.live.memory.reserve({}, "the read") as copies,
    ):
        check_count("reads", len(request.reads), served.live)
        first, body = await served.run(work, call)
        call.note_header(first.manifest.header)
        if isinstance(body, Lent):
            assert lane is not None
            await backend.lend(call, served.live.memory.host, lane, body, first)
        elif isinstance(body, Beside):
            assert port is not None
            await backend.send_beside(call, served.live.memory.device, port, body, first)
        else:
            await backend.send(call, served.live.memory.device, body, first)


def _is_large(values: Sequence[Value]) -> bool:
    """Whether a connection of its own is worth while."""
    return sum(value.nbytes for value in values) >= OWN_BYTES


async def summarize_variables(
    backend: Backend, request: pb.SummarizeVariablesRequest, call: RpcCall
) -> pb.SummarizeVariablesResponse:
    """SummarizeVariables."""
    if not request.selections:
        raise translate.malformed("selections: expected at least one, found none")
    histogram = summary_messages.histogram_spec(request)
    count = len(request.selections)
    summary_messages.check_size(count, histogram, backend.max_message_bytes)
    at = translate.optional(request, "at_revision")
    cancelled = Event()
    few = max(
        _FEW_ELEMENTS,
        0 if histogram is None else _FEW_PER_BIN * histogram.bins,
        _FEW_HASHED if request.content_hash else 0,
    )

    def work(live: LiveModel, deadline: float | None) -> pb.SummarizeVariablesResponse:
        reads = [Read(each.variable, translate.region(each)) for each in request.selections]
        admit_copies = _admit_copies(backend, copies, whole_too=at is not None)

        def admit(spec: VariableSpec, read: Read, shape: tuple[int, ...], copied: bool) -> None:
            if tensors.element_count(shape) < few:
                _check_reads(call, live, spec, few)
            admit_copies(spec, read, shape, copied)

        pace = Pace(backend.small_calls)

        def go_on() -> bool:
            if cancelled.is_set() or (deadline is not None and time.monotonic() >= deadline):
                raise RequestError(
                    Reason.DEADLINE_EXCEEDED, "the deadline passed before all was summarized"
                )
            return pace.give_way_on_thread()

        def summarized(value: Value) -> Summary:
            into: Any = {"histogram": histogram, "content_hash": request.content_hash}
            if value.nbytes > _SMALL_BYTES:
                return summarize(value, go_on=go_on, **into)
            go_on()
            with backend.computing.turn():
                return summarize(value, **into)

        snapshot = _snapshot(reads, at, request.epoch, live, admit=admit, deadline=deadline)
        response = pb.SummarizeVariablesResponse(header=translate.header(snapshot.header))
        for entry in snapshot.entries:
            assert entry.value is not None
            summary = summarized(entry.value)
            response.entries.append(summary_messages.entry(entry, summary))
        summary_messages.check_sent(response, backend.max_message_bytes)
        return response

    await wait_until_recent(backend, request, call)
    try:
        with (
            backend.serving.use(call, request.model) as served,
            served.live.memory.reserve({}, "the summary") as copies,
        ):
            check_count("selections", count, served.live)
            return await served.run(work, call)
    finally:
        cancelled.set()


def _check_reads(call: RpcCall, live: LiveModel, spec: VariableSpec, few: int) -> None:
    """A summary that singles elements out is a read. Raises RequestError PERMISSION_DENIED."""
    permissions = call.permissions
    if permissions is None:
        return
    name = live.timeline.display_names[spec.path]
    if not permissions.allows_variable(Verb.READ, live, name):
        thing = (
            f"variable {name!r} of model {live.name!r}, which this summary of fewer than {few} "
            "elements requires"
        )
        raise permissions.denied(Verb.READ, thing, model=live.name, variable=name[:200])


def _admit_copies(backend: Backend, copies: ModelReservation, *, whole_too: bool) -> Admit:
    """Lets one call have no more copied than it could upload: regions, and earlier values.

    They take their bytes from `copies`, as does what is copied because of what it is.
    """
    total, limit = 0, backend.limits.body_bytes

    def admit(spec: VariableSpec, read: Read, shape: tuple[int, ...], copied: bool) -> None:
        nonlocal total
        if not copied:
            return
        nbytes = translate.least_bytes(spec.dtype, shape)
        if read.region is not None or whole_too:
            total += nbytes
        if total > limit:
            raise RequestError(
                Reason.VALUE_TOO_LARGE,
                f"the copies take {total} bytes up to the one of variable {spec.name!r}; "
                f"expected at most {limit} in one request",
                nbytes=total,
                limit=limit,
            )
        # A part of what is on a device is cut there.
        copies.add(nbytes, f"a copy of variable {spec.name!r}", on=spec.device)

    return admit


def _snapshot(
    reads: Sequence[Read], at: int | None, epoch: str, live: LiveModel, **options: Any
) -> Snapshot:
    """The present values, or those at an earlier revision."""
    if at is None:
        return live.read(reads, epoch=epoch, **options)
    options.pop("if_newer_than", None)
    return live.timeline.read(reads, at, epoch=epoch, **options)
