"""What MLServer serves here. Imported by its worker too, so nothing else is in this module."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.model import PEER_STATE


class Read(MLModel):
    """Answers with its state, whatever it is asked."""

    async def load(self) -> bool:
        self._state = np.ones(PEER_STATE // 4, np.float32)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        value = NumpyCodec.encode_output("value", self._state)
        return InferenceResponse(model_name=self.name, outputs=[value])


class Add(MLModel):
    """`y` is `x` and 1."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = NumpyCodec.encode_output("y", x + np.float32(1))
        return InferenceResponse(model_name=self.name, outputs=[y])
