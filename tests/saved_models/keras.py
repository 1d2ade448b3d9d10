"""SavedModels that Keras 2 and 3 export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .building import builder, save


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

    return save(Trainer(), folder)


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

    return save(Agent(), folder)


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
