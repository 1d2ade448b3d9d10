"""What a model's description says that its caller may not do."""

from __future__ import annotations

import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.test_identity import Claimed, connect
from tests.serving import serve_here
from varserve_service.access.policy_file import read_policy
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access

POLICY = read_policy(b"""
rules:
  - {subjects: ["*"], verbs: [list], models: ["*"], variables: ["*"], functions: ["*"]}
  - {subjects: [all], verbs: [read, assign], models: ["*"], variables: ["*"]}
  - {subjects: [all], verbs: [run, inspect], models: ["*"], functions: ["*"]}
  - {subjects: [half], verbs: [run, inspect], models: ["*"], functions: ["*"]}
  - {subjects: [half], verbs: [read, assign], models: ["*"], variables: [left]}
""")


def said(address: str, name: str) -> tuple[dict[str, bool], dict[str, tuple[bool, bool]]]:
    with connect(address, name) as client:
        model = client.model("m")
        return (
            {name: each.spec.may_assign for name, each in model.variables.items()},
            {n: (f.spec.may_run, f.spec.may_inspect) for n, f in model.functions.items()},
        )


def test_a_description_says_what_is_denied() -> None:
    """To assign, to run where the run may write, and to inspect where it may be read."""
    variables = [FakeVariable(name, np.zeros(3, np.float32)) for name in ("left", "right")]
    functions = [
        FakeFunction("reads_left", dict, reads=("left",)),
        FakeFunction("writes_right", dict, reads=("left",), writes=("right",)),
    ]
    live = LiveModel(FakeModel(variables, functions, name="m"))
    access = Access(authenticator=Claimed(), policy=lambda: POLICY)
    with serve_here(live, access=access) as address:
        everything = (True, True)
        assert said(address, "all") == (
            {"left": True, "right": True},
            {"reads_left": everything, "writes_right": everything},
        )
        assert said(address, "half") == (
            {"left": True, "right": False},
            {"reads_left": everything, "writes_right": (False, False)},
        )
        nothing = (False, False)
        assert said(address, "stranger") == (
            {"left": False, "right": False},
            {"reads_left": nothing, "writes_right": nothing},
        )


def test_without_a_policy_nothing_is_denied() -> None:
    """A service that has none lets everybody do everything, and says so."""
    variables = [FakeVariable("left", np.zeros(3, np.float32))]
    functions = [FakeFunction("writes", dict, writes=("left",))]
    with serve_here(LiveModel(FakeModel(variables, functions, name="m"))) as address:
        assert said(address, "") == ({"left": True}, {"writes": (True, True)})
