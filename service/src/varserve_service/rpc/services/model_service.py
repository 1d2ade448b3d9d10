"""The calls of ModelService: check, call the core, translate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from threading import Event
from typing import Any, TypeVar

import numpy as np

from varserve import frames, tensors
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget, ModelReservation
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, Status
from varserve_service.core.ports.loaded_model import VariableSpec
from varserve_service.core.ports.messages import UNCONDITIONAL, Admit, Read, Snapshot, sent_bytes
from varserve_service.core.values.summaries import summarize
from varserve_service.rpc.authorization.auditing import listener_of
from varserve_service.rpc.authorization.guard import CallerPermissions, shown, sight_of
from varserve_service.rpc.entry.admission import Admission
from varserve_service.rpc.entry.identity import subject_of
from varserve_service.rpc.entry.observing import note, note_header
from varserve_service.rpc.messages import summary_messages, translate
from varserve_service.rpc.messages.bodies import (
    ClaimedTensor,
    Download,
    Upload,
    not_silent,
    total_bytes,
)
from varserve_service.rpc.serving.batching import Ran
from varserve_service.rpc.serving.calls import Context, deadline_of, fingerprint
from varserve_service.rpc.serving.served import Serving
from varserve_service.rpc.serving.workers import Workers

from .read_cache import ReadCache

T = TypeVar("T")

# What a unary response needs beside the bytes of its tensors.
_ENVELOPE_BYTES = 64 * 1024
# Reads, or writes, of one request, where the model has fewer variables: its lock is held meanwhile.
_MAX_ITEMS = 10_000
# Seconds that a list waits for a model that is held.
_PATIENCE = 0.5


class ModelService:
    """Handlers, one for each RPC, that take request bytes and give or write response messages.

    Blocking work happens on a model's own workers, bytes are made ready for sending on `senders`;
    the event loop only passes messages on.
    """

    def __init__(
        self,
        models: Models,
        serving: Serving,
        lister: Workers,
        senders: Executor,
        admission: Admission,
        limits: pb.TransferLimits,
        read_cache: ReadCache,
        upload_silence: float,
    ) -> None:
        self._models = models
        self._serving = serving
        self._lister = lister
        self._senders = senders
        self._admission = admission
        self._limits = limits
        self._read_cache = read_cache
        self._upload_silence = upload_silence
        self._max_unary_bytes = limits.message_bytes - _ENVELOPE_BYTES

    # Unary calls.

    async def list_models(self, data: bytes, context: Context) -> pb.ListModelsResponse:
        """ListModels."""
        pb.ListModelsRequest.FromString(data)
        deadline, sight = deadline_of(context), sight_of(context)

        def work() -> pb.ListModelsResponse:
            return pb.ListModelsResponse(
                models=[
                    _summary(status, sight)
                    for status in self._models.statuses
                    if sight is None or sight.lists(status.name)
                ]
            )

        return await self._lister.run(work, deadline)

    async def get_model(self, data: bytes, context: Context) -> pb.GetModelResponse:
        """GetModel."""
        request = pb.GetModelRequest.FromString(data)
        sight = sight_of(context)

        def work(live: LiveModel, deadline: float | None) -> pb.GetModelResponse:
            found = shown(live.describe(deadline), live, sight)
            return translate.model(self._models.status(live), found, self._limits)

        return await self._on_model(request.model, context, work)

    async def read_variable(self, data: bytes, context: Context) -> pb.ReadVariableResponse | bytes:
        """ReadVariable."""
        answer = self._read_cache.answer(data)
        if answer is not None:
            return answer
        request = pb.ReadVariableRequest.FromString(data)
        read = Read(request.variable, translate.region(request), translate.dtype(request))
        newer, at = (translate.optional(request, key) for key in ("if_newer_than", "at_revision"))
        if newer is not None and at is not None:
            raise translate.malformed("expected one of if_newer_than and at_revision, found both")
        fetch = partial(_read, [read], at, request.epoch, if_newer_than=newer)

        def work(live: LiveModel, deadline: float | None) -> pb.ReadVariableResponse:
            snapshot = fetch(live, admit=self._admit_unary, deadline=deadline)
            (entry,) = snapshot.entries
            response = pb.ReadVariableResponse(
                header=translate.header(snapshot.header), variable_revision=entry.revision
            )
            if entry.value is None:
                response.not_modified = True
            else:
                nbytes = sent_bytes(entry.value)
                self._check_unary(entry.variable, nbytes)
                note(read_bytes=nbytes)
                response.value.CopyFrom(translate.tensor(entry.value))
            return response

        with self._serving.use(request.model) as served:
            response = await served.run(work, deadline_of(context))
            if not served.retired:
                self._read_cache.keep(data, served.live, response)
            return response

    async def assign_variable(self, data: bytes, context: Context) -> pb.AssignVariableResponse:
        """AssignVariable."""
        request = pb.AssignVariableRequest.FromString(data)
        region = translate.region(request)
        if not request.HasField("value"):
            raise translate.malformed("value: expected a tensor, found none")
        write = Write(
            request.variable,
            translate.operation(request.operation),
            translate.inputs({"value": request.value})["value"],
            region,
            translate.optional(request, "if_revision_match"),
        )
        write_request = translate.write_request(request.request_id, fingerprint(request))
        origin, on_commit = translate.origin(request, subject_of(context)), listener_of(context)
        lease_seconds = translate.lease_seconds(request)

        def work(live: LiveModel, deadline: float | None) -> pb.AssignVariableResponse:
            answer = live.assign(
                [write],
                conditions=translate.conditions(request),
                request=write_request,
                origin=origin,
                on_commit=on_commit,
                lease_seconds=lease_seconds,
                read_back=Read(request.variable, region) if request.read_back else None,
                max_read_back_bytes=self._max_unary_bytes,
                deadline=deadline,
            )
            response = pb.AssignVariableResponse(header=translate.header(answer.header))
            for value in answer.values.values():
                response.value.CopyFrom(translate.tensor(value))
            return response

        return await self._on_model(request.model, context, work)

    async def run_function(self, data: bytes, context: Context) -> pb.RunFunctionResponse:
        """RunFunction."""
        request = pb.RunFunctionRequest.FromString(data)
        inputs = translate.inputs(request.inputs)
        constants = translate.constants(request.constants)
        conditions = translate.conditions(request)
        with self._serving.use(request.model) as served:
            batcher = served.batcher(request.function)
            # A call that wants anything of its own has a run of its own.
            if batcher and not (constants or request.outputs or conditions != UNCONDITIONAL):
                ran = await batcher.run(inputs, deadline_of(context))
                if ran is not None:
                    return self._batch_response(request.function, ran)
            write_request = translate.write_request(request.request_id, fingerprint(request))
            origin, on_commit = translate.origin(request, subject_of(context)), listener_of(context)

            def work(live: LiveModel, deadline: float | None) -> pb.RunFunctionResponse:
                answer = live.run(
                    request.function,
                    inputs,
                    constants,
                    outputs=request.outputs,
                    conditions=conditions,
                    request=write_request,
                    origin=origin,
                    on_commit=on_commit,
                    max_output_bytes=self._max_unary_bytes,
                    deadline=deadline,
                )
                response = pb.RunFunctionResponse(header=translate.header(answer.header))
                for name, value in answer.values.items():
                    response.outputs.add(name=name, tensor=translate.tensor(value))
                return response

            return await served.run(work, deadline_of(context))

    def _batch_response(self, function: str, ran: Ran) -> pb.RunFunctionResponse:
        response = pb.RunFunctionResponse(header=translate.header(ran.header))
        nbytes = sum(tensors.body_length(array) for array in ran.outputs.values())
        if nbytes > self._max_unary_bytes:
            raise translate.too_large(f"function {function!r}", nbytes, self._max_unary_bytes)
        for name, array in ran.outputs.items():
            response.outputs.add(name=name, tensor=tensors.to_tensor(array))
        return response

    async def summarize_variables(
        self, data: bytes, context: Context
    ) -> pb.SummarizeVariablesResponse:
        """SummarizeVariables."""
        request = pb.SummarizeVariablesRequest.FromString(data)
        if not request.selections:
            raise translate.malformed("selections: expected at least one, found none")
        reads = [Read(each.variable, translate.region(each)) for each in request.selections]
        histogram = summary_messages.histogram_spec(request)
        summary_messages.check_size(len(reads), histogram, self._max_unary_bytes)
        at = translate.optional(request, "at_revision")
        gone = Event()

        def work(live: LiveModel, deadline: float | None) -> pb.SummarizeVariablesResponse:
            admit = self._admit_copies(copies, whole_too=at is not None)
            snapshot = _read(reads, at, request.epoch, live, admit=admit, deadline=deadline)

            def go_on() -> None:
                if gone.is_set() or (deadline is not None and time.monotonic() >= deadline):
                    raise RequestError(
                        Reason.DEADLINE_EXCEEDED, "the deadline passed before all was summarized"
                    )

            response = pb.SummarizeVariablesResponse(header=translate.header(snapshot.header))
            for entry in snapshot.entries:
                assert entry.value is not None
                found = summarize(
                    entry.value,
                    histogram=histogram,
                    content_hash=request.content_hash,
                    go_on=go_on,
                )
                response.entries.append(summary_messages.entry(entry, found))
            summary_messages.check_sent(response, self._max_unary_bytes)
            return response

        try:
            with (
                self._serving.use(request.model) as served,
                served.live.memory.reserve({}, "the summary") as copies,
            ):
                return await served.run(work, deadline_of(context))
        finally:
            gone.set()

    # Streaming calls.

    async def read_variables(self, data: bytes, context: Context) -> None:
        """ReadVariables."""
        request = pb.ReadVariablesRequest.FromString(data)
        if not request.reads:
            raise translate.malformed("reads: expected at least one, found none")
        at = translate.optional(request, "at_revision")

        def work(
            live: LiveModel, deadline: float | None
        ) -> tuple[pb.ReadVariablesResponse, Download]:
            admit = self._admit_copies(copies, whole_too=at is not None)
            snapshot = _read(reads, at, request.epoch, live, admit=admit, deadline=deadline)
            values = [entry.value for entry in snapshot.entries if entry.value is not None]
            download = Download(values, self._limits.chunk_bytes)
            manifest = pb.ReadManifest(
                header=translate.header(snapshot.header),
                entries=[
                    pb.ReadEntry(
                        variable=entry.variable, variable_revision=entry.revision, tensor=header
                    )
                    for entry, header in zip(snapshot.entries, download.headers, strict=True)
                ],
            )
            return pb.ReadVariablesResponse(manifest=manifest), download

        with (
            self._serving.use(request.model) as served,
            served.live.memory.reserve({}, "the read") as copies,
        ):
            _check_count("reads", len(request.reads), served.live)
            reads = [
                Read(read.variable, translate.region(read), translate.dtype(read))
                for read in request.reads
            ]
            first, download = await served.run(work, deadline_of(context))
            note_header(first.manifest.header)
            note(read_bytes=sum(header.byte_length for header in download.headers))
            await context.write(first)
            await download.send(context, self._senders)

    async def assign_variables(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> pb.AssignVariablesResponse:
        """AssignVariables."""
        messages = aiter(requests)
        manifest = await self._manifest(messages, frames.assign_variables_request)
        if not manifest.entries:
            raise translate.malformed("entries: expected at least one, found none")
        translate.check_request_id(manifest.request_id)
        origin, on_commit = translate.origin(manifest, subject_of(context)), listener_of(context)
        lease_seconds = translate.lease_seconds(manifest)
        with self._serving.use(manifest.model) as served:
            _check_count("entries", len(manifest.entries), served.live)
            claimed = [
                ClaimedTensor(f"variable {entry.variable[:200]!r}", entry.tensor)
                for entry in manifest.entries
            ]
            regions = [translate.region(entry) for entry in manifest.entries]
            total = total_bytes(claimed, self._limits.body_bytes)

            def writes(arrays: Sequence[np.ndarray[Any, Any]]) -> list[Write]:
                return [
                    Write(
                        entry.variable,
                        translate.operation(entry.operation),
                        array,
                        region,
                        translate.optional(entry, "if_revision_match"),
                    )
                    for entry, region, array in zip(manifest.entries, regions, arrays, strict=True)
                ]

            served.live.check(writes([claim.placeholder() for claim in claimed]))
            with self._admission.stage("AssignVariables", subject_of(context), total):
                read, host = frames.assign_variables_request, served.live.memory.host
                upload = await self._receive(context, messages, claimed, read, host)
                digest = fingerprint(manifest, upload.checksums)

                def work(live: LiveModel, deadline: float | None) -> pb.AssignVariablesResponse:
                    answer = live.assign(
                        writes(upload.arrays()),
                        conditions=translate.conditions(manifest),
                        request=translate.write_request(manifest.request_id, digest),
                        origin=origin,
                        on_commit=on_commit,
                        lease_seconds=lease_seconds,
                        deadline=deadline,
                    )
                    return pb.AssignVariablesResponse(header=translate.header(answer.header))

                return await served.run(work, deadline_of(context))

    async def stream_run_function(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """StreamRunFunction."""
        messages = aiter(requests)
        manifest = await self._manifest(messages, frames.stream_run_function_request)
        names = [tensor.name for tensor in manifest.inputs]
        if len(set(names)) != len(names):
            raise translate.malformed("inputs: expected each name once, found one twice")
        translate.check_request_id(manifest.request_id)
        origin, on_commit = translate.origin(manifest, subject_of(context)), listener_of(context)
        with self._serving.use(manifest.model) as served:
            claimed = [
                ClaimedTensor(f"input {named.name[:200]!r}", named.tensor)
                for named in manifest.inputs
            ]
            total = total_bytes(claimed, self._limits.body_bytes)
            constants = translate.constants(manifest.constants)
            placeholders = [claim.placeholder() for claim in claimed]
            served.live.check_run(
                manifest.function, dict(zip(names, placeholders, strict=True)), constants
            )
            with self._admission.stage("StreamRunFunction", subject_of(context), total):
                read, host = frames.stream_run_function_request, served.live.memory.host
                upload = await self._receive(context, messages, claimed, read, host)
                digest = fingerprint(manifest, upload.checksums)

                def work(
                    live: LiveModel, deadline: float | None
                ) -> tuple[pb.StreamRunFunctionResponse, Download]:
                    answer = live.run(
                        manifest.function,
                        dict(zip(names, upload.arrays(), strict=True)),
                        constants,
                        outputs=manifest.outputs,
                        conditions=translate.conditions(manifest),
                        request=translate.write_request(manifest.request_id, digest),
                        origin=origin,
                        on_commit=on_commit,
                        deadline=deadline,
                    )
                    download = Download(list(answer.values.values()), self._limits.chunk_bytes)
                    result = pb.RunResult(
                        header=translate.header(answer.header),
                        outputs=[
                            pb.NamedTensorHeader(name=name, tensor=header)
                            for name, header in zip(answer.values, download.headers, strict=True)
                        ],
                    )
                    return pb.StreamRunFunctionResponse(result=result), download

                first, download = await served.run(work, deadline_of(context))
            note_header(first.result.header)
            await context.write(first)
            await download.send(context, self._senders)

    # What they share.

    async def _on_model(
        self, name: str, context: Context, work: Callable[[LiveModel, float | None], T]
    ) -> T:
        with self._serving.use(name) as served:
            return await served.run(work, deadline_of(context))

    async def _manifest(self, messages: AsyncIterator[bytes], read: Callable[[bytes], Any]) -> Any:
        """The manifest that must open a stream."""
        async with not_silent(self._upload_silence):
            async for data in messages:
                message = read(data)
                if not isinstance(message, frames.ChunkFrame) and message.HasField("manifest"):
                    return message.manifest
                raise translate.malformed("expected a manifest first, found another message")
        raise translate.malformed("expected a manifest first, found the end of the stream")

    async def _receive(
        self,
        context: Context,
        messages: AsyncIterator[bytes],
        claimed: Sequence[ClaimedTensor],
        read: Callable[[bytes], Any],
        memory: MemoryBudget,
    ) -> Upload:
        with memory.reserve(sum(claim.nbytes for claim in claimed), "the body") as reserved:
            upload = Upload(claimed, self._limits.chunk_bytes)
            await context.send_initial_metadata(((frames.ACCEPTED_KEY, "1"),))
            async with not_silent(self._upload_silence) as heard:
                async for data in messages:
                    heard()
                    message = read(data)
                    if not isinstance(message, frames.ChunkFrame):
                        raise translate.malformed("expected a chunk, found another message")
                    upload.take(message)
                    reserved.used(len(message.data))
            return upload

    def _admit_unary(
        self, spec: VariableSpec, read: Read, shape: tuple[int, ...], copied: bool
    ) -> None:
        self._check_unary(spec.name, translate.least_bytes(read.dtype or spec.dtype, shape))

    def _check_unary(self, variable: str, nbytes: int) -> None:
        if nbytes > self._max_unary_bytes:
            raise translate.too_large(f"variable {variable!r}", nbytes, self._max_unary_bytes)

    def _admit_copies(self, copies: ModelReservation, *, whole_too: bool) -> Admit:
        """Lets one call have no more copied than it could upload: regions, and what is past.

        They take their bytes from `copies`, as does what is copied because of what it is.
        """
        total, limit = 0, self._limits.body_bytes

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


def _summary(status: Status, sight: CallerPermissions | None) -> Any:
    live = status.live
    if live is None:
        return translate.summary(status, None)
    try:
        found = live.describe(time.monotonic() + _PATIENCE)
    except RequestError as error:
        if error.reason is Reason.MODEL_NOT_READY:  # Unloaded at this moment.
            return translate.summary(status, None)
        if error.reason is not Reason.DEADLINE_EXCEEDED:
            raise
        # Somebody holds it, for minutes maybe: the others are to be listed nevertheless.
        found = live.outline()
    return translate.summary(status, shown(found, live, sight))


def _check_count(field: str, count: int, live: LiveModel) -> None:
    most = max(_MAX_ITEMS, len(live.timeline.display_names))
    if count > most:
        raise translate.malformed(f"{field}: expected at most {most}, found {count}")


def _read(
    reads: Sequence[Read], at: int | None, epoch: str, live: LiveModel, **options: Any
) -> Snapshot:
    """The present values, or those at an earlier revision."""
    if at is None:
        return live.read(reads, epoch=epoch, **options)
    options.pop("if_newer_than", None)
    return live.timeline.read(reads, at, epoch=epoch, **options)
