"""AssignVariable, AssignVariables and RevertCommits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from varserve import frames
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.change.writes import Write
from varserve_service.core.model.checking import Check
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.messages import Read
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, total_bytes

from .backend import Backend, check_count
from .uploads import Ways, receive


async def assign_variable(
    backend: Backend, request: pb.AssignVariableRequest, call: RpcCall
) -> pb.AssignVariableResponse:
    """AssignVariable."""
    if not request.HasField("value"):
        raise translate.malformed("value: expected a tensor, found none")
    _note(call, request)

    def work(live: LiveModel, deadline: float | None) -> pb.AssignVariableResponse:
        region = translate.region(request)
        write = Write(
            request.variable,
            translate.operation(request.operation),
            translate.inputs({"value": request.value})["value"],
            region,
            translate.optional(request, "if_revision_match"),
        )
        answer = live.assign(
            [write],
            conditions=translate.conditions(request),
            request=translate.write_request(
                request.request_id, translate.fingerprint(request), call.subject
            ),
            origin=translate.origin(request, call.subject),
            on_commit=call.commit_listener,
            lease_seconds=translate.lease_seconds(request),
            check=_commit_check(request),
            read_back=Read(request.variable, region) if request.read_back else None,
            max_read_back_bytes=backend.max_message_bytes,
            deadline=deadline,
        )
        response = pb.AssignVariableResponse(header=translate.header(answer.header))
        for value in answer.values.values():
            response.value.CopyFrom(translate.tensor(value))
        return response

    return await backend.run_on_model(call, request.model, work)


async def assign_variables(
    backend: Backend, manifest: pb.AssignManifest, call: RpcCall
) -> pb.AssignVariablesResponse:
    """AssignVariables."""
    if not manifest.entries:
        raise translate.malformed("entries: expected at least one, found none")
    _note(call, manifest)
    origin = translate.origin(manifest, call.subject)
    lease_seconds = translate.lease_seconds(manifest)
    with backend.serving.use(call, manifest.model) as served:
        live, count = served.live, len(manifest.entries)
        check_count("entries", count, live)

        def check() -> list[ClaimedTensor]:
            claimed = [
                ClaimedTensor(f"variable {entry.variable[:200]!r}", entry.tensor)
                for entry in manifest.entries
            ]
            checked = writes([claim.placeholder() for claim in claimed])
            live.check(checked)
            for claim, write in zip(claimed, checked, strict=True):
                if live.swaps(write):
                    claim.memory = partial(live.blank, write)
            return claimed + _check_inputs(manifest)

        def writes(arrays: Sequence[np.ndarray[Any, Any]]) -> list[Write]:
            return [
                Write(
                    entry.variable,
                    translate.operation(entry.operation),
                    array,
                    translate.region(entry),
                    translate.optional(entry, "if_revision_match"),
                )
                for entry, array in zip(manifest.entries, arrays, strict=False)
            ]

        count += len(manifest.check_inputs)
        claimed = await backend.prepare(served, count, check, call)
        total = total_bytes(claimed, backend.limits.body_bytes)
        with backend.admission.stage(call.method, call.subject, total):
            upload = await receive(
                backend,
                call,
                claimed,
                frames.assign_variables_request,
                live.memory.host,
                Ways(manifest.lane, manifest.lane_port, manifest.lane_connections),
            )
            # Which way it came is not what is asked for.
            for way in ("lane", "lane_port", "lane_connections"):
                manifest.ClearField(way)

            def work(live: LiveModel, deadline: float | None) -> pb.AssignVariablesResponse:
                fingerprint = translate.fingerprint(manifest, upload.checksums)
                arrays = upload.arrays()
                requested, inputs = writes(arrays), arrays[len(manifest.entries) :]
                del arrays  # What is written may only be held by its write: see `Write.take`.
                answer = live.assign(
                    requested,
                    conditions=translate.conditions(manifest),
                    request=translate.write_request(manifest.request_id, fingerprint, call.subject),
                    origin=origin,
                    on_commit=call.commit_listener,
                    lease_seconds=lease_seconds,
                    check=_commit_check(manifest, inputs),
                    deadline=deadline,
                )
                return pb.AssignVariablesResponse(header=translate.header(answer.header))

            return await served.run(work, call)


async def revert_commits(
    backend: Backend, request: history_pb2.RevertCommitsRequest, call: RpcCall
) -> history_pb2.RevertCommitsResponse:
    """RevertCommits."""
    _note(call, request)

    def work(live: LiveModel, deadline: float | None) -> history_pb2.RevertCommitsResponse:
        check_count("variables", len(request.variables), live)
        answer = live.revert(
            request.to_revision,
            request.variables,
            conditions=translate.conditions(request),
            request=translate.write_request(
                request.request_id, translate.fingerprint(request), call.subject
            ),
            origin=translate.origin(request, call.subject),
            on_commit=call.commit_listener,
            deadline=deadline,
        )
        return history_pb2.RevertCommitsResponse(header=translate.header(answer.header))

    return await backend.run_on_model(call, request.model, work)


def _check_inputs(manifest: pb.AssignManifest) -> list[ClaimedTensor]:
    """The inputs of the check that are in the body. Raises RequestError."""
    names = [named.name for named in manifest.check_inputs]
    if names and not manifest.HasField("check"):
        raise translate.malformed("check_inputs: expected a check that they are for, found none")
    if len({*names, *manifest.check.inputs}) < len(names) + len(manifest.check.inputs):
        raise translate.malformed("check_inputs: expected each name once, found one twice")
    return [
        ClaimedTensor(f"check input {each.name[:200]!r}", each.tensor)
        for each in manifest.check_inputs
    ]


def _commit_check(request: Any, further: Sequence[np.ndarray[Any, Any]] = ()) -> Check | None:
    """What must pass before the commit is made; None for a write without a check.

    `further`: the values of its inputs in the body.
    """
    if not request.HasField("check"):
        return None
    check = request.check
    inputs = translate.inputs(check.inputs)
    if further:
        names = [named.name for named in request.check_inputs]
        inputs |= dict(zip(names, further, strict=True))
    return Check(check.function, inputs, translate.constants(check.constants))


def _note(call: RpcCall, request: Any) -> None:
    translate.check_request_id(request.request_id)
    call.note(request_id=request.request_id)
