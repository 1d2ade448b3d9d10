"""The sides: who serves, and whose client asks. One module for each, both halves in it.

A module has `serve(ready)`, which says where it listens and serves until it is ended, and `Client`,
whose methods are works. The same work has the same name and does the same for its user on every
side; each module says what its buffers are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.model import BENCH, OTHER
from benchmarks.pitch import FOLDER, PITCH

PROGRAM = Path(".benchmarks/bin/echo")
"""The peer in C++, which `make bench-peers` builds."""

Ready = Callable[[str], None]
"""Takes the address that a server listens on, once it does."""


@dataclass(frozen=True)
class Side:
    """How the two processes of a side are started.

    `command` is the server's where it is not `serve()` of the module; `address` stands for a server
    where the client needs none. `about` says what the side is, and which buffers it reads into and
    sends from. `scratch` is a folder of the server's, removed before it starts and after it ended.
    """

    module: str
    about: str
    command: tuple[str, ...] = ()
    address: str = ""
    scratch: Path | None = None

    @property
    def server(self) -> list[str]:
        """The server's command line."""
        return list(self.command) or [sys.executable, "-m", "benchmarks.serve", self.module]

    def client(self, address: str) -> list[str]:
        """The client's command line."""
        return [sys.executable, "-m", "benchmarks.agent", self.module, address]


def sides(models: Path) -> dict[str, Side]:
    """The sides by name, over the SavedModels in a folder."""
    bare = (
        sys.executable,
        "-m",
        "varserve_service",
        "serve",
        "--port",
        "0",
        "--max-streams",
        "2000",
        "--log-level",
        "warning",
    )
    service = (*bare, "--model", f"{BENCH}={models / BENCH}")
    state = models / "state"
    beside = ("--lane-socket", str(models / "lane"), "--lane-port", "0")
    return {
        "ours": Side(
            "ours",
            "varserve: a read fills a warm array, or gives a fresh one where it says so; "
            "what is assigned is one warm array; large values through gRPC unless it says by the "
            "lane, small calls by the lane unless it says through gRPC",
            (*service, "--model", f"{OTHER}={models / OTHER}", *beside),
        ),
        "encrypted": Side(
            "encrypted",
            "varserve under TLS, and the lane's port with the same certificate",
            (sys.executable, "-m", "benchmarks.sides.encrypted", str(models)),
        ),
        "batched": Side(
            "ours",
            "varserve with batching of the small function, up to 256 rows and 2 ms",
            (
                *(*service, "--config", str(Path(__file__).parents[1] / "batching.yaml")),
                *("--lane-socket", str(models / "batched-lane")),
            ),
        ),
        "durable": Side(
            "ours",
            "varserve with a state directory: every commit is on the disk before its answer",
            (*service, "--state-dir", str(state)),
            scratch=state,
        ),
        "replicated": Side(
            "replicas",
            "varserve with its state in PostgreSQL on this machine: a commit is synced there",
            (sys.executable, "-m", "benchmarks.sides.replicas", str(models), "1"),
        ),
        "replicas": Side(
            "replicas",
            "the same state, and three services that the calls go to in turn",
            (sys.executable, "-m", "benchmarks.sides.replicas", str(models), "3"),
        ),
        "loads": Side(
            "loads",
            "varserve, of which an operator unloads and loads another model of 300 variables",
            (sys.executable, "-m", "benchmarks.sides.loads", str(models)),
        ),
        "disk": Side("disk", "the disk alone: write and fdatasync", address=str(models)),
        "starts": Side(
            "starts",
            "the service from its start until it is ready, with a state directory",
            address=str(models / BENCH),
        ),
        "tcp": Side(
            "tcp",
            "a bare TCP socket: sendall from a warm buffer, recv_into a warm one, "
            "or a fresh one where it says so",
        ),
        "tls": Side(
            "tls",
            "a TLS socket, of Python's ssl: sendall from a warm buffer, recv_into a warm one",
            (sys.executable, "-m", "benchmarks.sides.tls", str(models / "tls")),
        ),
        "echo": Side("echo", "a bare grpc.aio server that answers with the bytes it was sent"),
        "cpp": Side(
            "cpp",
            "gRPC in C++, of Debian's libgrpc++: answers with the bytes it was sent, or as many "
            "as are asked for in messages of 1 MiB from warm memory; a read fills a warm array",
            (str(PROGRAM), "serve"),
        ),
        "chunks": Side(
            "chunks",
            "1 MiB chunks as protobuf objects over a grpc.aio stream: warm memory in the server, "
            "a read gives a fresh array",
        ),
        "flight": Side(
            "flight",
            "Arrow Flight, one record batch: warm memory in the server, "
            "what is received is fresh on both sides",
        ),
        "tensor_proto": Side(
            "tensor_proto",
            "a blocking unary gRPC service of TensorProto, tf.make_tensor_proto and "
            "tf.make_ndarray: all fresh, but what is assigned is one warm array",
        ),
        "eager": Side(
            "eager",
            "TensorFlow's remote eager, experimental_connect_to_host: a read gives a fresh array; "
            "what is assigned is one warm array",
        ),
        "in_process": Side(
            "in_process",
            "the model's function in process, from and to numpy",
            address=str(models / OTHER),
        ),
        "inspected": Side(
            "inspected",
            "varserve's core over basic-pitch, in process, from and to numpy",
            address=str(FOLDER),
        ),
        "pitch": Side(
            "pitch",
            "varserve with basic-pitch: what is probed comes as fresh arrays, or as summaries",
            (*bare, "--model", f"{PITCH}={FOLDER}"),
        ),
        "imports": Side("imports", "a fresh interpreter, without its own start", address="none"),
    }
