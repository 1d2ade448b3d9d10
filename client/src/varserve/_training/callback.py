"""What a Keras callback does, whichever Keras it is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from varserve import Model
from varserve._client.values.matching import Names, match
from varserve._training.pushing import Pusher
from varserve.tensors import Array


class WeightsPush:
    """Pushes the weights of a model that is being trained; the callbacks of Keras are made of it.

    Mixed into a Keras `Callback`, which brings `self.model`.
    """

    def __init__(
        self,
        served: Model,
        *,
        every: Literal["epoch"] | int = "epoch",
        trainable_only: bool = False,
        names: Names | None = None,
        wait: float = 0.0,
        wait_at_end: float = 60.0,
        if_unchanged: bool = False,
        message: str = "",
    ) -> None:
        """Push to a served model as it is trained.

        served: a model of `varserve.connect(...)`, which must have a variable for each weight.
        every: "epoch", or after so many batches.
        trainable_only: leave out what the optimizer does not change, such as moving averages.
        names: served names by weights' names, where those differ; a function may return None.
        wait: seconds that the training may wait for a push; 0: it never does.
        wait_at_end: seconds for the last push when the training ends.
        if_unchanged: stop pushing when somebody else has written to the model.
        message: why, in the history; unset: the epoch or batch, and the logs of Keras.
        """
        super().__init__()
        if every != "epoch" and every < 1:
            raise ValueError(f"every: expected 'epoch' or a number of batches, found {every!r}")
        self.served = served
        self._every = every
        self._trainable_only = trainable_only
        self._given_names = names
        self._wait = wait
        self._wait_at_end = wait_at_end
        self._if_unchanged = if_unchanged
        self._message = message
        self._names: dict[str, str] = {}
        self._batches = 0
        self.pusher: Pusher | None = None
        """What pushes, from the beginning of the training on: its `commit`, `error`, `skipped`."""

    def weights(self) -> dict[str, Array]:
        """The weights of the model that is trained, by name."""
        model: Any = self.model  # type: ignore[attr-defined]
        found = model.trainable_variables if self._trainable_only else model.variables
        own: Iterable[Any] = model.optimizer.variables if _has_variables(model.optimizer) else ()
        left_out = {id(each) for each in own}
        left_out.update(id(each) for each in _of_metrics(model))
        return {_name(each): np.asarray(each) for each in found if id(each) not in left_out}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Match the weights with the served variables. Raises InvalidRequest."""
        self.served.refresh()
        shapes = {name: value.shape for name, value in self.weights().items()}
        self._names = match(shapes, self.served.variables, self._given_names)
        self._batches = 0
        self.pusher = Pusher(self.served, if_unchanged=self._if_unchanged)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Push, if it is time."""
        self._batches += 1
        if self._every != "epoch" and self._batches % self._every == 0:
            self._push(f"batch {self._batches}", logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Push, if it is time."""
        if self._every == "epoch":
            self._push(f"epoch {epoch + 1}", logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Push what waits."""
        if self.pusher is not None:
            self.pusher.close(self._wait_at_end)

    def _push(self, when: str, logs: Mapping[str, Any] | None) -> None:
        assert self.pusher is not None
        values = self.weights()
        numbers = ", ".join(f"{key} {value:.5g}" for key, value in (logs or {}).items())
        message = self._message or (f"{when}: {numbers}" if numbers else when)
        self.pusher.push({name: values[key] for key, name in self._names.items()}, message[:1000])
        if self._wait:
            self.pusher.wait(self._wait)


def _name(variable: Any) -> str:
    """Keras 3 has a path, which the exported variable is named by; Keras 2 a name with `:0`."""
    path: str = getattr(variable, "path", None) or variable.name
    return path.removesuffix(":0")


def _has_variables(optimizer: Any) -> bool:
    return optimizer is not None and not callable(getattr(optimizer, "variables", None))


def _of_metrics(model: Any) -> list[Any]:
    metrics = getattr(model, "metrics", None) or ()
    return [variable for metric in metrics for variable in getattr(metric, "variables", ())]
