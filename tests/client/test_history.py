"""Listing, reading and taking back what was; leases; and updates that nobody comes in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest

import varserve
from tests.waiting import until, until_async
from varserve.v1 import history_pb2, model_pb2
from varserve.v1 import model_service_pb2 as pb

from .scripted import Scripted, fail, reply


def test_commits_tell_who_and_why(model: varserve.Model) -> None:
    """The newest first, by page and by pattern, with the reasons that were given."""
    counter, weights = model.variables["counter"], model.variables["weights"]
    counter.assign(1, message="first")
    with model.transaction(message="both") as txn:
        txn.assign("counter", 2)
        txn["weights"][0].assign_add(np.ones((4, 5), np.float32))
    weights.scatter_add([0], np.ones((1, 4, 5), np.float32), message="third")
    commits = model.commits()
    assert [(each.revision, each.info.message) for each in commits] == [
        (3, "third"),
        (2, "both"),
        (1, "first"),
    ]
    assert commits[1].variables == ("counter", "weights")
    assert (commits[1].nbytes, commits[1].info.kind) == (88, "assign")
    assert (commits.revision, commits.oldest_revision) == (3, 0)
    assert [each.revision for each in model.commits("count*", limit=1, before=2)] == [1]
    with pytest.raises(varserve.InvalidRequest):
        counter.assign(3, message="m" * 1025)


def test_what_was_is_read_and_comes_back(model: varserve.Model) -> None:
    """Values of any size as they were, and a revert to a snapshot, under conditions."""
    weights, large = model.variables["weights"], model.variables["large"]
    before, first = weights.numpy(), model.read(["weights", "large"])
    weights.assign(before * 2)
    large.assign(large.numpy() + 1)
    np.testing.assert_array_equal(weights.numpy(at_revision=0), before)
    np.testing.assert_array_equal(weights[0, 1].read_value(at_revision=0), before[0, 1])
    np.testing.assert_array_equal(large.numpy(at_revision=1), first["large"])
    past = model.read(["weights", "large"], at_revision=1)
    assert (past.revision, past.revisions) == (1, {"weights": 1, "large": 0})
    np.testing.assert_array_equal(past["weights"], before * 2)
    with pytest.raises(varserve.RevisionMismatch):
        model.revert(0, if_revision_match=1)
    assert model.revert(first, ["large"], message="undo").revision == 3
    np.testing.assert_array_equal(weights.numpy(), before * 2)
    assert model.revert(0).revision == model.revision == 4
    for name in ("weights", "large"):
        np.testing.assert_array_equal(model.variables[name].numpy(), first[name])
    with pytest.raises(varserve.RevisionInFuture):
        weights.numpy(at_revision=5)
    with pytest.raises(varserve.VariableNotFound):
        model.revert(0, ["nothing"])
    with pytest.raises(varserve.RevisionCompacted) as caught:
        model.revert(-1)
    assert caught.value.oldest_revision == 0


def test_a_leased_value_lasts_as_long_as_its_block(model: varserve.Model) -> None:
    """Then what was there before is back, also when the block raises; of one and of several."""
    counter, weights = model.variables["counter"], model.variables["weights"]
    with counter.lease(99, seconds=60, message="try") as lease:
        assert (int(counter.numpy()), lease.lost) == (99, None)
        assert model.commits()[0].info.message == "try"
    assert int(counter.numpy()) == 7
    assert model.commits()[0].info.kind == "expire"
    before = weights.numpy()
    with model.lease({"counter": 1, "weights": before * 3}, seconds=60):
        np.testing.assert_array_equal(weights.numpy(), before * 3)
    np.testing.assert_array_equal(weights.numpy(), before)
    with pytest.raises(ZeroDivisionError), weights[1].lease(before[0], seconds=60):
        1 / int(weights[1, 0, 0].numpy())
    np.testing.assert_array_equal(weights.numpy(), before)


def test_a_lease_has_one_block(model: varserve.Model) -> None:
    """A second one would not be renewed, nor taken back: it is refused."""
    counter = model.variables["counter"]
    lease = counter.lease(99, seconds=60)
    with lease:
        pass
    with pytest.raises(varserve.InvalidRequest, match="has begun before"), lease:
        raise AssertionError("never")
    assert int(counter.numpy()) == 7


@pytest.fixture
def leasing(scripted: Scripted) -> Scripted:
    """A service that gives leases and lets them be renewed, if not every time."""
    header = model_pb2.StateHeader(model="m", epoch="e", revision=4)
    scripted.script |= {
        "AssignVariable": [reply(pb.AssignVariableResponse(header=header))],
        "RenewLease": [
            fail("TOO_MANY_REQUESTS"),
            reply(history_pb2.RenewLeaseResponse(header=header, seconds=0.3)),
        ],
        "RevokeLease": [reply(history_pb2.RevokeLeaseResponse(header=header))],
    }
    return scripted


def check_leasing(scripted: Scripted) -> None:
    (assigned,) = scripted.requests["AssignVariable"]
    assert pb.AssignVariableRequest.FromString(*assigned).lease_seconds == pytest.approx(0.3)
    for messages in scripted.requests["RenewLease"]:
        request = history_pb2.RenewLeaseRequest.FromString(*messages)
        assert (request.model, request.lease, request.epoch) == ("m", 4, "e")
    assert len(scripted.requests["RevokeLease"]) == 1


def tokens() -> Callable[[], str]:
    """Gives no token for the first renewal, which is the third call."""
    calls = count(1)

    def give() -> str:
        if next(calls) == 3:
            raise OSError("a new token is being written")
        return "token"

    return give


def test_a_lease_is_renewed_in_the_background(leasing: Scripted) -> None:
    """While the block runs, and whatever becomes of a single renewal."""
    with varserve.connect(leasing.address, token=tokens()) as client:
        with client.model("m").variables["v"].lease([1, 2], seconds=0.3) as lease:
            until(lambda: len(leasing.requests.get("RenewLease", ())) > 5)
        assert lease.lost is None
        check_leasing(leasing)


async def test_a_lease_is_renewed_by_a_task(leasing: Scripted) -> None:
    """The same with `await`."""
    async with varserve.aio.connect(leasing.address, token=tokens()) as client:
        model = await client.model("m")
        async with model.variables["v"].lease([1, 2], seconds=0.3) as lease:
            await until_async(lambda: len(leasing.requests.get("RenewLease", ())) > 5)
        assert lease.lost is None
        check_leasing(leasing)


def test_a_lease_can_be_kept_and_lost(model: varserve.Model, client: varserve.Client) -> None:
    """`keep` makes the writes last; a lease that was taken away is told of at the end."""
    counter = model.variables["counter"]
    with counter.lease(1, seconds=60) as lease:
        lease.keep()
    assert int(counter.numpy()) == 1
    lease = counter.lease(2, seconds=3)
    lease.__enter__()
    assert lease.commit is not None
    client.revoke_lease("fake", lease.commit.revision, epoch=model.epoch)
    until(lambda: lease.lost is not None)
    with pytest.raises(varserve.LeaseNotFound):
        lease.__exit__(None, None, None)
    assert int(counter.numpy()) == 1
    with pytest.raises(varserve.InvalidRequest):
        counter.lease(1, seconds=0)


def test_a_program_that_dies_leaves_nothing_behind(address: str) -> None:
    """When nobody renews any more, the service puts the value back."""
    with varserve.connect(address) as client, varserve.connect(address) as other:
        counter = client.model("fake").variables["counter"]
        lease = counter.lease(5, seconds=3)
        lease.__enter__()
        client.close()  # as good as dead
        watched = other.model("fake").variables["counter"]
        assert int(watched.numpy()) == 5
        until(lambda: int(watched.numpy()) == 7)
        until(lambda: isinstance(lease.lost, varserve.ClientClosed))


async def test_leases_and_updates_with_await(address: str) -> None:
    """The same with `await`."""
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        counter = model.variables["counter"]
        async with counter.lease(99, seconds=60) as lease:
            assert (int(await counter.numpy()), lease.lost) == (99, None)
        assert int(await counter.numpy()) == 7
        async with counter.lease(8, seconds=60) as lease:
            await lease.keep()
        assert int(await counter.numpy()) == 8
        await asyncio.gather(*(counter.update(lambda n: n + 1) for _ in range(10)))
        assert int(await counter.numpy()) == 18


def test_updates_lose_nothing(address: str) -> None:
    """Many that read, modify and write at once: each of them counts, once."""

    def count(_: int) -> None:
        with varserve.connect(address) as client:
            model = client.model("fake")
            for _ in range(10):
                model.variables["counter"].update(lambda n: n + 1, timeout=120)
                model.update(
                    ["counter", "weights"],
                    lambda now: {"counter": now["counter"] + 1, "weights": now["weights"] + 1},
                    timeout=120,
                )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    with varserve.connect(address) as client:
        snapshot = client.model("fake").read(["counter", "weights"])
    assert int(snapshot["counter"]) == 7 + 80
    assert snapshot["weights"][0, 0, 0] == 40


def test_an_update_is_of_what_it_read(model: varserve.Model) -> None:
    """What was read and not written must not have moved; what moved elsewhere does not matter."""
    calls = []

    def change(now: varserve.Snapshot) -> dict[str, np.ndarray]:
        calls.append(int(now["counter"]))
        if len(calls) == 1:
            model.variables["counter"].assign(50)
        return {"weights": now["weights"] + np.float32(now["counter"])}

    commit = model.update({"counter": None, "weights": np.s_[0]}, change, message="sum")
    assert commit is not None
    assert (commit.revision, calls) == (2, [7, 50])
    assert model.variables["weights"].numpy()[:2, 0, 0].tolist() == [50, 20]
    assert model.commits()[0].info.message == "sum"

    def elsewhere(n: np.ndarray) -> np.ndarray:
        calls.append(int(n))
        model.variables["table"].assign(np.zeros((1000, 4), np.float32))
        return n + 1

    model.variables["counter"].update(elsewhere)
    assert calls == [7, 50, 50]
    assert model.update(["counter"], lambda now: None) is None
    with pytest.raises(varserve.InvalidRequest):
        model.update(["counter"], lambda now: {"weights": 1})

    def always(n: np.ndarray) -> np.ndarray:
        model.variables["counter"].assign(1)
        return n

    with pytest.raises((varserve.RevisionMismatch, varserve.DeadlineExceeded)):
        model.variables["counter"].update(always, timeout=0.5)


def test_a_transaction_is_not_tried_again_when_it_lost(scripted: Scripted) -> None:
    """A conflict is for the caller to decide on: a transaction that lost one is sent once."""
    scripted.script["AssignVariable"] = [fail("REVISION_MISMATCH", current_revision="9")]
    with varserve.connect(scripted.address) as client:
        model = client.model("m")
        with (
            pytest.raises(varserve.RevisionMismatch) as caught,
            model.transaction(if_revision_match=3) as txn,
        ):
            txn.assign("v", [1, 2])
    assert caught.value.current_revision == 9
    assert len(scripted.requests["AssignVariable"]) == 1


def test_leases_that_have_ended_leave_no_thread(model: varserve.Model) -> None:
    """Neither in the program that had them nor in the service."""

    def waiting() -> int:
        return sum(each.name.startswith("varserve-lease") for each in threading.enumerate())

    before = waiting()
    for n in range(20):
        with model.variables["counter"].lease(n, seconds=60):
            pass
    until(lambda: waiting() <= before)
