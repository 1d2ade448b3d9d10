"""RunFunction and StreamRunFunction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from varserve import frames
from varserve.tensors import Array
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import UNKNOWN_ORIGIN, Origin, WriteRequest
from varserve_service.core.ports.function_messages import FunctionMessage
from varserve_service.core.ports.loaded_model import Constant, FunctionSpec, Value
from varserve_service.core.ports.messages import UNCONDITIONAL, Conditions, Header, sent_bytes
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Download, total_bytes
from varserve_service.rpc.messages.inspection_messages import function_message

from .backend import Backend
from .consistency import wait_until_recent
from .uploads import receive

T = TypeVar("T")

# Outputs of at most so many bytes are put into a message on the event loop.
_QUICK_BYTES = 1 << 20
# So many inputs are looked at whatever the function has, so that a refusal can name them.
_FEW_INPUTS = 64
# Failures whose text comes from the model's state: it may name variables, and show values.
_REVEALING = (Reason.FUNCTION_FAILED, Reason.VARIABLE_UNINITIALIZED)


@dataclass(slots=True, eq=False)
class Run:
    """One run of a function, whatever protocol it is asked for in.

    `outputs`: those that are wanted; none: all of them. `request`: what makes this run the same run
    when it comes again. `said` takes what the function prints; None: it is not wanted.
    """

    model: str
    function: str
    outputs: Sequence[str] = ()
    constants: Mapping[str, Constant] = field(default_factory=dict)
    conditions: Conditions = UNCONDITIONAL
    request: WriteRequest | None = None
    origin: Origin = UNKNOWN_ORIGIN
    said: list[FunctionMessage] | None = None

    @property
    def can_be_batched(self) -> bool:
        """A call that wants anything of its own has a run of its own."""
        own = self.constants or self.outputs or self.said is not None
        return not (own or self.conditions != UNCONDITIONAL)


async def run_function(
    backend: Backend, request: pb.RunFunctionRequest, call: RpcCall
) -> pb.RunFunctionResponse:
    """RunFunction."""
    _note(call, request)
    fingerprint = translate.fingerprint(request)
    run = Run(
        request.model,
        request.function,
        request.outputs,
        translate.constants(request.constants),
        translate.conditions(request),
        translate.write_request(request.request_id, fingerprint, call.subject),
        translate.origin(request, call.subject),
        [] if request.messages else None,
    )

    def respond(header: Header, values: Mapping[str, Value]) -> pb.RunFunctionResponse:
        response = pb.RunFunctionResponse(header=translate.header(header))
        for name, value in values.items():
            response.outputs.add(name=name, tensor=translate.tensor(value))
        response.messages.extend(map(function_message, run.said or ()))
        return response

    await wait_until_recent(backend, request, call)
    return await execute(
        backend,
        call,
        run,
        lambda: translate.inputs(request.inputs),
        respond,
        inputs=len(request.inputs),
        strings=lambda: sum(len(message.strings) for message in request.inputs.values()),
        max_output_bytes=backend.max_message_bytes,
    )


async def execute(
    backend: Backend,
    call: RpcCall,
    run: Run,
    decode: Callable[[], dict[str, Array]],
    respond: Callable[[Header, Mapping[str, Value]], T],
    *,
    inputs: int,
    strings: Callable[[], int],
    max_output_bytes: int,
) -> T:
    """Run a function, in a batch where it is batched, and return what `respond` makes of it.

    `decode` gives the inputs, of which there are `inputs`; `strings` counts the strings in them.
    """
    with backend.serving.use(call, run.model) as served:
        function = served.live.function(run.function)
        check_inputs(function, inputs, len(run.constants))
        batcher = served.batcher(run.function)
        if batcher and run.can_be_batched:
            arrays = await backend.prepare(served, strings(), decode, call)
            with _Discretion(call, served.live, function):
                ran = await batcher.run(arrays, call)
            if ran is not None:
                values = ran.outputs
                nbytes = sum(sent_bytes(value) for value in values.values())
                if nbytes > max_output_bytes:
                    raise translate.too_large(
                        f"function {run.function!r}", nbytes, max_output_bytes
                    )
                if nbytes <= _QUICK_BYTES:
                    return respond(ran.header, values)
                return await served.workers.run(partial(respond, ran.header, values), call)

        def work(live: LiveModel, deadline: float | None) -> T:
            with _Discretion(call, live, function):
                answer = live.run(
                    run.function,
                    decode(),
                    run.constants,
                    outputs=run.outputs,
                    conditions=run.conditions,
                    request=run.request,
                    origin=run.origin,
                    messages=run.said is not None,
                    on_commit=call.commit_listener,
                    max_output_bytes=max_output_bytes,
                    deadline=deadline,
                    cancellation=call.cancellation,
                )
            if run.said is not None:
                run.said.extend(answer.messages)
            return respond(answer.header, answer.values)

        return await served.run(work, call)


async def stream_run_function(backend: Backend, manifest: pb.RunManifest, call: RpcCall) -> None:
    """StreamRunFunction."""
    _note(call, manifest)
    origin = translate.origin(manifest, call.subject)
    await wait_until_recent(backend, manifest, call)
    with backend.serving.use(call, manifest.model) as served:
        live = served.live
        function = live.function(manifest.function)
        names = [tensor.name for tensor in manifest.inputs]
        if len(set(names)) != len(names):
            raise translate.malformed("inputs: expected each name once, found one twice")
        check_inputs(function, len(manifest.inputs), len(manifest.constants))
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
                with _Discretion(call, live, function):
                    answer = live.run(
                        manifest.function,
                        dict(zip(names, upload.arrays(), strict=True)),
                        constants,
                        outputs=manifest.outputs,
                        conditions=translate.conditions(manifest),
                        request=translate.write_request(
                            manifest.request_id, fingerprint, call.subject
                        ),
                        origin=origin,
                        messages=manifest.messages,
                        on_commit=call.commit_listener,
                        deadline=deadline,
                        cancellation=call.cancellation,
                    )
                download = Download(list(answer.values.values()), backend.limits.chunk_bytes)
                result = pb.RunResult(
                    header=translate.header(answer.header),
                    outputs=[
                        tensor_pb2.NamedTensorHeader(name=name, tensor=header)
                        for name, header in zip(answer.values, download.headers, strict=True)
                    ],
                    messages=map(function_message, answer.messages),
                )
                return pb.StreamRunFunctionResponse(result=result), download

            first, download = await served.run(work, call)
        call.note_header(first.result.header)
        await backend.send(call, live.memory.device, download, first)


def _note(call: RpcCall, request: Any) -> None:
    translate.check_request_id(request.request_id)
    call.note(request_id=request.request_id)


def check_inputs(function: FunctionSpec, inputs: int, constants: int) -> None:
    """Refuse more inputs than any overload has before they are looked at."""
    if inputs + constants <= _FEW_INPUTS:
        return
    most = max(_FEW_INPUTS, *(len(overload.inputs) for overload in function.overloads))
    if inputs + constants > most:
        raise RequestError(
            Reason.INPUT_MISMATCH,
            f"function {function.name!r}: expected at most {most} inputs and constants, found "
            f"{inputs} inputs and {constants} constants",
        )


class _Discretion:
    """What a failed function says of the state is shown to callers that may read that state."""

    __slots__ = ("_call", "_function", "_live")

    def __init__(self, call: RpcCall, live: LiveModel, function: FunctionSpec) -> None:
        self._call = call
        self._live = live
        self._function = function

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        permissions, live, function = self._call.permissions, self._live, self._function
        if permissions is None or not isinstance(error, RequestError):
            return
        if error.reason not in _REVEALING:
            return
        paths = {path for each in function.overloads for path in (*each.reads, *each.writes)}
        if permissions.allows_paths(Verb.READ, live, paths & live.timeline.display_names.keys()):
            return
        raise RequestError(
            error.reason,
            f"function {function.name!r} failed; the reason is shown to callers that may read all "
            "variables that the function reads and writes",
        ) from None
