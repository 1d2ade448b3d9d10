"""Sends names that look like paths to a service of its own, and tells which files were opened.

Run as a program: an audit hook cannot be taken out again. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.rpc.models import counter
from tests.rpc.requests import MODEL, assign, entry, manifest, read, run, run_manifest, summarize
from tests.rpc.wire import Wire, connected
from tests.serving import serve_here
from varserve.v1 import model_service_pb2 as pb

FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.chdir", "os.mkdir", "os.rename", "os.remove"}


def names(secret: Path) -> list[str]:
    """Names that some file system or decoder takes for a way out, to a file that is there."""
    up = "../" * 12
    absolute = str(secret)
    return [
        absolute,
        up + absolute.lstrip("/"),
        f"{MODEL}/../..{absolute}",
        f"v/{up}{absolute}",
        f"./{up}etc/passwd",
        "/etc/passwd",
        "/proc/self/environ",
        f"file://{absolute}",
        "..",
        "../v",
        "v/..",
        "v/../v",
        "./v",
        "v/",
        "//v",
        "%2e%2e%2fv",
        "%2e%2e/" * 12 + "etc/passwd",
        "..%c0%afv",
        "..\\v",
        "\uff0e\uff0e\uff0fv",  # full width
        "\u2024\u2024/v",  # one dot leader
        "\u202e/v",  # right to left
        "v\0",
        f"{absolute}\0.txt",
        "~/.ssh/id_rsa",
        "${HOME}",
        "$(cat /etc/passwd)",
        "1/../../v",
        "NUL",
        "C:\\Windows\\win.ini",
    ]


def requests(name: str) -> list[tuple[str, Any]]:
    """Every place of every request that takes a name."""
    return [
        ("GetModel", pb.GetModelRequest(model=name)),
        ("ReadVariable", read(model=name)),
        ("ReadVariable", read(variable=name)),
        ("ReadVariables", pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": name}])),
        ("SummarizeVariables", summarize(model=name)),
        ("SummarizeVariables", summarize(selections=[{"variable": name}])),
        ("AssignVariable", assign(model=name)),
        ("AssignVariable", assign(variable=name)),
        ("AssignVariables", manifest(model=name)),
        ("AssignVariables", manifest(entry(variable=name))),
        ("RunFunction", run(model=name)),
        ("RunFunction", run(function=name)),
        ("StreamRunFunction", run_manifest(model=name)),
        ("StreamRunFunction", run_manifest(function=name)),
    ]


def main(secret: Path) -> None:
    """Send all names everywhere, once what the first call opens is open."""
    opened: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in FILE_EVENTS:
            opened.append(f"{event} {arguments[0]!r}")

    def send(wire: Wire, name: str, turn: int) -> list[str]:
        # Every third place, so that each place has its turn with many names.
        outcomes = [wire.ask(method, request) for method, request in requests(name)[turn % 3 :: 3]]
        return [outcome.code.name for outcome in outcomes]

    sys.addaudithook(hook)
    with serve_here(counter()) as address, connected(address) as wire:
        for turn in range(3):
            send(wire, "nope", turn)
        watching = True
        codes = Counter(
            code for turn, name in enumerate(names(secret)) for code in send(wire, name, turn)
        )
        seen = len(opened)
        secret.read_text()  # the hook sees what it must see
    sent = sum(len(requests(name)[turn % 3 :: 3]) for turn, name in enumerate(names(secret)))
    print(
        json.dumps(
            {
                "sent": sent,
                "codes": codes,
                "opened": opened[:seen],
                "hook_works": len(opened) > seen,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
