"""SavedModels with branches, loops, datasets and files; functions that take long or never end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .building import builder, save


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
    return save(module, folder, {"double": module.double})


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

    return save(Branches(), folder)


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
    return save(module, folder)


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

    return save(Files(), folder)


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

    return save(Slow(), folder)
