"""The real service, several times over one database."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.conftest import Serve
from tests.e2e.test_start import start
from tests.waiting import until


@pytest.mark.slow
def test_two_services_serve_one_state(serve: Serve, database: str) -> None:
    """A write at one is at the other, over SIGKILL of either, with functions that write, too.

    A watch goes on at the other service, and a late start has everything.
    """
    state = ("--state", database)
    with serve("counter", arguments=state) as one, serve("counter", arguments=state) as two:
        with varserve.connect(one.address) as first, varserve.connect(two.address) as second:
            here, there = first.model("counter"), second.model("counter")
            here.variables["v"].assign(np.array([1, 2, 3], np.float32), message="from one")
            until(lambda: there.variables["v"].numpy().tolist() == [1, 2, 3])
            there.functions["add"](n=np.int64(5))
            commit = there.variables["count"].assign_add(1)
            assert commit.revision == 3
            until(lambda: here.variables["count"].numpy() == 6)
            assert [c.revision for c in here.commits()] == [c.revision for c in there.commits()]
            assert there.commits()[-1].info.message == "from one"
            epoch = here.read(["count"]).epoch
            assert there.read(["count"]).epoch == epoch
            os.kill(one.pid, signal.SIGKILL)
            one.process.wait(60)
            with there.watch(after_revision=1) as watch:
                assert [next(watch).revision for _ in range(2)] == [2, 3]
            assert there.variables["count"].assign_add(1).revision == 4
        with (
            serve("counter", arguments=state) as late,
            varserve.connect(late.address) as client,
        ):
            assert client.read_variable("counter", "count").value == 7
            assert client.read_variable("counter", "count").revision == 4
            assert late.terminate() == 0
        assert two.terminate() == 0


@pytest.mark.slow
def test_a_start_says_what_is_wrong_with_the_database(
    model_folder: Callable[[str], Path], database: str
) -> None:
    """Exit code 2, one line, and no password."""
    model = ("--model", f"counter={model_folder('counter')}")
    secret = database.replace("varserve@", "varserve:hush@").replace("/test", "/missing")
    for arguments, expected in (
        (("--state", secret), "cannot be used"),
        (("--state", secret.replace("postgresql", "mysql")), "setting state"),
        (("--state", secret, "--state-dir", "state"), "state or state_dir, and not both"),
        (("--state", secret, "--state-reset"), "expected state_dir beside it"),
    ):
        done = start(*model, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr
        assert "hush" not in done.stderr
        assert "Traceback" not in done.stderr
