"""A change that is tried first, and that ends by itself.

`inspect(assume=...)` runs a function as if a variable had another value, and changes nothing. A
lease takes a change back when its block ends or its time is over, also if this program dies.
"""

from __future__ import annotations

import numpy as np

import varserve

SILENCE = np.zeros((1, 43844, 1), np.float32)


def main() -> None:
    with varserve.connect() as client:
        model = client.model("basic_pitch")
        # Of an output layer: behind others a ReLU makes 0 of NaN, on some processors.
        kernel = model.variables["conv2d_3/kernel"]
        transcribe = model.functions["serving_default"]
        released = kernel.numpy()

        seen = transcribe.inspect(
            {"input_2": SILENCE}, assume={"conv2d_3/kernel": released * np.float32("nan")}
        )
        finite = all(np.isfinite(each).all() for each in seen.outputs.values())
        print("with NaN the answers would be", "finite" if finite else "useless: not committed")

        with kernel.lease(released * 1.1, seconds=30, message="louder, for half a minute"):
            notes = transcribe(input_2=SILENCE)
            print("while the lease lasts: revision", notes.revision)
        print("restored:", bool(np.array_equal(kernel.numpy(), released)))


if __name__ == "__main__":
    main()
