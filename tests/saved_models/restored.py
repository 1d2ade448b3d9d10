"""SavedModels with what is hard to restore: captures, gradients, loops of lists, saves of saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .building import builder, save


class Pair(NamedTuple):
    """Its fields are in another order than their names."""

    right: Any
    left: Any


@builder
def named_tuples(folder: Path) -> Path:
    """`swap(pair, more)` takes and gives named tuples, in lists and dicts too; `holes` gives None.

    `same(x, y)` gives an input twice, the other one, and `v` float32 [2] = 1 2.
    """
    import tensorflow as tf

    class Tuples(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable([1.0, 2.0], name="v")

        @tf.function
        def swap(self, pair: Any, more: Any = None) -> Any:
            first = Pair(right=pair.left * self.v, left=pair.right)
            return first, [{"z": pair.right, "a": (pair.left,)}], more and more[0].left

        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
        def holes(self, x: Any) -> Any:
            return None, x, [], {}, (None, {"a": None, "b": x}), ()

        @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)] * 2)
        def same(self, x: Any, y: Any) -> Any:
            return y, x, x, {"v": self.v.read_value(), "k": (y,)}

    module = Tuples()
    scalar, pair = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.float32)
    module.swap.get_concrete_function(Pair(right=scalar, left=pair))
    module.swap.get_concrete_function(Pair(right=scalar, left=pair), [Pair(scalar, scalar)])
    return save(module, folder)


@builder
def gathered(folder: Path) -> Path:
    """Loops over lists of tensors: `written`, `scanned`, `vectorized`; `a` float32 [2] = 2 3."""
    import tensorflow as tf

    rows = tf.TensorSpec([None, 2], tf.float32)

    class Gathered(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = tf.Variable([2.0, 3.0], name="a")

        @tf.function(input_signature=[rows])
        def written(self, x: Any) -> Any:
            found = tf.TensorArray(tf.float32, size=0, dynamic_size=True, clear_after_read=False)
            for i in tf.range(tf.shape(x)[0]):
                found = found.write(i, x[i] * self.a)
            return found.stack(), found.size(), found.gather([0])

        @tf.function(input_signature=[rows])
        def scanned(self, x: Any) -> Any:
            both = (tf.float32, tf.float32)
            return (
                tf.scan(lambda total, row: total + row * self.a, x),
                tf.map_fn(lambda row: (row * 2, tf.reduce_sum(row)), x, fn_output_signature=both),
            )

        @tf.function(input_signature=[rows])
        def vectorized(self, x: Any) -> Any:
            return tf.vectorized_map(lambda row: tf.tensordot(row, self.a, 1), x)

    return save(Gathered(), folder)


@builder
def derived(folder: Path) -> Path:
    """Functions over their own gradients: `own` is said to be 10x, `taped`, `second`; `step`."""
    import tensorflow as tf

    vector = tf.TensorSpec([2], tf.float32)

    @tf.custom_gradient
    def square(x: Any) -> Any:
        return x * x, lambda upstream: upstream * 10.0 * x

    class Derived(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable([2.0, 3.0], name="v")

        @tf.function(input_signature=[vector])
        def value(self, x: Any) -> Any:
            return square(x) * self.v

        @tf.function(input_signature=[vector])
        def own(self, x: Any) -> Any:
            return tf.gradients(self.value(x), x)

        @tf.function(input_signature=[vector])
        def taped(self, x: Any) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(x)
                total = tf.reduce_sum(self.value(x) ** 2)
            return tape.gradient(total, [x, self.v])

        @tf.function(input_signature=[vector])
        def second(self, x: Any) -> Any:
            return tf.hessians(tf.reduce_sum(x**3 * self.v), x)

        @tf.function(input_signature=[vector])
        def step(self, x: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(self.value(x) ** 2)
            self.v.assign_sub(0.001 * tape.gradient(loss, self.v))
            return loss

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(Derived(), str(folder), options=options)
    return folder


@builder
def generator(folder: Path) -> Path:
    """Random numbers: `drawn` by a generator whose state is a variable, `seeded` by the caller."""
    import tensorflow as tf

    class Generator(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = tf.random.Generator.from_seed(5)

        @tf.function(input_signature=[])
        def drawn(self) -> Any:
            return self.generator.normal([3]), self.generator.uniform([2])

        @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
        def seeded(self, seed: Any) -> Any:
            return tf.random.stateless_normal([3], seed)

    return save(Generator(), folder)


@builder
def saved_again(folder: Path) -> Path:
    """A SavedModel that was loaded and saved twice, in a module with a variable `extra` of its own.

    `inner/power(x, times)` multiplies by `v` = 2 in a loop; `look` has a table; `top` adds `extra`.
    """
    import tensorflow as tf

    class Inner(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable(2.0, name="v")
            values = tf.lookup.KeyValueTensorInitializer(["0", "1"], [1.5, 2.5])
            self.table = tf.lookup.StaticHashTable(values, -1.0)
            self.constant = tf.constant([1.0, 2.0])

        @tf.function
        def power(self, x: Any, times: int = 2) -> Any:
            for _ in tf.range(times):
                x *= self.v
            return x

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def look(self, keys: Any) -> Any:
            return self.table.lookup(keys), self.constant

    module: Any = Inner()
    module.power.get_concrete_function(tf.TensorSpec([], tf.float32))
    module.power.get_concrete_function(tf.TensorSpec([2], tf.float32), 3)
    for number in (1, 2):
        before = folder.with_name(f"{folder.name}_{number}")
        module = tf.saved_model.load(str(save(module, before)))
    outer = tf.Module()
    outer.inner, outer.extra = module, tf.Variable(1.0, name="extra")
    signature = [tf.TensorSpec([], tf.float32)]
    outer.top = tf.function(lambda x: module.power(x) + outer.extra, input_signature=signature)
    return save(outer, folder)


@builder
def recurrent(folder: Path) -> Path:
    """Keras 3 `model.export` of LSTM, attention and a normalisation of layers."""
    import keras

    keras.utils.set_random_seed(3)
    inputs = keras.Input([4, 3])
    x = keras.layers.LSTM(4, return_sequences=True)(inputs)
    x = keras.layers.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True)
    x = keras.layers.LayerNormalization()(x)
    keras.Model(inputs, keras.layers.GRU(2)(x)).export(str(folder), verbose=False)
    return folder
