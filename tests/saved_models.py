"""Small real SavedModels of every kind that people have, built where they are asked for.

From a test: `build("counter", folder)`, which imports TensorFlow. By hand:
`python -P tests/saved_models.py counter FOLDER`. Both give `FOLDER/counter`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BUILDERS: dict[str, Callable[[Path], Path]] = {}

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "complex64",
    "complex128",
    "string",
)
"""Every dtype that a tf.Variable can hold and the contract carries."""


def builder(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Make a builder available by name."""
    BUILDERS[function.__name__] = function
    return function


def build(name: str, root: Path) -> Path:
    """Build `root/name` in this process, which imports TensorFlow; once for each root."""
    if name not in BUILDERS:
        # Those to look into have a file of their own, which is found as part of the tests.
        importlib.import_module("tests.inspectable_models")
    folder = root / name
    return folder if folder.is_dir() else BUILDERS[name](folder)


def _save(module: Any, folder: Path, signatures: Any = None) -> Path:
    import tensorflow as tf

    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


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
    return _save(module, folder, signatures)


@builder
def endless(folder: Path) -> Path:
    """`v` float32 [2] = 0 0; functions that never end, each in a way of its own, and `double`."""
    import tensorflow as tf

    def spun(x: Any) -> Any:
        return tf.while_loop(lambda i: i >= 0.0, lambda i: (i * 0.5,), [x])[0]

    class Endless(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable([0.0, 0.0], name="v")

        @tf.function(input_signature=[])
        def spin(self) -> Any:
            return spun(tf.constant(1.0))

        @tf.function(input_signature=[])
        def spin_in_a_branch(self) -> Any:
            return tf.cond(self.v[0] < 1.0, lambda: spun(tf.constant(1.0)), lambda: self.v[1])

        @tf.function(input_signature=[])
        def spin_in_a_map(self) -> Any:
            return tf.vectorized_map(spun, tf.constant([1.0, 2.0]))

        @tf.function(input_signature=[])
        def spin_and_write(self) -> Any:
            with tf.control_dependencies([self.v.assign([7.0, 7.0])]):
                return spun(tf.constant(1.0))

        @tf.function(input_signature=[])
        def wait_for_a_queue(self) -> Any:
            queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shared_name="empty")
            return tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.float32])[0]

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def double(self, x: Any) -> Any:
            return 2.0 * x

    module = Endless()
    return _save(module, folder, {"double": module.double})


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

    return _save(Nested(), folder)


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
    return _save(module, folder)


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
    return _save(module, folder)


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

    return _save(Words(), folder)


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
    return _save(module, folder, {"serving_default": module.both, "again": module.again})


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
    return _save(module, folder, module.joined)


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
    return _save(module, folder, signatures)


@builder
def complex_numbers(folder: Path) -> Path:
    """A signature over complex numbers, which some protocols cannot carry."""

    import tensorflow as tf

    class Turned(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.complex64, "x")])
        def turned(self, x: Any) -> Any:
            return {"y": x * tf.constant(1j, tf.complex64)}

    module = Turned()
    return _save(module, folder, module.turned)


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
    return _save(module, folder)


@builder
def unservable(folder: Path) -> Path:
    """`fine` float32 [2], and `small` of a quantized type that the contract does not carry."""
    import tensorflow as tf

    module = tf.Module()
    module.fine = tf.Variable([1.0, 2.0], name="fine")
    quantized = tf.quantization.quantize([0.0, 1.0], 0.0, 1.0, tf.quint8).output
    module.small = tf.Variable(quantized, name="small", trainable=False)
    return _save(module, folder)


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

    return _save(Partial(), folder)


@builder
def hash_table(folder: Path) -> Path:
    """A table filled at load, a mutable one that `put` changes, `bias` float32 []."""
    import tensorflow as tf

    class Table(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = tf.Variable(0.5, name="bias")
            pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
            self.fixed = tf.lookup.StaticHashTable(pairs, -1.0)
            self.mutable = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def look(self, keys: Any) -> Any:
            return self.fixed.lookup(keys) + self.bias

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def put(self, keys: Any) -> Any:
            self.mutable.insert(keys, tf.ones_like(keys, tf.float32))
            return self.mutable.size()

    return _save(Table(), folder)


@builder
def embedding(folder: Path) -> Path:
    """`table` float32 [100, 4], row i is i; `look` gathers, `set_rows` scatters; random `draw`."""
    import tensorflow as tf

    class Embedding(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            rows = tf.repeat(tf.range(100, dtype=tf.float32)[:, tf.newaxis], 4, 1)
            self.table = tf.Variable(rows, name="table")
            self.dense = tf.Variable(tf.ones([4, 2]), name="dense")
            self.random = tf.random.Generator.from_seed(1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def look(self, ids: Any) -> Any:
            return tf.gather(self.table, ids) @ self.dense

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 4], tf.float32)]
        )
        def set_rows(self, ids: Any, rows: Any) -> Any:
            self.table.scatter_update(tf.IndexedSlices(rows, ids))
            return tf.size(ids)

        @tf.function(input_signature=[])
        def draw(self) -> Any:
            return self.random.uniform([2])

    module = Embedding()
    return _save(module, folder, {"serving_default": module.look})


@builder
def large_table(folder: Path) -> Path:
    """`table` float32 [40000, 64] of zeros, which `lookup` gathers from; `bias` [64] of zeros.

    `add_rows(ids, value)` scatters; it fails after that where the value is negative.
    """
    import tensorflow as tf

    class LargeTable(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(tf.zeros([40_000, 64]), name="table")
            self.bias = tf.Variable(tf.zeros([64]), name="bias")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def lookup(self, ids: Any) -> Any:
            return tf.gather(self.table, ids) + self.bias

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.float32)]
        )
        def add_rows(self, ids: Any, value: Any) -> Any:
            rows = tf.fill([tf.size(ids), 64], tf.abs(value))
            added = self.table.scatter_add(tf.IndexedSlices(rows, ids))
            with tf.control_dependencies([added]):
                tf.debugging.assert_non_negative(value)
                return tf.gather(self.table, ids)[:, 0]

    module = LargeTable()
    return _save(module, folder, {"serving_default": module.lookup})


@builder
def row_writers(folder: Path) -> Path:
    """`table` float32 [40000, 64] of zeros, to whose rows functions add ones: those of `ids`.

    Of `direct`, `called`, `mapped` (by way of `places` int64 [10] = 9..0), `twice` (to `other`,
    float32 [40000, 64], as well), `spelled` (strings, by way of a table) and `nested` the rows
    follow from the inputs. Of `chosen`, `looped`, `whole`, `drawn`, `moved` and `own` they do not.
    """
    import tensorflow as tf

    ids_spec = tf.TensorSpec([None], tf.int64)

    class RowWriters(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(tf.zeros([40_000, 64]), name="table")
            self.other = tf.Variable(tf.zeros([40_000, 64]), name="other")
            self.random = tf.random.Generator.from_seed(1)
            self.places = tf.Variable(tf.range(9, -1, -1, tf.int64), name="places")
            self.words = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([3, 5], tf.int64)), -1
            )

        def _add(self, ids: Any, table: Any = None) -> Any:
            rows = tf.ones([tf.size(ids), 64])
            table = self.table if table is None else table
            return table.scatter_add(tf.IndexedSlices(rows, ids))

        @tf.function(input_signature=[ids_spec])
        def direct(self, ids: Any) -> Any:
            self._add(ids)
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def called(self, ids: Any) -> Any:
            """The rows come from two calls within calls, and from what is computed before them."""
            unique, _ = tf.unique(tf.concat([ids, ids], 0))
            return self.direct(unique) + self.direct(unique)

        @tf.function(input_signature=[ids_spec])
        def mapped(self, ids: Any) -> Any:
            self._add(tf.gather(self.places, ids))
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def twice(self, ids: Any) -> Any:
            self._add(ids)
            self._add(ids + 1, self.other)
            return tf.size(ids)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def spelled(self, words: Any) -> Any:
            ids = self.words.lookup(words)
            self._add(tf.boolean_mask(ids, ids >= 0))
            return ids

        @tf.function(input_signature=[ids_spec])
        def nested(self, ids: Any) -> Any:
            places = tf.stack([ids, tf.zeros_like(ids)], 1)
            self.table.scatter_nd_add(places, tf.ones([tf.size(ids)]))
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def chosen(self, ids: Any) -> Any:
            if tf.size(ids) > 0:
                self._add(ids)
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def looped(self, ids: Any) -> Any:
            for index in tf.range(tf.size(ids)):
                self._add(ids[index : index + 1])
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def whole(self, ids: Any) -> Any:
            self._add(ids)
            self.table.assign_add(tf.zeros([40_000, 64]))
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def drawn(self, ids: Any) -> Any:
            drawn = self.random.uniform([tf.size(ids)], 0, 40_000, tf.int64)
            self._add(drawn)
            return drawn

        @tf.function(input_signature=[ids_spec])
        def moved(self, ids: Any) -> Any:
            self.places.assign_add(tf.ones([10], tf.int64))
            self._add(tf.gather(self.places, ids))
            return tf.size(ids)

        @tf.function(input_signature=[ids_spec])
        def own(self, ids: Any) -> Any:
            """The rows are what other rows of the table have for their first element."""
            self._add(tf.cast(tf.gather(self.table, ids)[:, 0], tf.int64))
            return tf.size(ids)

    module = RowWriters()
    return _save(module, folder, {"serving_default": module.direct})


@builder
def large_table_256(folder: Path) -> Path:
    """`table` float32 [262144, 256], 256 MiB: `lookup` gathers from it, `add_row` scatters."""
    import tensorflow as tf

    class LargeTable(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.Variable(tf.zeros([2**18, 256]), name="table")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def lookup(self, ids: Any) -> Any:
            return tf.gather(self.table, ids)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def add_row(self, row: Any) -> Any:
            self.table.scatter_add(tf.IndexedSlices(tf.ones([1, 256]), row[None]))
            return row

    return _save(LargeTable(), folder)


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

    return _save(Model(), folder)


@builder
def branches(folder: Path) -> Path:
    """Variables that nested functions, tf.cond, tf.while_loop and tf.switch_case read and write."""
    import tensorflow as tf

    class Branches(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = tf.Variable(1.0, name="a")
            self.b = tf.Variable(2.0, name="b")
            self.c = tf.Variable(3.0, name="c")

        @tf.function(input_signature=[tf.TensorSpec([], tf.bool)])
        def cond(self, which: Any) -> Any:
            return tf.cond(which, lambda: self.a.assign_add(1.0), lambda: self.b.read_value())

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def loop(self, steps: Any) -> Any:
            for _ in tf.range(steps):
                self.b.assign(self.b + self.a)
            return self.b.read_value()

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def case(self, which: Any) -> Any:
            cases = [lambda: self.a + 0.0, lambda: self.b + 0.0, lambda: self.c.assign(0.0) + 0.0]
            return tf.switch_case(which, cases)

        @tf.function(input_signature=[])
        def outer(self) -> Any:
            return self.inner() + self.a

        @tf.function(input_signature=[])
        def inner(self) -> Any:
            return self.c.assign_add(1.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def mapped(self, x: Any) -> Any:
            return tf.map_fn(lambda item: item * self.a, x)

    return _save(Branches(), folder)


@builder
def datasets(folder: Path) -> Path:
    """Functions over datasets: `mapped` reads `w` in a map, `counted` writes `n` in one; `looped`.

    `given` takes a dataset, and is no function that can be called from elsewhere.
    """
    import tensorflow as tf

    class Datasets(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(2.0, name="w")
            self.n = tf.Variable(0, dtype=tf.int64, name="n")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def mapped(self, x: Any) -> Any:
            made = tf.data.Dataset.from_tensor_slices(x).map(lambda item: item * self.w)
            return made.filter(lambda item: item < 10 * self.w).reduce(0.0, lambda a, b: a + b)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def counted(self, x: Any) -> Any:
            def count(item: Any) -> Any:
                self.n.assign_add(1)
                return item * self.w

            return tf.data.Dataset.from_tensor_slices(x).map(count).reduce(0.0, lambda a, b: a + b)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def looped(self, x: Any) -> Any:
            total = self.w * 0.0
            for item in tf.data.Dataset.from_tensor_slices(x).batch(2):
                total += tf.reduce_sum(item) * self.w
            first = next(iter(tf.data.Dataset.from_tensor_slices(x).repeat()))
            return total + first

        @tf.function
        def given(self, dataset: Any) -> Any:
            return dataset.reduce(0.0, lambda a, b: a + b)

    module = Datasets()
    module.given.get_concrete_function(
        tf.data.DatasetSpec(tf.TensorSpec([], tf.float32), tf.TensorShape([]))
    )
    return _save(module, folder)


@builder
def files(folder: Path) -> Path:
    """Functions that touch files, as in a training export: `save`, `restore`, ...; `plain`."""
    import tensorflow as tf

    path = tf.TensorSpec([], tf.string)

    class Files(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable([1.0, 2.0], name="w")

        @tf.function(input_signature=[path])
        def save(self, path: Any) -> Any:
            tf.raw_ops.Save(filename=path, tensor_names=["w"], data=[self.w.read_value()])
            return {"path": path}

        @tf.function(input_signature=[path])
        def restore(self, path: Any) -> Any:
            found = tf.raw_ops.Restore(file_pattern=path, tensor_name="w", dt=tf.float32)
            return {"w": found}

        @tf.function(input_signature=[path])
        def listed(self, path: Any) -> Any:
            return tf.data.Dataset.list_files(path).reduce(0, lambda total, _: total + 1)

        @tf.function(input_signature=[path])
        def cached(self, path: Any) -> Any:
            return (
                tf.data.Dataset.range(3)
                .cache(path)
                .reduce(tf.constant(0, tf.int64), lambda total, item: total + item)
            )

        @tf.function(input_signature=[])
        def plain(self) -> Any:
            return self.w * 2.0

    return _save(Files(), folder)


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

    return _save(Shapes(), folder)


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

    return _save(Failing(), folder)


@builder
def slow(folder: Path) -> Path:
    """`count` int64 []; `spin(steps)` reads and `spin_and_add(steps)` writes it, after a loop."""
    import tensorflow as tf

    class Slow(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0, dtype=tf.int64, name="count")

        def _spin(self, steps: Any) -> Any:
            # About 10 us a step: 100,000 steps hold a lock for a second.
            return tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (tf.zeros([], tf.int64),))

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def spin(self, steps: Any) -> Any:
            with tf.control_dependencies(self._spin(steps)):
                return self.count.read_value()

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)])
        def spin_and_add(self, steps: Any) -> Any:
            with tf.control_dependencies(self._spin(steps)):
                return self.count.assign_add(1)

    return _save(Slow(), folder)


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

    return _save(Ledger(), folder)


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

    return _save(Uniform(), folder)


def large(folder: Path, mib: int) -> Path:
    """`big` float32 [mib, 262144], that is `mib` MiB, of ones, and `small` int64 []."""
    import tensorflow as tf

    module = tf.Module()
    module.big = tf.Variable(tf.ones([mib, 262_144]), name="big")
    module.small = tf.Variable(0, dtype=tf.int64, name="small")
    return _save(module, folder)


@builder
def large_80(folder: Path) -> Path:
    """A variable `big` of 80 MiB."""
    return large(folder, 80)


@builder
def large_64(folder: Path) -> Path:
    """A variable `big` of 64 MiB."""
    return large(folder, 64)


@builder
def keras_3(folder: Path) -> Path:
    """Keras 3 `model.export` of two dense layers and a batch normalisation between them."""
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input([3]),
            keras.layers.Dense(4, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="second"),
        ]
    )
    model.export(str(folder), verbose=False)
    return folder


def _dense_model() -> Any:
    import keras

    return keras.Sequential(
        [
            keras.layers.Input([3]),
            keras.layers.Dense(4, name="first"),
            keras.layers.Dense(2, name="second"),
        ],
        name="net",
    )


@builder
def keras_3_step(folder: Path) -> Path:
    """A train step over a Keras 3 model and its optimizer, whose variables are in lists as well.

    `weights/N` and `state/N` are what Keras wraps; `predict` and `step` use these, or the wrappers.
    `own` is used by `step`; `_shadow`, which is equal to it in all, and `spare` by no function.
    """
    import keras
    import tensorflow as tf

    class Trainer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _dense_model()
            self.optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
            self.optimizer.build(self.model.trainable_variables)
            self.weights = [variable.value for variable in self.model.variables]
            self.state = [variable.value for variable in self.optimizer.variables]
            self.own = tf.Variable(0.0, name="own")
            self._shadow = tf.Variable(0.0, name="own")
            self.spare = tf.Variable([1.0, 2.0], name="spare")

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 3], tf.float32),
                tf.TensorSpec([None, 2], tf.float32),
            ]
        )
        def step(self, x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.model(x) - y) ** 2)
            gradients = tape.gradient(loss, self.weights)
            self.optimizer.apply(gradients, self.model.trainable_variables)
            self.own.assign_add(1.0)
            return loss

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
        def predict(self, x: Any) -> Any:
            return self.model(x)

    return _save(Trainer(), folder)


@builder
def keras_3_target(folder: Path) -> Path:
    """Two Keras 3 models of equal names and values, of which `act` uses one: a target network."""
    import tensorflow as tf

    class Agent(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online, self.target = _dense_model(), _dense_model()
            self.target.set_weights(self.online.get_weights())

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
        def act(self, x: Any) -> Any:
            return self.online(x)

    return _save(Agent(), folder)


@builder
def keras_2(folder: Path) -> Path:
    """tf_keras model with Adam's slot variables: loading it takes tf-keras."""
    import tensorflow as tf
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(4, name="first", input_shape=[3]),
            tf_keras.layers.Dense(2, name="second"),
        ]
    )
    model.compile(tf_keras.optimizers.legacy.Adam(), "mse")
    model.fit(tf.ones([4, 3]), tf.ones([4, 2]), verbose=0)
    model.save(str(folder), save_format="tf")
    return folder


@builder
def keras_2_unnamed(folder: Path) -> Path:
    """The same as older versions of TensorFlow saved it: the checkpoint's graph has no names.

    Slots of an optimizer are found by the names of their variables alone.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    prefix = str(keras_2(folder) / "variables" / "variables")
    reader = tf.train.load_checkpoint(prefix)
    tensors = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    key = "_CHECKPOINTABLE_OBJECT_GRAPH"
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(tensors[key])
    for node in graph.nodes:
        for attribute in node.attributes:
            attribute.full_name = ""
    tensors[key] = graph.SerializeToString()
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return folder


def _tf1(
    folder: Path,
    key: str | None,
    *,
    tables: bool = False,
    reference: bool = False,
    partial: bool = False,
) -> Path:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        w = v1.get_variable("scope/w", initializer=[2.0, 3.0], use_resource=not reference)
        step = v1.get_variable(
            "step", initializer=tf.constant(5, tf.int64), trainable=False, use_resource=True
        )
        y = tf.reduce_sum(w) * x
        with tf.control_dependencies([step.assign_add(1)]):
            added = step.read_value()
        initializers = [v1.global_variables_initializer()]
        main_op = None
        if tables:
            pairs = tf.lookup.KeyValueTensorInitializer(["a"], [10.0])
            y += tf.lookup.StaticHashTable(pairs, 0.0).lookup(tf.constant("a"))
            main_op = v1.tables_initializer()
            initializers.append(main_op)
        session.run(initializers)
        saver = v1.saved_model.Builder(str(folder))
        signatures = {}
        if key is not None:
            info = v1.saved_model.build_tensor_info
            define = v1.saved_model.build_signature_def
            signatures = {
                key: define({"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict"),
                "count": define({}, {"step": info(added)}, "count"),
            }
        restored = [w] if partial else None
        saver.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map=signatures,
            main_op=main_op,
            saver=v1.train.Saver(restored),
        )
        saver.save()
    return folder


@builder
def tf1(folder: Path) -> Path:
    """TensorFlow 1 format: `scope/w`, `step`; `serving_default`, and `count` that writes `step`."""
    return _tf1(folder, "serving_default")


@builder
def tf1_no_default(folder: Path) -> Path:
    """TensorFlow 1 format without `serving_default`: the signature is `predict`."""
    return _tf1(folder, "predict")


@builder
def tf1_no_signature(folder: Path) -> Path:
    """TensorFlow 1 format with variables and no signature at all."""
    return _tf1(folder, None)


@builder
def tf1_table(folder: Path) -> Path:
    """TensorFlow 1 format with a table that is filled at load."""
    return _tf1(folder, "serving_default", tables=True)


@builder
def tf1_reference(folder: Path) -> Path:
    """TensorFlow 1 format with a reference variable, `scope/w`."""
    return _tf1(folder, "serving_default", reference=True)


@builder
def tf1_uninitialized(folder: Path) -> Path:
    """TensorFlow 1 format whose saver leaves `step` out: it has no value after loading."""
    return _tf1(folder, "serving_default", partial=True)


def _tf1_of(folder: Path, make: Callable[[], tuple[Any, Any]], main_op: Any = None) -> Path:
    """TensorFlow 1 format: `serving_default` from `x` to `y`, as `make` gives them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, y = make()
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "p")
        saver = v1.saved_model.Builder(str(folder))
        saver.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"serving_default": signature},
            main_op=None if main_op is None else main_op(),
        )
        saver.save()
    return folder


@builder
def tf1_partitioned(folder: Path) -> Path:
    """TensorFlow 1 format with a partitioned variable: `table/part_0` and `table/part_1`."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def make() -> tuple[Any, Any]:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        table = v1.get_variable(
            "table",
            initializer=tf.reshape(tf.range(8.0), [4, 2]),
            partitioner=v1.fixed_size_partitioner(2),
            use_resource=True,
        )
        return x, x @ tf.convert_to_tensor(table)

    return _tf1_of(folder, make)


@builder
def tf1_references(folder: Path) -> Path:
    """TensorFlow 1 format of the time before resource variables: every way to use references.

    `table` of two parts, `w`, `count` that is assigned by its results, `m` that nothing lists, and
    `odd`, which an operation takes that has no counterpart for resources. Signatures `look`,
    `branch`, `loop`, `rows`, `train`, `counted`, `itself`, `odd`.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session, _old_control_flow():
        x = v1.placeholder(tf.float32, [None], name="x")
        with v1.variable_scope("old", use_resource=False):
            table = v1.get_variable(
                "table",
                initializer=tf.reshape(tf.range(8.0), [4, 2]),
                partitioner=v1.fixed_size_partitioner(2),
            )
            w = v1.get_variable("w", initializer=[2.0, 3.0])
            count = v1.get_variable("count", initializer=5, trainable=False)
            m = v1.get_variable("m", initializer=[0.5, 0.5], collections=["nothing"])
            odd = v1.get_variable("odd", initializer=1.0)
        ids = v1.placeholder(tf.int32, [None], name="ids")
        positive = tf.reduce_sum(x) > 0
        passed = v1.cond(positive, lambda: v1.assign_add(w, [1.0, 1.0]), lambda: w + 0.0)
        _, turned = v1.while_loop(
            lambda i, _: i < 3,
            lambda i, total: (i + 1, total + tf.reduce_sum(w)),
            [tf.constant(0), tf.reduce_sum(x)],
        )
        with tf.control_dependencies([v1.scatter_add(w, ids, tf.ones_like(ids, tf.float32))]):
            scattered = v1.scatter_update(w, [0], [9.0])
        trained = tf.raw_ops.ApplyMomentum(
            var=w._ref(), accum=m._ref(), lr=0.1, grad=x[:2], momentum=0.9
        )
        chosen = tf.raw_ops.RefSelect(index=0, inputs=[odd._ref(), odd._ref()])
        outputs = {
            "look": ({"ids": ids}, v1.nn.embedding_lookup(table, ids, "div")),
            "branch": ({"x": x}, passed),
            "loop": ({"x": x}, turned),
            "rows": ({"ids": ids}, scattered),
            "train": ({"x": x}, trained),
            "counted": ({}, v1.assign_add(v1.assign_sub(count, 1), 3)),
            "itself": ({}, w._ref()),
            "odd": ({"x": x}, x + chosen),
        }
        session.run([v1.global_variables_initializer(), m.initializer])
        info = v1.saved_model.build_tensor_info
        define = v1.saved_model.build_signature_def
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                name: define({key: info(each) for key, each in given.items()}, {"y": info(y)}, "p")
                for name, (given, y) in outputs.items()
            },
            saver=v1.train.Saver([*table, w, count, m, odd]),
        )
        builder.save()
    return folder


@contextmanager
def _old_control_flow() -> Iterator[None]:
    """Switch and Merge, as TensorFlow 1 wrote conditions and loops."""
    import tensorflow as tf

    enabled = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.disable_control_flow_v2()
    try:
        yield
    finally:
        if enabled:
            tf.compat.v1.enable_control_flow_v2()


@builder
def tf1_renamed(folder: Path) -> Path:
    """TensorFlow 1 format whose checkpoint has keys that are no names: `w` is under `old/w`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        w = v1.get_variable("w", initializer=[1.0, 2.0], use_resource=True)
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        y = tf.reduce_sum(w) * x
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "p")
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"serving_default": signature},
            saver=v1.train.Saver({"old/w": w}),
        )
        builder.save()
    return folder


@builder
def tf1_set_at_load(folder: Path) -> Path:
    """TensorFlow 1 format whose init op sets `w` to 5 whatever the checkpoint says; `v` stays."""
    import tensorflow as tf

    v1 = tf.compat.v1
    made: dict[str, Any] = {}

    def make() -> tuple[Any, Any]:
        x = v1.placeholder(tf.float32, [None], name="x")
        made["w"] = v1.get_variable("w", initializer=1.0, use_resource=True)
        v = v1.get_variable("v", initializer=2.0, use_resource=True)
        return x, x * made["w"] + v

    return _tf1_of(folder, make, lambda: made["w"].assign(5.0).op)


@builder
def tf1_random(folder: Path) -> Path:
    """TensorFlow 1 format whose init op sets `w` at random, each time anew; `v` stays."""
    import tensorflow as tf

    v1 = tf.compat.v1
    made: dict[str, Any] = {}

    def make() -> tuple[Any, Any]:
        x = v1.placeholder(tf.float32, [None], name="x")
        made["w"] = v1.get_variable("w", initializer=1.0, use_resource=True)
        v = v1.get_variable("v", initializer=2.0, use_resource=True)
        return x, x * made["w"] + v

    return _tf1_of(folder, make, lambda: made["w"].assign(tf.random.uniform([])).op)


@builder
def tf1_sparse(folder: Path) -> Path:
    """TensorFlow 1 format: `x` sparse int64 [?, ?], `r` ragged, `x_a` float32 [?] as inputs."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.sparse_placeholder(tf.int64, [None, None], name="given")
        r = v1.ragged.placeholder(tf.float32, 1, [], name="rows")
        a = v1.placeholder(tf.float32, [None], name="zz")
        outputs = {
            "twice": tf.sparse.map_values(tf.add, x, x),
            "sum": tf.reduce_sum(x.values),
            "rows": tf.reduce_sum(r, axis=1),
            "a": a * 3,
        }
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {"x": info(x), "r": info(r), "x_a": info(a)},
            {name: info(output) for name, output in outputs.items()},
            "tensorflow/serving/predict",
        )
        saver = v1.saved_model.Builder(str(folder))
        saver.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}
        )
        saver.save()
    return folder


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
    return _save(module, folder, {"serving_default": module.swapped})


@builder
def tf1_pruned(folder: Path) -> Path:
    """`cut`, a function cut out of a graph in TensorFlow 1 format: it has no structure; `whole`."""
    import tensorflow as tf

    def graph(x: Any, y: Any) -> Any:
        return {"difference": x - y, "x": x}

    scalar = tf.TensorSpec([], tf.float32)
    named = [tf.TensorSpec([], tf.float32, name=name) for name in "xy"]
    wrapped = tf.compat.v1.wrap_function(graph, named)

    class Pruned(tf.Module):
        @tf.function(input_signature=[scalar])
        def whole(self, x: Any) -> Any:
            return x + 1

    module = Pruned()
    module.cut = wrapped.prune(wrapped.inputs, wrapped.structured_outputs["difference"])
    return _save(module, folder)


def main(arguments: list[str]) -> int:
    """`NAME FOLDER`: build one model; `--list`: show the names."""
    if arguments == ["--list"]:
        for name, function in sorted(BUILDERS.items()):
            print(f"{name:20} {function.__doc__}")
        return 0
    if len(arguments) != 2 or arguments[0] not in BUILDERS:
        print(f"usage: saved_models.py {{{','.join(sorted(BUILDERS))}}} FOLDER", file=sys.stderr)
        return 2
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    print(build(arguments[0], Path(arguments[1])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
