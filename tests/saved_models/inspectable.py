"""SavedModels to look into: nested calls, loops, branches, XLA, prints, checks, writes, gradients.

Built by name through `tests.saved_models.build`, as all models of the tests are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .building import builder


def _inner() -> tuple[Any, dict[str, Any]]:
    """A module and its signatures. Its variables are small, so that results are known by hand."""
    import tensorflow as tf

    class Inner(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]], name="w")
            self.b = tf.Variable([1.0, 2.0, 3.0], name="b")
            self.count = tf.Variable(0, dtype=tf.int64, name="count", trainable=False)
            self.total = tf.Variable([0.0, 0.0], name="total")
            self.table = tf.Variable(tf.reshape(tf.range(20.0), [10, 2]), name="table")
            self.keys = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64)), -1
            )

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def layer(self, x: Any) -> Any:
            with tf.name_scope("layer"):
                hidden = tf.add(tf.matmul(x, self.w, name="matmul"), self.b, name="biased")
                return tf.nn.relu(hidden, name="relu")

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def twice(self, x: Any) -> Any:
            """Calls one function two times: `layer/relu` is the name of two tensors."""
            both = self.layer(x) + self.layer(x * 2.0)
            return {"y": tf.reduce_sum(both, axis=1, name="sum_of_both")}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def loop(self, n: Any) -> Any:
            def body(i: Any, s: Any) -> Any:
                square = tf.square(tf.cast(i, tf.float32), name="square")
                tf.print("step", i, "square", square)
                return i + 1, s + square * self.b[0]

            start = [tf.constant(0), tf.constant(0.0)]
            _, s = tf.while_loop(lambda i, s: i < n, body, start, name="turns")
            return {"s": s}

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
        def loop_in_loop(self, n: Any) -> Any:
            def outer(i: Any, s: Any) -> Any:
                def inner(j: Any, t: Any) -> Any:
                    return j + 1, tf.add(t, tf.cast(i * 10 + j, tf.float32), name="added")

                _, t = tf.while_loop(lambda j, t: j < n[1], inner, [0, 0.0], name="inner")
                return i + 1, s + t

            _, s = tf.while_loop(lambda i, s: i < n[0], outer, [0, 0.0], name="outer")
            return {"s": s}

        @tf.function(input_signature=[tf.TensorSpec([])])
        def branch(self, x: Any) -> Any:
            def positive() -> Any:
                y = tf.multiply(x, self.b[1], name="of_then")
                tf.print("then", y)
                return y

            def negative() -> Any:
                return tf.subtract(x, self.b[2], name="of_else")

            return {"y": tf.cond(x > 0, positive, negative, name="choose")}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32), tf.TensorSpec([])])
        def case(self, i: Any, x: Any) -> Any:
            branches = [
                lambda: tf.add(x, 1.0, name="case_0"),
                lambda: tf.add(x, 2.0, name="case_1"),
                lambda: tf.add(x, 3.0, name="case_2"),
            ]
            return {"y": tf.switch_case(i, branches)}

        @tf.function(input_signature=[tf.TensorSpec([None, 2])], jit_compile=True)
        def compiled(self, x: Any) -> Any:
            hidden = tf.tanh(tf.matmul(x, self.w, name="product"), name="tanh")
            return {"y": tf.reduce_sum(hidden * self.b, axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def around_compiled(self, x: Any) -> Any:
            return {"y": tf.multiply(self.compiled(x + 1.0)["y"], 2.0, name="doubled")}

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
        def printer(self, x: Any) -> Any:
            tf.print("x is", x, "sum", tf.reduce_sum(x))
            y = x * 2
            tf.print("y:", y, output_stream=sys.stdout)
            tf.print("plain constant message")
            tf.print({"k": y}, end="<END>")
            return {"y": y}

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def checked(self, x: Any) -> Any:
            tf.debugging.assert_positive(x, message="x must be positive")
            tf.debugging.Assert(tf.reduce_sum(x) < 100.0, ["sum too large", tf.reduce_sum(x)])
            return {"y": tf.debugging.check_numerics(tf.math.log(x), "log gone bad")}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def reshaped(self, n: Any) -> Any:
            """Says what it is about to do, and fails for any number but 3."""
            for turn in tf.range(2):
                tf.print("turn", turn)
            tf.print("to", n)
            with tf.control_dependencies([tf.identity(n)]):
                return {"y": tf.reshape(self.b, [n], name="to_n")}

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def hides_infinity(self, x: Any) -> Any:
            logarithm = tf.math.log(x, name="the_log")
            product = tf.multiply(logarithm, 0.0, name="product")
            hidden = tf.where(tf.math.is_nan(product), 0.0, product, name="hidden")
            return {"y": tf.reduce_sum(hidden)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def add(self, n: Any) -> Any:
            before = self.count.read_value()
            now = self.count.assign_add(n, name="bump")
            tf.print("count is now", now)
            self.total.assign(self.total + tf.cast(n, tf.float32))
            return {"before": before, "after": self.count.read_value(), "total": self.total + 0.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def gather(self, ids: Any) -> Any:
            return {"y": tf.reduce_sum(tf.gather(self.table, ids, name="rows"), axis=1)}

        @tf.function(input_signature=[])
        def random(self) -> Any:
            return {
                "seeded": tf.random.uniform([3], seed=7) * 1.0,
                "normal": tf.random.normal([2]),
                "stateless": tf.random.stateless_uniform([2], [1, 2]),
            }

        @tf.function(input_signature=[tf.TensorSpec([4])])
        def clipped(self, x: Any) -> Any:
            @tf.custom_gradient
            def clip(v: Any) -> Any:
                def gradient(upstream: Any) -> Any:
                    return tf.clip_by_value(upstream, -1.0, 1.0) * 10.0

                return tf.identity(v, name="clipped"), gradient

            return {"y": tf.reduce_sum(clip(x * self.b[0]) * 100.0)}

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def scanned(self, x: Any) -> Any:
            return {"y": tf.scan(lambda a, v: a + v * self.b, x, initializer=tf.zeros([3]))}

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def mapped(self, x: Any) -> Any:
            def row(r: Any) -> Any:
                return tf.reduce_sum(tf.sin(r, name="sine") * self.b[:2])

            return {"y": tf.map_fn(row, x)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def looked_up(self, words: Any) -> Any:
            return {"ids": self.keys.lookup(words)}

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def fine(self, x: Any) -> Any:
            """Whether weights and results are finite: what a guarded commit asks."""
            y = self.layer(x)
            finite = [tf.reduce_all(tf.math.is_finite(each)) for each in (y, self.w)]
            return {"ok": tf.reduce_all(finite), "largest": tf.reduce_max(y)}

    module = Inner()
    names = (
        "twice loop loop_in_loop branch case compiled around_compiled printer checked reshaped "
        "hides_infinity add gather random clipped scanned mapped looked_up fine"
    )
    return module, {name: getattr(module, name) for name in names.split()}


def _save(folder: Path, **options: Any) -> Path:
    import tensorflow as tf

    module, signatures = _inner()
    tf.saved_model.save(
        module, str(folder), signatures=signatures, options=tf.saved_model.SaveOptions(**options)
    )
    return folder


@builder
def inner(folder: Path) -> Path:
    """Functions of every kind to look into; saved with custom gradients and with source lines."""
    return _save(folder, experimental_custom_gradients=True, save_debug_info=True)


@builder
def inner_without_gradients(folder: Path) -> Path:
    """The same, saved without custom gradients and without source lines."""
    return _save(folder, experimental_custom_gradients=False)


@builder
def inner_keras_3(folder: Path) -> Path:
    """A small convolutional model of Keras 3: `conv_a`, `bn_a`, `conv_b`, `pool`, `head`."""
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(8, 3, name="conv_a", activation="relu")(image)
    x = keras.layers.BatchNormalization(name="bn_a")(x)
    x = keras.layers.Conv2D(4, 3, name="conv_b")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    output = keras.layers.Dense(5, name="head", activation="softmax")(x)
    keras.Model(image, output, name="tiny").export(str(folder), verbose=False)
    return folder


@builder
def inner_sequence(folder: Path) -> Path:
    """LSTM and attention of Keras 3 over tokens: `embed`, `lstm`, `mha`, `ln`, `out`."""
    import keras

    keras.utils.set_random_seed(1)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(50, 8, name="embed")(tokens)
    x = keras.layers.LSTM(6, name="lstm", return_sequences=True)(x)
    x = keras.layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    x = keras.layers.LayerNormalization(name="ln")(x)
    output = keras.layers.Dense(3, name="out")(x)
    keras.Model(tokens, output, name="sequence").export(str(folder), verbose=False)
    return folder


@builder
def inner_keras_2(folder: Path) -> Path:
    """A small dense model of Keras 2, trained and saved with its optimizer: `d1`, `bn`, `d2`."""
    import numpy as np
    import tensorflow as tf
    import tf_keras as keras

    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Input((8,), name="features"),
        keras.layers.Dense(4, activation="relu", name="d1"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dense(2, name="d2"),
    ]
    model = keras.Sequential(layers, name="old")
    model.compile("adam", "mse")
    rng = np.random.default_rng(1)
    model.fit(rng.normal(size=(16, 8)), rng.normal(size=(16, 2)), verbose=0)
    tf.saved_model.save(model, str(folder))
    return folder


@builder
def inner_tf1(folder: Path) -> Path:
    """TensorFlow 1 format: reference variable `first/w`, resource `second/u`, a loop of now."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        with v1.variable_scope("first"):
            start = tf.constant([[1.0, 2.0], [3.0, 4.0]])
            w = v1.get_variable("w", initializer=start, use_resource=False)
            h = tf.nn.relu(tf.matmul(x, w, name="product"), name="h")
        with v1.variable_scope("second"):
            start = tf.constant([[1.0], [2.0]])
            u = v1.get_variable("u", initializer=start, use_resource=True)
            y = tf.matmul(h, u, name="y")

        def body(i: Any, s: Any) -> Any:
            return i + 1, tf.add(s, y, name="added")

        counter = [tf.constant(0), tf.zeros_like(y)]
        _, total = v1.while_loop(lambda i, s: i < 3, body, counter, name="turns")
        return _save_v1(folder, {"x": x}, {"y": y, "total": tf.identity(total, name="total")})


@builder
def inner_tf1_branch(folder: Path) -> Path:
    """TensorFlow 1 format with Switch and Merge: `y` is 3 x where x is positive, else -x."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), _old_control_flow():
        x = v1.placeholder(tf.float32, [], name="x")

        def yes() -> Any:
            return tf.multiply(x, 3.0, name="of_yes")

        def no() -> Any:
            return tf.negative(x, name="of_no")

        y = v1.cond(x > 0, yes, no, name="choose")
        return _save_v1(folder, {"x": x}, {"y": y})


@builder
def inner_tf1_frames(folder: Path) -> Path:
    """TensorFlow 1 format with a loop of Enter, Exit and NextIteration: `y` is 6 x."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), _old_control_flow():
        x = v1.placeholder(tf.float32, [], name="x")

        def body(i: Any, s: Any) -> Any:
            return i + 1, tf.add(s, x * 2.0, name="added")

        _, y = v1.while_loop(lambda i, s: i < 3, body, [0, 0.0], name="turns")
        return _save_v1(folder, {"x": x}, {"y": y})


class _old_control_flow:
    """Within the block TensorFlow builds Switch, Merge and Enter, as TensorFlow 1 did."""

    def __enter__(self) -> None:
        import tensorflow as tf

        tf.compat.v1.disable_control_flow_v2()

    def __exit__(self, *_: object) -> None:
        import tensorflow as tf

        tf.compat.v1.enable_control_flow_v2()


def _save_v1(folder: Path, inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        saved = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def(inputs, outputs)
        saved.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        saved.save()
    return folder
