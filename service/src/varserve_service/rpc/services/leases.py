"""RenewLease and RevokeLease."""

from __future__ import annotations

from functools import partial

from varserve.v1 import history_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate

from .backend import Backend


async def renew_lease(
    backend: Backend, request: pb.RenewLeaseRequest, call: RpcCall
) -> pb.RenewLeaseResponse:
    """RenewLease."""
    # On the event loop: a lease must not end because the model's workers are busy.
    with backend.serving.use(call, request.model) as served:
        live = served.live
        if live.leases.waits:
            renew = partial(live.leases.renew, request.lease, request.epoch)
            seconds = await served.watch_workers.run(renew, call)
        else:
            seconds = live.leases.renew(request.lease, request.epoch)
        return pb.RenewLeaseResponse(header=translate.header(live.header), seconds=seconds)


async def revoke_lease(
    backend: Backend, request: pb.RevokeLeaseRequest, call: RpcCall
) -> pb.RevokeLeaseResponse:
    """RevokeLease."""

    def work(live: LiveModel, deadline: float | None) -> pb.RevokeLeaseResponse:
        answer = live.leases.revoke(
            request.lease,
            request.epoch,
            keep=request.keep,
            origin=Origin(call.subject),
            on_commit=call.commit_listener,
            deadline=deadline,
        )
        return pb.RevokeLeaseResponse(header=translate.header(answer.header))

    return await backend.run_on_model(call, request.model, work)
