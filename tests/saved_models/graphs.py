"""SavedModels in TensorFlow 1 format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .building import builder, save


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
    return save(module, folder)
