"""A SavedModel to measure with: `python -m benchmarks.model FOLDER MIB`. Needs TensorFlow."""

from __future__ import annotations

import sys
from typing import Any


def main(folder: str, mib: int) -> None:
    """`big` float32 of so many MiB, `small` float32 of 4 KiB, `bump(x)` that adds to `x`."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big = tf.Variable(tf.ones([mib, 262_144]), name="big")
            self.small = tf.Variable(tf.ones([1024]), name="small")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def bump(self, x: Any) -> Any:
            return {"y": x + self.small[0]}

    tf.saved_model.save(Model(), folder)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
