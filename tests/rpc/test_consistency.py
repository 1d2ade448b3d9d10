"""How recent a call wants the state, through every method, at replicas that are behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

import varserve
from tests.core.shared_log import Replica, SharedLog
from tests.rpc.models import counter_model
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel


class Pair:
    """Two replicas on sockets: what is written at the first reaches the second when `follow`s."""

    def __init__(self, addresses: list[str], journals: list[Replica], epoch: str) -> None:
        self.addresses = addresses
        self.epoch = epoch
        self._behind = journals[1]

    def follow(self) -> None:
        self._behind.follows = True

    def follow_soon(self) -> None:
        """In a moment, when calls wait already."""
        threading.Timer(0.2, self.follow).start()

    def away(self) -> None:
        self._behind.unreachable = True


@pytest.fixture
def pair() -> Iterator[Pair]:
    log = SharedLog()
    journals = [Replica(log), Replica(log, follows=False)]
    with ExitStack() as stack:
        lives = [LiveModel(counter_model(), journal=journal) for journal in journals]  # type: ignore[arg-type]
        for live in lives:
            stack.callback(live.close)
        addresses = [stack.enter_context(serve_here(live)) for live in lives]
        yield Pair(addresses, journals, lives[0].header.epoch)


@contextmanager
def behind(pair: Pair, **options: object) -> Iterator[varserve.Model]:
    """The model at the replica that is behind, by a client that has seen nothing."""
    with varserve.connect(pair.addresses[1], **options) as client:  # type: ignore[arg-type]
        yield client.model("counter")


def write(pair: Pair) -> varserve.Commit:
    with varserve.connect(pair.addresses[0]) as client:
        return client.model("counter").variables["count"].assign_add(1)


def test_a_client_that_has_seen_a_revision_waits_for_it(pair: Pair) -> None:
    """Every call that sees the state does, whatever it is; without it, all of them are stale."""
    commit = write(pair)
    with behind(pair) as model:
        count = model.variables["count"]
        assert (count.numpy(), model.read(["count"]).revision) == (0, 0)
        assert len(model.commits()) == 0
        model.see(commit)
        pair.follow_soon()
        assert count.numpy() == 1
        write(pair)
        assert count.assign_add(1).revision == 3
        for seen in (
            model.read(["count"]),
            model.summaries(["count"]),
            model.commits(),
        ):
            assert seen.revision == 3
        model.refresh()
        assert count.revision == 3


@pytest.mark.parametrize("call", ["unary", "stream", "summary", "get", "commits", "run", "watch"])
def test_each_call_waits_on_its_own(pair: Pair, call: str) -> None:
    """None relies on another call that waited before it."""
    commit = write(pair)
    with behind(pair) as model, varserve.connect(pair.addresses[1]) as flat:
        at_least = {"min_revision": commit.revision, "epoch": commit.epoch}
        pair.follow_soon()
        match call:
            case "unary":
                assert flat.read_variable("counter", "count", **at_least).value == 1  # type: ignore[arg-type]
            case "stream":
                found = flat.read_variables("counter", ["count"], **at_least)  # type: ignore[arg-type]
                assert found["count"] == 1
            case "summary":
                found = flat.summarize_variables("counter", ["count"], **at_least)  # type: ignore[arg-type]
                assert found.revision == 1
            case _:
                model.see(commit)
                if call == "get":
                    model.refresh()
                    assert model.variables["count"].revision == 1
                elif call == "commits":
                    assert [each.revision for each in model.commits()] == [1]
                elif call == "run":
                    assert model.functions["total"](x=np.ones(1, np.float32)).revision == 1
                else:
                    with model.watch(after_revision=commit) as watch:
                        write(pair)
                        assert next(watch).revision == 2


def test_a_call_waits_no_longer_than_its_deadline(pair: Pair) -> None:
    """It fails with what was expected and what was found; others are answered meanwhile."""
    commit = write(pair)
    with behind(pair) as model:
        model.see(commit)
        with pytest.raises(
            varserve.DeadlineExceeded, match="expected revision 1, found revision 0"
        ):
            model.variables["count"].numpy(timeout=2)
        with behind(pair) as other:
            assert other.variables["count"].numpy() == 0


def test_a_revision_of_another_epoch_is_not_waited_for(pair: Pair) -> None:
    """It says nothing of this state: the answer's header has the epoch that is read."""
    with varserve.connect(pair.addresses[1]) as client:
        found = client.read_variable("counter", "count", min_revision=7, epoch="another")
        assert (found.value, found.epoch) == (0, pair.epoch)
        with pytest.raises(
            varserve.InvalidRequest, match=r"expected an integer from 0 to .*, found -1"
        ):
            client.read_variable("counter", "count", min_revision=-1)


def test_a_linearizable_read_sees_what_was_written_elsewhere(pair: Pair) -> None:
    """By a client that has not heard of it; a plain read of the same client does not."""
    write(pair)
    with behind(pair) as model:
        count = model.variables["count"]
        assert count.numpy() == 0
        pair.follow_soon()
        assert count.numpy(linearizable=True) == 1
        write(pair)
        assert model.read(["count"], linearizable=True)["count"] == 2
        write(pair)
        assert count.summary(linearizable=True).max == 3
        write(pair)
        assert (
            model.functions["total"].call({"x": np.ones(1, np.float32)}, linearizable=True).revision
            == 4
        )


def test_a_linearizable_read_fails_while_the_journal_is_away(pair: Pair) -> None:
    """With its reason; reads of what is here go on."""
    pair.away()
    with behind(pair) as model:
        count = model.variables["count"]
        with pytest.raises(varserve.StateStoreUnavailable):
            count.numpy(linearizable=True)
        assert count.numpy() == 0


def test_one_process_alone_is_always_recent() -> None:
    """Without replicas both levels are answered at once."""
    with (
        serve_here(LiveModel(counter_model())) as address,
        varserve.connect(address) as client,
    ):
        count = client.model("counter").variables["count"]
        commit = count.assign_add(2)
        assert count.numpy(linearizable=True) == 2
        assert client.read_variable("counter", "count", min_revision=commit.revision).value == 2


def test_a_write_that_comes_again_is_the_same_whatever_was_seen_meanwhile(pair: Pair) -> None:
    """What a client has seen is no part of what it asks for: the request id holds."""
    with varserve.connect(pair.addresses[0]) as client:
        client.model("counter")
        first = client.run_function("counter", "add", {"n": np.int64(5)}, request_id="once")
        client.model("counter").variables["count"].assign_add(1)
        again = client.run_function("counter", "add", {"n": np.int64(5)}, request_id="once")
        assert again.revision == first.revision
