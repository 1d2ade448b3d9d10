"""A service over fakes in a process of its own: `python -m tests.rpc.expensive_server`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.rpc.test_identity import Claimed
from tests.serving import serve_here
from varserve_service.access.policy_file import read_policy
from varserve_service.bootstrap.serving import SWITCH_SECONDS
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import Access, Server

# "some" knows one variable of many: to find out takes a look at all.
POLICY = b"""
rules:
  - subjects: [boss]
    verbs: [list, read, summarize, assign, run, watch, admin]
    models: ["*"]
    variables: ["*"]
    functions: ["*"]
  - {subjects: [some], verbs: [list], models: ["*"], variables: [v], functions: []}
"""
VARIABLES = 5_000


class Nothing:
    """An Administration of no models."""

    def __getattr__(self, name: str) -> Any:
        def nothing(*arguments: Any) -> Any:
            raise RequestError(Reason.MODEL_NOT_FOUND, f"{name}: there is no model")

        return nothing


def main() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    variables = [FakeVariable(f"v{n:04x}", np.zeros(3, np.float32)) for n in range(VARIABLES)]
    variables.append(FakeVariable("v", np.zeros(3, np.float32)))
    variables.append(FakeVariable("bytes", np.zeros(4 * 2**20 - 4096 - 64, np.uint8)))
    x = {"x": TensorSpec("float32", (None,))}
    words = {"x": TensorSpec("string", (None,))}
    functions = [
        FakeFunction("f", lambda x: {"x": x}, inputs=x, outputs=x),
        FakeFunction("words", lambda x: {"x": x}, inputs=words, outputs=words),
        FakeFunction("write", lambda x: {"x": x}, inputs=x, outputs=x, writes=("v",)),
    ]
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    live = LiveModel(FakeModel(variables, functions, name="m"))
    servers: list[Server] = []

    def prepare(server: Server) -> None:
        server.administer(Nothing())  # type: ignore[arg-type]
        servers.append(server)

    with serve_here(
        live, access=access, prepare=prepare, reflection=True, facades=("oip", "tfs")
    ) as address:
        print(address, servers[0].admin_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
