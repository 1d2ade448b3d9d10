"""The SavedModels that are measured: `python -m benchmarks.model FOLDER`. Needs TensorFlow.

`FOLDER/bench` has everything; `FOLDER/other` lacks the snapshot's variables, and is there to be
busy with; `FOLDER/network` has as many variables as a network of some size. They are small on disk:
variables beyond a message's size have no rows until their `fill_NAME(rows)` gives them some, in the
service itself.
"""

from __future__ import annotations

import sys
from typing import Any

KIB, MIB, GIB = 2**10, 2**20, 2**30

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
SIZES = {
    "float32": (4, 4 * KIB, MIB, 64 * MIB, 256 * MIB, GIB, 3 * GIB),
    "bfloat16": (4 * KIB, 64 * MIB, 256 * MIB),
}
ROW = 1024
"""Elements of a row of a variable that is filled."""
FILLED_FROM = 4 * MIB

TABLE_ROW = 256
"""Elements of a row of `table`, which is looked up in, as an embedding is."""
ALONE_ROWS = 100
"""Rows of `alone`, a variable of as many rows as are read of the table."""
SNAPSHOT = 1000
"""So many variables `small_N` of 16 by 16."""
STEP = 200
"""So many of them are written by `step`, as the weights of a model are in training."""

LAYERS = 150
"""So many layers of two variables has the model that is loaded while others are read."""
WIDTH = 64

BENCH, OTHER, NETWORK = "bench", "other", "network"


def variable_name(dtype: str, nbytes: int) -> str:
    """The variable of a dtype and a size."""
    return f"{dtype}_{nbytes}"


def rows(dtype: str, nbytes: int) -> int:
    """Rows of a variable that is filled, so that it has this size."""
    return nbytes // (ROW * ITEM_BYTES[dtype])


def build(folder: str) -> None:
    """Save the models."""
    import tensorflow as tf

    def filler(variable: Any) -> Any:
        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def fill(rows: Any) -> Any:
            shape = [rows, variable.shape[1]]
            variable.assign(tf.fill(shape, tf.ones([], variable.dtype)))
            return {"rows": rows}

        return fill

    class Model(tf.Module):
        def __init__(self, snapshot: int) -> None:
            super().__init__()
            for dtype, sizes in SIZES.items():
                for nbytes in sizes:
                    self._add(variable_name(dtype, nbytes), dtype, nbytes)
            self.table = tf.Variable(
                tf.zeros([0, TABLE_ROW]), shape=[None, TABLE_ROW], name="table"
            )
            self.alone = tf.Variable(tf.ones([ALONE_ROWS, TABLE_ROW]), name="alone")
            self.small = [
                tf.Variable(tf.ones([16, 16]), name=f"small_{n}") for n in range(snapshot)
            ]
            self.bias = tf.Variable(1.0, name="bias")

        def _add(self, name: str, dtype: str, nbytes: int) -> None:
            if nbytes < FILLED_FROM:
                value = tf.ones([nbytes // ITEM_BYTES[dtype]], dtype)
                setattr(self, name, tf.Variable(value, name=name))
                return
            variable = tf.Variable(tf.zeros([0, ROW], dtype), shape=[None, ROW], name=name)
            setattr(self, name, variable)
            setattr(self, f"fill_{name}", filler(variable))

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def fill_table(self, rows: Any) -> Any:
            """Takes memory that nobody has touched: who reads rows of it writes them first."""
            self.table.assign(tf.raw_ops.Empty(shape=[rows, TABLE_ROW], dtype=tf.float32))
            return {"rows": rows}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def look_up(self, ids: Any) -> Any:
            return {"rows": tf.gather(self.table, ids)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def train_rows(self, ids: Any) -> Any:
            """As a step of training does that has looked up these rows."""
            rows = tf.gather(self.table, ids)
            self.table.scatter_sub(tf.IndexedSlices(0.01 * rows, ids))
            return {"rows": tf.size(ids)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def add(self, x: Any) -> Any:
            return {"y": x + self.bias}

        @tf.function(input_signature=[])
        def step(self) -> Any:
            for variable in self.small[:STEP]:
                variable.assign_add(tf.ones(variable.shape))
            return {"bias": self.bias.read_value()}

    class Network(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernels = [tf.Variable(tf.eye(WIDTH), name=f"kernel_{n}") for n in range(LAYERS)]
            self.biases = [tf.Variable(tf.zeros(WIDTH), name=f"bias_{n}") for n in range(LAYERS)]

        @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], tf.float32)])
        def infer(self, x: Any) -> Any:
            for kernel, bias in zip(self.kernels, self.biases, strict=True):
                x = tf.nn.relu(tf.matmul(x, kernel) + bias)
            return {"y": x}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def decay(self, rate: Any) -> Any:
            for variable in (*self.kernels, *self.biases):
                variable.assign(variable * rate)
            return {"rate": rate}

    network = Network()
    signatures = {"serving_default": network.infer}
    tf.saved_model.save(network, f"{folder}/{NETWORK}", signatures=signatures)
    tf.saved_model.save(Model(SNAPSHOT), f"{folder}/{BENCH}")
    tf.saved_model.save(Model(0), f"{folder}/{OTHER}")


if __name__ == "__main__":
    build(sys.argv[1])
