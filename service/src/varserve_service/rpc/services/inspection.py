"""ListTensors and InspectFunction."""

from __future__ import annotations

from functools import partial
from threading import Event

from varserve import frames
from varserve.v1 import inspection_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.core.errors import RequestError
from varserve_service.core.inspection.ports import InnerTensor
from varserve_service.core.model.inspecting import Supposed
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Constant
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import inspection_messages, translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Download, total_bytes

from .backend import Backend, check_count
from .consistency import wait_until_recent
from .runs import check_inputs
from .uploads import receive

MAX_NAMES = inspection_messages.MAX_NAMES
DEFAULT_TENSORS, MAX_TENSORS = 1_000, 10_000


async def list_tensors(
    backend: Backend, request: pb.ListTensorsRequest, call: RpcCall
) -> pb.ListTensorsResponse:
    """ListTensors."""
    inspection_messages.check_names("patterns", request.patterns)
    if request.page_size < 0:
        raise translate.malformed(f"page_size: expected 0 or more, found {request.page_size}")
    count = min(request.page_size or DEFAULT_TENSORS, MAX_TENSORS)
    start = _start(request.page_token)

    def work(live: LiveModel, deadline: float | None) -> pb.ListTensorsResponse:
        size, end = 0, start
        with backend.computing.turn():
            found = live.inspecting.tensors(
                request.function, request.patterns, overload=request.overload
            )
            response = pb.ListTensorsResponse(
                header=translate.header(found.header), total=len(found.tensors)
            )
            for tensor in found.tensors[start : start + count]:
                message = inspection_messages.inner_tensor(tensor, _visible(call, live, tensor))
                size += message.ByteSize() + 8
                if size > backend.max_message_bytes and end > start:
                    break
                response.tensors.append(message)
                end += 1
        if end < len(found.tensors):
            response.next_page_token = str(end)
        return response

    return await backend.run_on_model(call, request.model, work)


def _start(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 12):
        raise translate.malformed("page_token: expected next_page_token of the page before")
    return int(token)


def _visible(call: RpcCall, live: LiveModel, tensor: InnerTensor) -> list[str]:
    """The names of the tensor's variables, those that the caller may know of."""
    permissions = call.permissions
    if permissions is None:
        return list(tensor.variables)
    return [v for v in tensor.variables if permissions.allows_variable(Verb.LIST, live, v)]


async def inspect_function(backend: Backend, manifest: pb.InspectManifest, call: RpcCall) -> None:
    """InspectFunction."""
    await wait_until_recent(backend, manifest, call)
    cancelled = Event()
    try:
        with backend.serving.use(call, manifest.model) as served:
            check_count("assume", len(manifest.assume), served.live)
            check_inputs(
                served.live.function(manifest.function),
                len(manifest.inputs),
                len(manifest.constants),
            )
            count = len(manifest.inputs) + len(manifest.assume) + len(manifest.patches)
            check = partial(_check, manifest, served.live)
            names, assumed, constants, claimed = await backend.prepare(served, count, check, call)
            total = total_bytes(claimed, backend.limits.body_bytes)
            with backend.admission.stage(call.method, call.subject, total):
                upload = await receive(
                    backend, call, claimed, frames.inspect_function_request, served.live.memory.host
                )

                def work(
                    live: LiveModel, deadline: float | None
                ) -> tuple[pb.InspectFunctionResponse, list[pb.InspectPart], Download]:
                    arrays = upload.arrays()
                    values = arrays[len(names) :]
                    answer = live.inspecting.inspect(
                        manifest.function,
                        dict(zip(names, arrays[: len(names)], strict=True)),
                        constants,
                        inspection_messages.inspection(manifest, values[len(assumed) :]),
                        Supposed(
                            dict(zip(assumed, values[: len(assumed)], strict=True)),
                            translate.optional(manifest, "at_revision"),
                            manifest.epoch,
                        ),
                        cancelled=cancelled.is_set,
                        deadline=deadline,
                    )
                    found = answer.inspected
                    download = Download(
                        inspection_messages.values_of(found), backend.limits.chunk_bytes
                    )
                    parts = inspection_messages.parts(found, iter(download.headers))
                    result = pb.InspectResult(
                        header=translate.header(answer.header),
                        not_run=found.not_run,
                        notes=found.notes,
                        part_count=len(parts),
                    )
                    if found.first_non_finite is not None:
                        first = inspection_messages.non_finite(found.first_non_finite)
                        result.first_non_finite.CopyFrom(first)
                    return pb.InspectFunctionResponse(result=result), parts, download

                try:
                    first, parts, download = await served.run(work, call)
                except RequestError as error:
                    for part in inspection_messages.messages(error.said):
                        await call.write(pb.InspectFunctionResponse(part=part))
                    raise
            call.note_header(first.result.header)
            rest = (pb.InspectFunctionResponse(part=part) for part in parts)
            memory = served.live.memory.device
            await backend.send(call, memory, download, first, *rest)
    finally:
        cancelled.set()


def _check(
    manifest: pb.InspectManifest, live: LiveModel
) -> tuple[list[str], list[str], dict[str, Constant], list[ClaimedTensor]]:
    """The names of inputs and assumed variables, the constants, and the tensors of the body.

    Raises RequestError.
    """
    names = [named.name for named in manifest.inputs]
    assumed = [named.name for named in manifest.assume]
    for field, given in (("inputs", names), ("assume", assumed)):
        if len(set(given)) != len(given):
            raise translate.malformed(f"{field}: expected each name once, found one twice")
    patched = [each for each in manifest.patches if each.WhichOneof("replacement") == "value"]
    claimed = [
        *(ClaimedTensor(f"input {each.name[:200]!r}", each.tensor) for each in manifest.inputs),
        *(ClaimedTensor(f"variable {each.name[:200]!r}", each.tensor) for each in manifest.assume),
        *(ClaimedTensor(f"patch of {each.tensor[:200]!r}", each.value) for each in patched),
    ]
    constants = translate.constants(manifest.constants)
    outlines = [claim.placeholder() for claim in claimed]
    inspection_messages.inspection(manifest, outlines[len(names) + len(assumed) :])
    inputs = dict(zip(names, outlines[: len(names)], strict=True))
    live.check_run(manifest.function, inputs, constants)
    return names, assumed, constants, claimed
