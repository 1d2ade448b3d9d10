"""A model of fakes on a real socket, with limits so small that a kilobyte is large.

In the process of the tests; or, where its Python cannot have the service, in another one:
`python -m tests.client.served` serves a new one for each line of its input, and prints the address.
The line has the path of its lane's socket, if it is to have one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Omission, OmissionKind, TensorSpec

MESSAGE_BYTES = 128 << 10
CHUNK_BYTES = 1 << 10


def fake_model() -> FakeModel:
    """Variables of every kind that the client treats differently, and a few functions."""
    weights = FakeVariable("weights", np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    counter = FakeVariable("counter", np.array(7, dtype=np.int64))

    def double(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": x * 2, "half/0": x / 2}

    def spread(n: np.ndarray) -> dict[str, np.ndarray]:
        return {"ones": np.ones(int(n), np.float32)}

    def divide(x: np.ndarray) -> dict[str, np.ndarray]:
        raise ZeroDivisionError("division by zero")

    vector = TensorSpec("float32", (None,))
    return FakeModel(
        [
            weights,
            counter,
            FakeVariable("table", np.zeros((1000, 4), np.float32)),
            FakeVariable("large", np.arange(100_003, dtype=np.float64)),
            FakeVariable("labels", np.array([b"a", b"bb", b"ccc"], dtype=object)),
            FakeVariable("novel", np.array([b"x" * 20_000] * 9, dtype=object)),
            FakeVariable("flag", np.array([True, False])),
            FakeVariable("unset", None, shape=(2,)),
            FakeVariable("growing", np.zeros((2, 3), np.float32), shape=(None, 3)),
            FakeVariable("twin", np.zeros(1, np.float32), path="left/twin"),
            FakeVariable("kernel", np.zeros(1, np.float32), path="layers/0/kernel"),
        ],
        [
            FakeFunction(
                "double", double, inputs={"x": vector}, outputs={"y": vector, "half/0": vector}
            ),
            FakeFunction(
                "spread",
                spread,
                inputs={"n": TensorSpec("int32", ())},
                outputs={"ones": vector},
            ),
            FakeFunction("divide", divide, inputs={"x": vector}, outputs={"y": vector}),
        ],
        omissions=[Omission(OmissionKind.FUNCTION, "datasets", "its input 'x' is a variant")],
    )


@contextmanager
def served(lane_socket: str = "") -> Iterator[str]:
    """The address of a service of a new model."""
    model = LiveModel(fake_model())
    with serve_here(
        model, message_bytes=MESSAGE_BYTES, chunk_bytes=CHUNK_BYTES, lane_socket=lane_socket
    ) as address:
        yield address


def main() -> None:
    with ExitStack() as services:
        for line in sys.stdin:
            services.close()
            print(services.enter_context(served(line.strip())), flush=True)


if __name__ == "__main__":
    main()
