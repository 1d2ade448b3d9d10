"""SavedModels of tf.Module: variables of many paths, shapes and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .building import builder, save


@builder
def counter(folder: Path) -> Path:
    """`count` int64 [] = 0 and `v` float32 [3] = 1 2 3; functions `add`, `get`, `total`, `fail`."""
    import tensorflow as tf

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0, dtype=tf.int64, name="count")
            self.v = tf.Variable([1.0, 2.0, 3.0], name="v")

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def add(self, n: Any) -> Any:
            return {"count": self.count.assign_add(n)}

        @tf.function(input_signature=[])
        def get(self) -> Any:
            return {"count": self.count.read_value()}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def total(self, x: Any) -> Any:
            return tf.reduce_sum(x * self.v)

        @tf.function(input_signature=[])
        def fail(self) -> Any:
            """Writes both variables, and then fails."""
            first = self.count.assign(999)
            with tf.control_dependencies([first]):
                second = self.v.assign([9.0, 9.0, 9.0])
            with tf.control_dependencies([second]):
                tf.debugging.assert_less(self.count, tf.constant(0, tf.int64), "count too large")
            return self.count.read_value()

    module = Counter()
    signatures = {"serving_default": module.total, "add": module.add, "get": module.get}
    return save(module, folder, signatures)


@builder
def nested(folder: Path) -> Path:
    """Modules and variables in lists and dicts: `layers/0/kernel`, `loose/0`, `parts/head/bias`."""
    import tensorflow as tf

    class Layer(tf.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.kernel = tf.Variable(tf.fill([size, 2], float(size)), name="kernel")
            self.bias = tf.Variable(tf.zeros([2]))

    class Nested(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [Layer(2), Layer(3)]
            self.loose = [tf.Variable(1), tf.Variable(2, name="second", trainable=False)]
            self.parts = {
                "head": Layer(4),
                "scale": tf.Variable(2.0, name="the_scale"),
                "shared": self.layers[0],
            }

    return save(Nested(), folder)


@builder
def twins(folder: Path) -> Path:
    """Two variables named `w`, one whose name is the path of another, and two unnamed."""
    import tensorflow as tf

    module = tf.Module()
    module.left = tf.Variable([1.0], name="w")
    module.right = tf.Variable([2.0], name="w")
    module.stolen = tf.Variable([3.0], name="left")
    module.first = tf.Variable([4.0])
    module.second = tf.Variable([5.0])
    module.own = tf.Variable([6.0], name="scope/given")
    return save(module, folder)


@builder
def many(folder: Path) -> Path:
    """40 float32 `f_N`, 5 bfloat16 `b_N`, 2 strings, each of [2] and of another value; a table."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = [tf.Variable([float(n), -float(n)], name=f"f_{n}") for n in range(40)]
            self.b = [tf.Variable(tf.cast([n, n], tf.bfloat16), name=f"b_{n}") for n in range(5)]
            self.s = [tf.Variable([f"{n}", ""], name=f"s_{n}") for n in range(2)]
            self.table = tf.Variable(tf.reshape(tf.range(8.0), [4, 2]), name="table")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def look(self, ids: Any) -> Any:
            return tf.gather(self.table, ids)

        @tf.function(input_signature=[])
        def step(self) -> Any:
            for variable in self.f:
                variable.assign_add([1.0, 1.0])
            return {"done": tf.constant(True)}

    return save(Model(), folder)


@builder
def partial_shapes(folder: Path) -> Path:
    """`anything` of unknown shape, `rows` [None, 3]; `grow` doubles the rows."""
    import tensorflow as tf

    class Partial(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anything = tf.Variable(1.0, shape=tf.TensorShape(None), name="anything")
            self.rows = tf.Variable(tf.ones([2, 3]), shape=[None, 3], name="rows")

        @tf.function(input_signature=[])
        def grow(self) -> Any:
            return self.rows.assign(tf.concat([self.rows, self.rows], 0))

    return save(Partial(), folder)


@builder
def shapes(folder: Path) -> Path:
    """`empty` gives float32 and `words` string of shape [0, n, n, n].

    `rows(x)` gives float32 `[?, 0, n, n]` and string `[?, 0, n]` with n = 2^31 - 1, and `x`.
    """
    import tensorflow as tf

    size = tf.TensorSpec([], tf.int64)

    class Shapes(tf.Module):
        @tf.function(input_signature=[size])
        def empty(self, n: Any) -> Any:
            return tf.zeros(tf.stack([tf.constant(0, tf.int64), n, n, n]))

        @tf.function(input_signature=[size])
        def words(self, n: Any) -> Any:
            return tf.zeros(tf.stack([tf.constant(0, tf.int64), n, n, n]), tf.string)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def rows(self, x: Any) -> Any:
            count, n = tf.shape(x, tf.int64)[0], tf.constant(2**31 - 1, tf.int64)
            zero = tf.constant(0, tf.int64)
            return {
                "x": x,
                "empty": tf.zeros(tf.stack([count, zero, n, n])),
                "words": tf.zeros(tf.stack([count, zero, n]), tf.string),
            }

    return save(Shapes(), folder)


@builder
def two_graphs(folder: Path) -> Path:
    """TensorFlow 1 format with a graph tagged `serve` and `gpu`, and one tagged `train`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    saver = v1.saved_model.Builder(str(folder))
    for number, tags in enumerate((["serve", "gpu"], ["train"])):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], name="x")
            w = v1.get_variable("w", initializer=2.0 + number, use_resource=True)
            session.run(v1.global_variables_initializer())
            info = v1.saved_model.build_tensor_info
            signature = v1.saved_model.build_signature_def(
                {"x": info(x)}, {"y": info(x * w)}, "tensorflow/serving/predict"
            )
            signatures = {"serving_default": signature}
            if number:
                saver.add_meta_graph(tags, signature_def_map=signatures)
            else:
                saver.add_meta_graph_and_variables(session, tags, signature_def_map=signatures)
    saver.save()
    return folder


@builder
def ledger(folder: Path) -> Path:
    """`a` to `d` and `tally` int64 [] = 0, `table` int64 [64, 32] = 0, which is written in place.

    `count` adds to `tally` and gives what it is then; `break_off` writes `a` and `b`, then fails.
    """
    import tensorflow as tf

    class Ledger(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in "abcd":
                setattr(self, name, tf.Variable(0, dtype=tf.int64, name=name))
            self.tally = tf.Variable(0, dtype=tf.int64, name="tally")
            self.table = tf.Variable(tf.zeros([64, 32], tf.int64), name="table")

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def count(self, n: Any) -> Any:
            return {"tally": self.tally.assign_add(n)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def break_off(self, value: Any) -> Any:
            first = self.a.assign(value)
            with tf.control_dependencies([first]):
                second = self.b.assign(value)
            with tf.control_dependencies([second]):
                tf.debugging.assert_less(self.a, tf.constant(0, tf.int64), "it fails on purpose")
            return tf.identity(value)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def look(self, rows: Any) -> Any:
            return tf.gather(self.table, rows)

    return save(Ledger(), folder)


@builder
def uniform(folder: Path) -> Path:
    """`big` float32 [1024, 1024] and eight `part_N`, always of one value when nothing is torn.

    `extremes` gives `big`'s least and greatest element, each by a read of its own; `scatter` and
    `slices` write `big` in place, one quarter after the other.
    """
    import tensorflow as tf

    class Uniform(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big = tf.Variable(tf.zeros([1024, 1024]), name="big")
            self.parts = [tf.Variable(0.0, name=f"part_{n}") for n in range(8)]

        @tf.function(input_signature=[])
        def extremes(self) -> Any:
            least = tf.reduce_min(self.big.read_value())
            with tf.control_dependencies([least]):
                return {"least": least, "greatest": tf.reduce_max(self.big.read_value())}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def scatter(self, value: Any) -> Any:
            done = []
            for start in range(0, 1024, 256):
                with tf.control_dependencies(done):
                    rows = tf.IndexedSlices(
                        tf.fill([256, 1024], value), tf.range(start, start + 256)
                    )
                    done = [self.big.scatter_update(rows)]
            with tf.control_dependencies(done):
                return tf.identity(value)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def slices(self, value: Any) -> Any:
            done = []
            for start in range(0, 1024, 256):
                with tf.control_dependencies(done):
                    part = tf.fill([256, 1024], value)
                    done = [self.big[start : start + 256].assign(part)]
            with tf.control_dependencies(done):
                return tf.identity(value)

    return save(Uniform(), folder)


@builder
def failing(folder: Path) -> Path:
    """`check(x)` fails by an assertion, `fold(x, size)` by a reshape, `pick(x, i)` by an index."""
    import tensorflow as tf

    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def check(self, x: Any) -> Any:
            tf.debugging.assert_positive(x, "x must be positive")
            return tf.sqrt(x)

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)]
        )
        def fold(self, x: Any, size: Any) -> Any:
            return tf.reshape(x, [size, size])

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)]
        )
        def pick(self, x: Any, i: Any) -> Any:
            return tf.gather(x, i)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def allocate(self, size: Any) -> Any:
            return tf.fill([size], 1.0)

    return save(Failing(), folder)


@builder
def unservable(folder: Path) -> Path:
    """`fine` float32 [2], and `small` of a quantized type that the contract does not carry."""
    import tensorflow as tf

    module = tf.Module()
    module.fine = tf.Variable([1.0, 2.0], name="fine")
    quantized = tf.quantization.quantize([0.0, 1.0], 0.0, 1.0, tf.quint8).output
    module.small = tf.Variable(quantized, name="small", trainable=False)
    return save(module, folder)


def large(folder: Path, mib: int) -> Path:
    """`big` float32 [mib, 262144], that is `mib` MiB, of ones, and `small` int64 []."""
    import tensorflow as tf

    module = tf.Module()
    module.big = tf.Variable(tf.ones([mib, 262_144]), name="big")
    module.small = tf.Variable(0, dtype=tf.int64, name="small")
    return save(module, folder)


@builder
def large_64(folder: Path) -> Path:
    """A variable `big` of 64 MiB."""
    return large(folder, 64)


@builder
def large_80(folder: Path) -> Path:
    """A variable `big` of 80 MiB."""
    return large(folder, 80)
