"""SavedModels with tables: of hashes, and embeddings that functions look up and scatter into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .building import builder, save


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

    return save(Table(), folder)


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
    return save(module, folder, {"serving_default": module.look})


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
    return save(module, folder, {"serving_default": module.lookup})


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
    return save(module, folder, {"serving_default": module.direct})


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

    return save(LargeTable(), folder)
