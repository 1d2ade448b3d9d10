"""RunFunction and StreamRunFunction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from varserve import frames, tensors
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import FunctionSpec
from varserve_service.core.ports.messages import UNCONDITIONAL
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Download, total_bytes
from varserve_service.rpc.serving.batching import Ran

from .backend import Backend
from .uploads import receive

# So many inputs are looked at whatever the function has, so that a refusal can name them.
_FEW_INPUTS = 64
# Failures whose text comes from the model's state: it may name variables, and show values.
_REVEALING = (Reason.FUNCTION_FAILED, Reason.VARIABLE_UNINITIALIZED)


async def run_function(
    backend: Backend, request: pb.RunFunctionRequest, call: RpcCall
) -> pb.RunFunctionResponse:
    """RunFunction."""
    _note(call, request)
    conditions = translate.conditions(request)
    with backend.serving.use(call, request.model) as served:
        function = served.live.function(request.function)
        _check_inputs(function, len(request.inputs), len(request.constants))
        batcher = served.batcher(request.function)
        # A call that wants anything of its own has a run of its own.
        if batcher and not (request.constants or request.outputs or conditions != UNCONDITIONAL):
            count = sum(len(message.strings) for message in request.inputs.values())
            inputs = await backend.prepare(
                served, count, lambda: translate.inputs(request.inputs), call
            )
            with _discreet(call, served.live, function):
                ran = await batcher.run(inputs, call.deadline)
            if ran is not None:
                return _batch_response(backend, request.function, ran)

        def work(live: LiveModel, deadline: float | None) -> pb.RunFunctionResponse:
            with _discreet(call, live, function):
                answer = live.run(
                    request.function,
                    translate.inputs(request.inputs),
                    translate.constants(request.constants),
                    outputs=request.outputs,
                    conditions=conditions,
                    request=translate.write_request(
                        request.request_id, translate.fingerprint(request)
                    ),
                    origin=translate.origin(request, call.subject),
                    on_commit=call.commit_listener,
                    max_output_bytes=backend.max_message_bytes,
                    deadline=deadline,
                )
            response = pb.RunFunctionResponse(header=translate.header(answer.header))
            for name, value in answer.values.items():
                response.outputs.add(name=name, tensor=translate.tensor(value))
            return response

        return await served.run(work, call.deadline)


def _batch_response(backend: Backend, function: str, ran: Ran) -> pb.RunFunctionResponse:
    response = pb.RunFunctionResponse(header=translate.header(ran.header))
    nbytes = sum(tensors.body_length(array) for array in ran.outputs.values())
    if nbytes > backend.max_message_bytes:
        raise translate.too_large(f"function {function!r}", nbytes, backend.max_message_bytes)
    for name, array in ran.outputs.items():
        response.outputs.add(name=name, tensor=tensors.to_tensor(array))
    return response


async def stream_run_function(backend: Backend, manifest: pb.RunManifest, call: RpcCall) -> None:
    """StreamRunFunction."""
    _note(call, manifest)
    origin = translate.origin(manifest, call.subject)
    with backend.serving.use(call, manifest.model) as served:
        live = served.live
        function = live.function(manifest.function)
        names = [tensor.name for tensor in manifest.inputs]
        if len(set(names)) != len(names):
            raise translate.malformed("inputs: expected each name once, found one twice")
        _check_inputs(function, len(manifest.inputs), len(manifest.constants))
        constants = translate.constants(manifest.constants)
        claimed = [
            ClaimedTensor(f"input {named.name[:200]!r}", named.tensor) for named in manifest.inputs
        ]
        total = total_bytes(claimed, backend.limits.body_bytes)
        placeholders = [claim.placeholder() for claim in claimed]
        live.check_run(manifest.function, dict(zip(names, placeholders, strict=True)), constants)
        with backend.admission.stage(call.method, call.subject, total):
            upload = await receive(
                backend, call, claimed, frames.stream_run_function_request, live.memory.host
            )

            def work(
                live: LiveModel, deadline: float | None
            ) -> tuple[pb.StreamRunFunctionResponse, Download]:
                fingerprint = translate.fingerprint(manifest, upload.checksums)
                with _discreet(call, live, function):
                    answer = live.run(
                        manifest.function,
                        dict(zip(names, upload.arrays(), strict=True)),
                        constants,
                        outputs=manifest.outputs,
                        conditions=translate.conditions(manifest),
                        request=translate.write_request(manifest.request_id, fingerprint),
                        origin=origin,
                        on_commit=call.commit_listener,
                        deadline=deadline,
                    )
                download = Download(list(answer.values.values()), backend.limits.chunk_bytes)
                result = pb.RunResult(
                    header=translate.header(answer.header),
                    outputs=[
                        tensor_pb2.NamedTensorHeader(name=name, tensor=header)
                        for name, header in zip(answer.values, download.headers, strict=True)
                    ],
                )
                return pb.StreamRunFunctionResponse(result=result), download

            first, download = await served.run(work, call.deadline)
        call.note_header(first.result.header)
        await call.write(first)
        await download.send(call, backend.senders)


def _note(call: RpcCall, request: Any) -> None:
    translate.check_request_id(request.request_id)
    call.note(request_id=request.request_id)


def _check_inputs(function: FunctionSpec, inputs: int, constants: int) -> None:
    """Refuse more inputs than any overload has before they are looked at."""
    most = max(_FEW_INPUTS, *(len(overload.inputs) for overload in function.overloads))
    if inputs + constants > most:
        raise RequestError(
            Reason.INPUT_MISMATCH,
            f"function {function.name!r}: expected at most {most} inputs and constants, found "
            f"{inputs} inputs and {constants} constants",
        )


@contextmanager
def _discreet(call: RpcCall, live: LiveModel, function: FunctionSpec) -> Iterator[None]:
    """What a failed function says of the state is shown to callers that may read that state."""
    try:
        yield
    except RequestError as error:
        permissions = call.permissions
        if permissions is None or error.reason not in _REVEALING:
            raise
        paths = {path for each in function.overloads for path in (*each.reads, *each.writes)}
        if permissions.allows_paths(Verb.READ, live, paths & live.timeline.display_names.keys()):
            raise
        raise RequestError(
            error.reason,
            f"function {function.name!r} failed; the reason is shown to callers that may read all "
            "variables that the function reads and writes",
        ) from None
