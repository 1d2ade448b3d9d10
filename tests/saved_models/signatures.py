"""SavedModels whose functions take and give every dtype and structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .building import DTYPES, builder, save


@builder
def polymorphic(folder: Path) -> Path:
    """`scale(x, by=2, training=False)` with tensor and constant overloads; nested arguments."""
    import tensorflow as tf

    class Polymorphic(tf.Module):
        @tf.function
        def scale(self, x: Any, by: Any = 2, training: bool = False, *, mode: Any = None) -> Any:
            scaled = x * tf.cast(by, x.dtype)
            return scaled + 100 if training else scaled

        @tf.function
        def nest(self, batch: Any, *rest: Any) -> Any:
            total = batch["x"] + batch["pair"][0] + batch["pair"][1]
            return {"total": total, "parts": (batch["x"], {"rest": rest[0]})}

        @tf.function
        def sizes(self, x: Any, flag: Any) -> Any:
            return tf.shape(x)[0], None, tf.constant(str(flag))

    module = Polymorphic()
    vector = tf.TensorSpec([None], tf.float32)
    module.scale.get_concrete_function(vector)
    module.scale.get_concrete_function(vector, training=True)
    module.scale.get_concrete_function(vector, 3)
    module.scale.get_concrete_function(vector, mode="fast")
    module.scale.get_concrete_function(vector, tf.TensorSpec([], tf.float32))
    module.scale.get_concrete_function(tf.TensorSpec([None], tf.int32))
    module.nest.get_concrete_function({"x": vector, "pair": (vector, vector)}, vector)
    module.sizes.get_concrete_function(tf.TensorSpec(None, tf.float32), ("a", 1.5))
    return save(module, folder)


@builder
def strings_and_ints(folder: Path) -> Path:
    """`labels` string [2, 2], `empty` string [0], `word` string [], `step` int32 []; `join`."""
    import tensorflow as tf

    class Words(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.labels = tf.Variable([[b"a", b"\xff\x00"], [b"", "ü".encode()]], name="labels")
            self.empty = tf.Variable(tf.zeros([0], tf.string), name="empty")
            self.word = tf.Variable(b"word", name="word")
            self.step = tf.Variable(7, name="step")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def join(self, parts: Any) -> Any:
            return tf.strings.reduce_join(parts, separator="-")

    return save(Words(), folder)


@builder
def scaled(folder: Path) -> Path:
    """y = x * scale and z = x + scale, by the default signature; `again` has y alone."""

    import tensorflow as tf

    class Scaled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(2.0, name="scale")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def both(self, x: Any) -> Any:
            return {"y": x * self.scale, "z": x + self.scale}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def again(self, x: Any) -> Any:
            return {"y": x * self.scale}

    module = Scaled()
    return save(module, folder, {"serving_default": module.both, "again": module.again})


@builder
def words(folder: Path) -> Path:
    """Strings in, each with its length before it out."""
    import tensorflow as tf

    class Words(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words")])
        def joined(self, words: Any) -> Any:
            lengths = tf.strings.as_string(tf.strings.length(words))
            return {"joined": tf.strings.join([lengths, words], ":")}

    module = Words()
    return save(module, folder, module.joined)


@builder
def examples(folder: Path) -> Path:
    """Signatures over encoded Examples with the feature `x`: `classified`, `regressed`."""
    import tensorflow as tf

    class Examples(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(2.0, name="weight")

        def parsed(self, inputs: Any) -> Any:
            features = {"x": tf.io.FixedLenFeature([], tf.float32)}
            return tf.io.parse_example(inputs, features)["x"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def classified(self, inputs: Any) -> Any:
            x = self.parsed(inputs) * self.weight
            names = tf.tile([[b"small", b"large"]], [tf.shape(x)[0], 1])
            return {"classes": names, "scores": tf.stack([1.0 - x, x], axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def regressed(self, inputs: Any) -> Any:
            return {"outputs": self.parsed(inputs)[:, None] * self.weight}

    module = Examples()
    signatures = {"serving_default": module.classified, "regressed": module.regressed}
    return save(module, folder, signatures)


@builder
def complex_numbers(folder: Path) -> Path:
    """A signature over complex numbers, which some protocols cannot carry."""

    import tensorflow as tf

    class Turned(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.complex64, "x")])
        def turned(self, x: Any) -> Any:
            return {"y": x * tf.constant(1j, tf.complex64)}

    module = Turned()
    return save(module, folder, module.turned)


@builder
def every_dtype(folder: Path) -> Path:
    """A variable of shape [2, 3] for every dtype that TensorFlow can hold: `v_DTYPE`."""
    import numpy as np
    import tensorflow as tf

    module = tf.Module()
    for dtype in DTYPES:
        if dtype == "string":
            value = tf.constant([["a", "b", "c"], ["d", "e", "f"]])
        else:
            as_numpy = tf.as_dtype(dtype).as_numpy_dtype
            value = tf.constant(np.array([[0, 1, 2], [3, 4, 5]]).astype(as_numpy))
        setattr(module, f"v_{dtype}", tf.Variable(value, name=f"v_{dtype}"))
    return save(module, folder)


@builder
def composites(folder: Path) -> Path:
    """Functions of ragged, sparse and indexed tensors, named tuples, *rest and keywords alone."""
    import collections

    import tensorflow as tf

    pair = collections.namedtuple("pair", ["z", "a"])

    class Composites(tf.Module):
        @tf.function
        def parts(self, r: Any, s: Any, i: Any) -> Any:
            return {"z": r, "a": s, "m": i}

        @tf.function
        def spread(self, n: Any, *rest: Any, bias: Any, **more: Any) -> Any:
            total = n.z - 2 * n.a + 4 * bias + 8 * more["zeta"] - 16 * more["alpha"]
            return pair(total, n.a), [each - bias for each in rest]

        @tf.function(
            input_signature=[
                tf.TensorSpec([], tf.float32, name="y"),
                tf.TensorSpec([], tf.float32, name="x"),
            ]
        )
        def swapped(self, x: Any, y: Any) -> Any:
            return collections.OrderedDict(z=x - y, a=x)

        @tf.function
        def keyed(self, *, b_b: Any, a: Any, b: Any) -> Any:
            return a - 2 * b + 4 * b_b

    module, scalar = Composites(), tf.TensorSpec([], tf.float32)
    module.parts.get_concrete_function(
        tf.RaggedTensorSpec([None, None, None], tf.float32, 2),
        tf.SparseTensorSpec([None, None], tf.float32),
        tf.IndexedSlicesSpec([None], tf.float32),
    )
    module.spread.get_concrete_function(
        pair(scalar, scalar), scalar, scalar, bias=scalar, zeta=scalar, alpha=scalar
    )
    module.keyed.get_concrete_function(b_b=scalar, a=scalar, b=scalar)
    module.bare = module.swapped.get_concrete_function()
    return save(module, folder, {"serving_default": module.swapped})
