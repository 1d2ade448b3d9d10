"""Explaining and undoing, through the real wire."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.rpc.bodies import value_of, values_of
from tests.rpc.models import counter
from tests.rpc.requests import (
    MODEL,
    chunk,
    commits,
    manifest,
    number,
    read,
    renew,
    revert,
    revoke,
    rows,
    run,
)
from tests.rpc.running import reason_of, running
from tests.rpc.watched import set_v
from tests.waiting import until_async
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.ports.commits import CommitKind


async def test_commits_are_listed() -> None:
    """The newest first, with what made them, in pages, and how far back the history reaches."""
    async with running(counter()) as found:
        for n in range(5):
            await found.stub.AssignVariable(set_v(n, n, n, message=f"m{n}"))
        await found.stub.RunFunction(run(function="add", inputs={"n": number(1)}))

        async def listed(**fields: Any) -> Any:
            return await found.stub.ListCommits(commits(**fields))

        response = await listed()
        assert (response.header.revision, response.oldest_revision) == (6, 0)
        assert [each.info.revision for each in response.commits] == [6, 5, 4, 3, 2, 1]
        assert [each.info.message for each in response.commits][1:3] == ["m4", "m3"]
        newest = response.commits[0]
        assert (newest.info.kind, list(newest.variables)) == (
            history_pb2.COMMIT_KIND_RUN,
            ["count"],
        )
        assert (newest.variable_count, newest.byte_length) == (1, 8)
        page = await listed(before_revision=4, max_commits=2, patterns=["v"])
        assert [each.info.revision for each in page.commits] == [3, 2]
        for limit, reason in [(-1, "REQUEST_MALFORMED"), (1001, "REQUEST_MALFORMED")]:
            assert await reason_of(listed(max_commits=limit)) == reason
        for limit in (0, 1, 1000):
            await listed(max_commits=limit)
        assert await reason_of(listed(patterns=["nope"])) == "VARIABLE_NOT_FOUND"
        # What takes the square of its length must be short, or it would keep a thread for days.
        assert await reason_of(listed(patterns=["[" * 512])) == "VARIABLE_NOT_FOUND"
        assert await reason_of(listed(patterns=["[" * 513])) == "REQUEST_MALFORMED"


async def test_earlier_values_are_read_and_brought_back() -> None:
    """`at_revision` in both reads, and a revert, which is a commit with a reason of its own."""
    async with running(counter()) as found:
        await found.stub.AssignVariable(set_v(4, 5, 6))
        response = await found.stub.ReadVariable(read(at_revision=0))
        assert (value_of(response.value), response.header.revision) == ([1, 1, 1], 0)
        request = pb.ReadVariablesRequest(
            model=MODEL, reads=[{"variable": "v", "region": rows(0)}], at_revision=0
        )
        _, values = values_of([each async for each in found.stub.ReadVariables(request)])
        assert values == [[1]]
        response = await found.stub.RevertCommits(revert(0, message="undo", request_id="u"))
        assert response.header.revision == 2
        again = await found.stub.RevertCommits(revert(0, message="undo", request_id="u"))
        assert again == response
        assert value_of((await found.stub.ReadVariable(read())).value) == [1, 1, 1]
        for call, reason in [
            (found.stub.ReadVariable(read(at_revision=9)), "REVISION_IN_FUTURE"),
            (found.stub.ReadVariable(read(at_revision=-1)), "REVISION_COMPACTED"),
            (found.stub.ReadVariable(read(at_revision=0, epoch="x")), "EPOCH_MISMATCH"),
            (found.stub.ReadVariable(read(at_revision=0, if_newer_than=0)), "REQUEST_MALFORMED"),
            (found.stub.RevertCommits(revert(9)), "REVISION_IN_FUTURE"),
            (found.stub.RevertCommits(revert(-1)), "REVISION_COMPACTED"),
            (found.stub.RevertCommits(revert(0, variables=["w"])), "VARIABLE_NOT_FOUND"),
            (found.stub.RevertCommits(revert(0, if_epoch_match="x")), "EPOCH_MISMATCH"),
            (found.stub.RevertCommits(revert(0, request_id="u")), "REQUEST_ID_REUSED"),
            (
                found.stub.RevertCommits(revert(0, if_model_revision_match=1)),
                "REVISION_MISMATCH",
            ),
            (found.stub.RevertCommits(revert(0, message="m" * 1025)), "REQUEST_MALFORMED"),
        ]:
            assert await reason_of(call) == reason
        await found.stub.RevertCommits(revert(0, message="m" * 1024))


async def test_a_write_with_a_lease_is_taken_back() -> None:
    """A lease is the write's revision; renewed it lasts, revoked or left alone it ends."""
    live = counter()
    async with running(live) as found:
        stub = found.stub

        async def leased(seconds: float, **fields: Any) -> int:
            response = await stub.AssignVariable(set_v(7, 7, 7, lease_seconds=seconds, **fields))
            revision: int = response.header.revision
            return revision

        async def v() -> Any:
            return value_of((await stub.ReadVariable(read())).value)

        lease = await leased(60)
        assert ((await stub.RenewLease(renew(lease))).seconds, await v()) == (60, [7, 7, 7])
        assert await reason_of(stub.RenewLease(renew(lease, epoch="x"))) == "EPOCH_MISMATCH"
        assert (await stub.RevokeLease(revoke(lease))).header.revision == 2
        assert await v() == [1, 1, 1]
        for call in (
            stub.RenewLease(renew(lease)),
            stub.RevokeLease(revoke(lease)),
            stub.RenewLease(renew(99)),
        ):
            assert await reason_of(call) == "LEASE_NOT_FOUND"
        await leased(0.05)
        await until_async(lambda: live.header.revision == 4)
        assert await v() == [1, 1, 1]
        assert live.timeline.commits(1).commits[0].kind is CommitKind.EXPIRE
        body = [manifest(lease_seconds=60), chunk(0, np.full(3, 2, "<f4").tobytes())]
        lease = (await stub.AssignVariables(iter(body))).header.revision
        assert (await stub.RevokeLease(revoke(lease, keep=True))).header.revision == lease
        assert await v() == [2, 2, 2]
        for seconds in (-1.0, float("nan"), float("inf"), 86_400.1):
            assert await reason_of(leased(seconds)) == "REQUEST_MALFORMED"
        await leased(86_400.0)
