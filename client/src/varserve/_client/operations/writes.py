"""Writes: assigns, reverts, and the leases that writes come with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from varserve import tensors
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Call, Op
from varserve._client.values.options import WriteOptions
from varserve._client.values.results import Commit
from varserve._client.values.writes import WIRE_OPERATIONS, PreparedWrite
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb

from .methods import Scope, method
from .requests import build, headers_of
from .runs import constants_of

ASSIGN_VARIABLE = method("AssignVariable")
ASSIGN_VARIABLES = method("AssignVariables")
REVERT_COMMITS = method("RevertCommits")
RENEW_LEASE = method("RenewLease")
REVOKE_LEASE = method("RevokeLease")


def assign_variable(scope: Scope, write: PreparedWrite, options: WriteOptions) -> Op[Commit]:
    """AssignVariable."""
    request = build(
        pb.AssignVariableRequest,
        model=scope.model,
        value=tensors.to_tensor(write.value),
        read_back=options.read_back,
        lease_seconds=options.lease_seconds,
        check=_check(options, with_inputs=True),
        **_fields(write),
        **options.fields(),
    )
    call = Call(ASSIGN_VARIABLE, request, scope.budget)
    reply = yield from attempt(call, repeatable=options.repeatable)
    value = tensors.from_tensor(reply.value) if reply.HasField("value") else None
    return Commit(scope.header(reply.header), None if value is None else write.part.show(value))


def assign_variables(
    scope: Scope, writes: Sequence[PreparedWrite], options: WriteOptions
) -> Op[Commit]:
    """AssignVariables. Nothing is read back."""
    from varserve._client.transport.bodies import upload
    from varserve.lane import OWN_BYTES

    checked = {} if options.check is None else options.check.run.inputs
    manifest = build(
        pb.AssignManifest,
        model=scope.model,
        entries=[
            build(pb.AssignEntry, tensor=tensors.to_header(each.value), **_fields(each))
            for each in writes
        ],
        lease_seconds=options.lease_seconds,
        check=_check(options, with_inputs=False),
        check_inputs=headers_of(checked),
        **options.fields(),
    )
    values = [*(each.value for each in writes), *checked.values()]
    hand_over = None
    lane = scope.lane
    if lane is not None and sum(each.nbytes for each in writes) >= OWN_BYTES:
        hand_over = lane.offer(values)
        if hand_over is not None:
            for name, value in lane.fields.items():
                setattr(manifest, name, value)
    first = pb.AssignVariablesRequest(manifest=manifest).SerializeToString()
    body = partial(upload, first, values, scope.limits.chunk_bytes)
    call = Call(ASSIGN_VARIABLES, body, scope.budget, hand_over=hand_over)
    reply = yield from attempt(call, repeatable=options.repeatable)
    return Commit(scope.header(reply.header))


def _check(options: WriteOptions, *, with_inputs: bool) -> pb.CommitCheck | None:
    """What must pass before the commit is made; without its inputs where they are in a body."""
    if options.check is None:
        return None
    run = options.check.run
    inputs = run.inputs if with_inputs else {}
    return build(
        pb.CommitCheck,
        function=run.function,
        inputs={name: tensors.to_tensor(each) for name, each in inputs.items()},
        constants=constants_of(run),
    )


def _fields(write: PreparedWrite) -> dict[str, Any]:
    return {
        "variable": write.variable,
        "operation": WIRE_OPERATIONS[write.operation],
        "region": write.part.message,
        "if_revision_match": write.if_revision_match,
    }


def revert_commits(
    scope: Scope, revision: int, variables: Sequence[str], options: WriteOptions
) -> Op[Commit]:
    """RevertCommits."""
    request = build(
        history_pb2.RevertCommitsRequest,
        model=scope.model,
        to_revision=revision,
        variables=variables,
        **options.fields(),
    )
    call = Call(REVERT_COMMITS, request, scope.budget)
    reply = yield from attempt(call, repeatable=options.repeatable)
    return Commit(scope.header(reply.header))


def renew_lease(scope: Scope, lease: int, epoch: str) -> Op[float]:
    """RenewLease: the seconds that it lasts from now on."""
    request = build(history_pb2.RenewLeaseRequest, model=scope.model, lease=lease, epoch=epoch)
    reply = yield from attempt(Call(RENEW_LEASE, request, scope.budget))
    seconds: float = reply.seconds
    return seconds


def revoke_lease(scope: Scope, lease: int, epoch: str, *, keep: bool) -> Op[Commit]:
    """RevokeLease."""
    request = build(
        history_pb2.RevokeLeaseRequest, model=scope.model, lease=lease, epoch=epoch, keep=keep
    )
    # Not again: a second revocation does not find the lease, and says nothing of the values.
    reply = yield from attempt(Call(REVOKE_LEASE, request, scope.budget), repeatable=False)
    return Commit(scope.header(reply.header))
