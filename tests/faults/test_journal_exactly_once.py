"""A write whose answer is lost is done once, however often it comes, and across restarts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.faults.cutting_proxy import cutting_proxy
from tests.journal.kept import kept
from tests.rpc.models import counter_model
from tests.serving import serve_here

CUTS = 60
RESTARTS = 5
ALL_CUTS, ALL_RESTARTS = 1_000, 200


def write(client: varserve.Client, number: int) -> tuple[int, int]:
    """Add one, by one of the three ways to write; the revision, and what it came to."""
    counter, request_id = client.model("counter"), f"write-{number}"
    if number % 3 == 0:
        outputs = client.run_function(
            "counter", "add", {"n": np.int64(1)}, request_id=request_id, timeout=60
        )
        return outputs.revision, int(outputs["count"])
    if number % 3 == 1:
        commit = client.assign_variable(
            "counter",
            "count",
            np.int64(1),
            operation=varserve.AssignOperation.ADD,
            request_id=request_id,
            read_back=True,
            timeout=60,
        )
        assert commit.value is not None
        return commit.revision, int(commit.value)
    commit = counter.variables["count"].assign_add(1, timeout=60)
    return commit.revision, commit.revision


def cut_and_retry(directory: Path, cuts: int) -> None:
    with (
        kept(directory, counter_model) as (live, _),
        serve_here(live) as address,
        cutting_proxy(address) as proxy,
        varserve.connect(proxy.address) as client,
    ):
        client.model("counter")
        for number in range(1, cuts + 1):
            proxy.cut_next_answer()
            assert write(client, number) == (number, number)
        assert proxy.cuts == cuts
        assert client.model("counter").variables["count"].numpy() == cuts


def test_a_write_whose_answer_is_lost_is_done_once(tmp_path: Path) -> None:
    """The connection is cut after the commit; the client comes again and has its answer."""
    cut_and_retry(tmp_path, CUTS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_thousand_writes_whose_answer_is_lost_are_done_once(tmp_path: Path) -> None:
    """The same, a thousand times."""
    cut_and_retry(tmp_path, ALL_CUTS)


def cut_and_restart(directory: Path, restarts: int) -> None:
    with cutting_proxy("") as proxy:
        for number in range(1, restarts + 1):
            name = f"write-{number}"
            with kept(directory, counter_model) as (live, _), serve_here(live) as address:
                proxy.target = address
                proxy.cut_next_answer()
                # One attempt: what is between two retries is a restart here.
                with varserve.connect(proxy.address, retries=0) as client:
                    with pytest.raises(varserve.Unavailable) as caught:
                        once(client, name)
                    assert not caught.value.from_service
                assert proxy.was_cut.is_set()
                assert live.header.revision == number
            with kept(directory, counter_model) as (live, _), serve_here(live) as address:
                proxy.target = address
                with varserve.connect(proxy.address) as client:
                    assert once(client, name) == (number, number)
                    with pytest.raises(varserve.RequestIdReused):
                        client.assign_variable("counter", "count", np.int64(0), request_id=name)
                assert live.header.revision == number


def once(client: varserve.Client, request_id: str) -> tuple[int, int]:
    commit = client.assign_variable(
        "counter",
        "count",
        np.int64(1),
        operation=varserve.AssignOperation.ADD,
        request_id=request_id,
        read_back=True,
        timeout=60,
    )
    assert commit.value is not None
    return commit.revision, int(commit.value)


def test_a_write_that_comes_again_after_a_restart_is_done_once(tmp_path: Path) -> None:
    """The answer is lost, the service starts again, the same request gets its first answer."""
    cut_and_restart(tmp_path, RESTARTS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_many_writes_that_come_again_after_a_restart_are_done_once(tmp_path: Path) -> None:
    """The same, two hundred times."""
    cut_and_restart(tmp_path, ALL_RESTARTS)
