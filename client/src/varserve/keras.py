"""Push weights to a service while they are trained with Keras 3.

    with varserve.connect("localhost:8500") as client:
        push = varserve.keras.PushWeights(client.model("ranker"))
        model.fit(x, y, epochs=10, callbacks=[push])

Needs `keras`, which varserve does not install.
"""

from __future__ import annotations

import keras

from varserve._training.callback import WeightsPush


class PushWeights(WeightsPush, keras.callbacks.Callback):  # type: ignore[misc]
    """Pushes all weights as one commit after each epoch, or every so many batches.

    The training does not wait: a push that is slower than the training leaves out values that are
    not the newest any more. A push that fails is logged, and the training goes on.
    """
