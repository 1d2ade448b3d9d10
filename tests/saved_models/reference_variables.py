"""SavedModels in TensorFlow 1 format with reference variables, in every use that they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .building import builder


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
