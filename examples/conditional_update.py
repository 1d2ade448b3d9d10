"""Several writers change one variable, and no update is lost.

Each thread adds 1 to a bias a few times: it reads, computes, and writes on the condition that
nobody wrote in between. `update` is that loop.
"""

from __future__ import annotations

from threading import Thread

import numpy as np

import varserve

WRITERS, TIMES = 4, 5


def add_one(model: varserve.Model) -> None:
    bias = model.variables["conv2d_1/bias"]
    for _ in range(TIMES):
        bias.update(lambda value: value + np.float32(1), message="one more")


def main() -> None:
    with varserve.connect() as client:
        model = client.model("basic_pitch")
        bias = model.variables["conv2d_1/bias"]
        before, revision = bias.numpy(), model.revision
        writers = [Thread(target=add_one, args=(model,)) for _ in range(WRITERS)]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
        added = float((bias.numpy() - before).mean())
        print(f"{WRITERS} writers, {TIMES} updates each: {added:g} were added")
        model.revert(revision, ["conv2d_1/bias"], message="the example is over")


if __name__ == "__main__":
    main()
