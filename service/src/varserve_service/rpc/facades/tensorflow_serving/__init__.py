"""TensorFlow Serving's protocol: `PredictionService` and `ModelService` of `tensorflow.serving`."""

from typing import Final

from . import examples, models, predicting

ROWS: Final = (*predicting.ROWS, *examples.ROWS, *models.ROWS)
