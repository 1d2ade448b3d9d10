"""The models of one service by name, and where each is in its life.

Knows live models; knows nothing of how they are loaded or reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import Reason, StateError
from .live_model import LiveModel
from .naming import _SHOWN
from .ports import ModelState


class Models:
    """Live models by name."""

    def __init__(self, models: Iterable[LiveModel]) -> None:
        self._models = {model.name: model for model in models}
        self._states = dict.fromkeys(self._models, ModelState.READY)

    @property
    def sorted(self) -> Sequence[LiveModel]:
        """All models, sorted by name."""
        return [self._models[name] for name in sorted(self._models)]

    def state(self, name: str) -> ModelState:
        """Where a model is in its life."""
        return self._states[name]

    def find(self, name: str) -> LiveModel:
        """The model of this name. Raises StateError MODEL_NOT_FOUND, MODEL_NOT_READY."""
        model = self._models.get(name)
        if model is None:
            raise StateError(
                Reason.MODEL_NOT_FOUND,
                f"no model {name[:_SHOWN]!r}; "
                f"expected one of: {', '.join(sorted(self._models)) or '(none is loaded)'}",
                model=name[:_SHOWN],
            )
        if self._states[name] is not ModelState.READY:
            raise StateError(
                Reason.MODEL_NOT_READY,
                f"model {name!r} is {self._states[name].value}; retry when it is ready",
                model=name,
            )
        return model
