"""Walk one call of each kind: `make walks`; `ARGS=--files` prints the files in their order."""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TextIO

READY = "varserve ready on "
START_SECONDS = 300


class Walk:
    """What a profile hook saw of this project while the walk was on, of all threads in order."""

    def __init__(self) -> None:
        self.on = False
        self._ours: dict[CodeType, str] = {}
        self.steps: list[tuple[str, CodeType]] = []

    def hook(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not self.on:
            return
        code = frame.f_code
        file = self._ours.get(code)
        if file is None:
            file = self._ours[code] = _file_of(code)
        if file:
            self.steps.append((file, code))

    @property
    def files(self) -> list[str]:
        """The files in the order in which they were entered, each visit once."""
        entered: list[str] = []
        for file, _ in self.steps:
            if not entered or entered[-1] != file:
                entered.append(file)
        return entered

    def counts(self) -> tuple[int, int, int]:
        """Functions, files, and returns to a file that had been left."""
        files = self.files
        functions = {code for _, code in self.steps}
        return len(functions), len(set(files)), len(files) - len(set(files))


def _file_of(code: CodeType) -> str:
    """The file of a named function of this project; "" for other code, and for the stubs."""
    if code.co_name.startswith("<"):  # a comprehension, say: part of the function that it is in
        return ""
    for package in ("varserve_service", "varserve"):
        _, found, below = code.co_filename.rpartition(f"/{package}/")
        if found and "/src/" in code.co_filename:
            return "" if below.startswith("v1/") else f"{package}/{below}"
    return ""


class _ReadyLine(io.StringIO):
    """Standard output that says when the service is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.address = ""
        self.heard = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        for line in self.getvalue().splitlines():
            if line.startswith(READY):
                self.address = line.removeprefix(READY).strip()
                self.heard.set()
        return count


def calls(client: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls that are walked, by name. What happens here before a `yield` is not walked."""
    import numpy as np

    model = client.model("walked")
    small, other = model.variables["v"], model.variables["w"]
    add = model.functions["add"]
    value = small.numpy()
    large = np.full(other.shape, 2, np.float32)

    def reset() -> None:
        small.assign(value)

    reset()
    small.numpy()
    reset()
    yield "unary read", small.numpy
    reset()
    yield "unary assign", lambda: small.assign(value)

    def streamed() -> object:
        with model.transaction() as change:
            change.assign("v", value)
            change.assign("w", large)
        return change

    streamed()
    yield "streamed assign of two variables", streamed
    add(n=np.int64(1))
    yield "run that writes", lambda: add(n=np.int64(1))

    def watched() -> object:
        with model.watch() as watching:
            events = iter(watching)
            small.assign(value)
            return next(events)

    watched()
    yield "watch, and an assign", watched


def build(folder: Path) -> Path:
    """A SavedModel of a small variable, one that is streamed, and a function that writes."""
    import tensorflow as tf

    class Walked(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable([1.0, 2.0, 3.0], name="v")
            self.w = tf.Variable(tf.zeros([1024, 600]), name="w")
            self.count = tf.Variable(0, dtype=tf.int64, name="count")

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])  # type: ignore[misc]
        def add(self, n: Any) -> Any:
            return {"count": self.count.assign_add(n)}

    module = Walked()
    tf.saved_model.save(module, str(folder), signatures={"add": module.add})
    return folder


def walk_all(address: str, walk: Walk, show_files: bool, out: TextIO) -> None:
    """Make each call and print what the hook saw of it."""
    import varserve

    with varserve.connect(address) as client:
        for name, call in calls(client):
            walk.steps.clear()
            walk.on = True
            call()
            walk.on = False
            functions, files, returns = walk.counts()
            line = f"{name:34} {functions:4} functions {files:4} files {returns:4} returns"
            print(line, file=out, flush=True)
            if show_files:
                print(*(f"    {file}" for file in walk.files), sep="\n", file=out, flush=True)


def serve_and_walk(folder: Path, show_files: bool) -> None:
    """Serve on this thread and walk on another. At the end the service ends the process."""
    walk, ready, out = Walk(), _ReadyLine(), sys.stdout
    threading.setprofile(walk.hook)
    sys.setprofile(walk.hook)

    def walk_when_ready() -> None:
        try:
            assert ready.heard.wait(START_SECONDS), "the service was not ready"
            walk_all(ready.address, walk, show_files, out)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)

    from varserve_service.__main__ import main as service

    threading.Thread(target=walk_when_ready, daemon=True).start()
    sys.stdout = ready
    sys.argv = ["varserve-service", "serve", "--port", "0", "--model", f"walked={folder}/model"]
    sys.argv += ["--log-level", "error", "--state-dir", str(folder / "state")]
    service()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.walks", description=__doc__)
    parser.add_argument("--files", action="store_true", help="print the files of each walk")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        serve_and_walk(arguments.folder, arguments.files)
        return 1  # the service has not ended the process
    # In a process of its own, since the service ends it there and then.
    with tempfile.TemporaryDirectory(prefix="varserve-walks-") as folder:
        build(Path(folder) / "model")
        command = [sys.executable, "-m", "tests.walks", *sys.argv[1:], "--folder", folder]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}
        return subprocess.run(
            command, env=os.environ | quiet, check=False, timeout=2 * START_SECONDS
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
