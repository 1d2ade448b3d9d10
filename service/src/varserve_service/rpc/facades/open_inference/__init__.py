"""The Open Inference Protocol with Triton's additions: `inference.GRPCInferenceService`.

A function other than the default signature is named by the parameter `signature_name`; the answer
has the revision that it ran at as the parameter `varserve_revision`.
"""

from typing import Final

from . import inference, models, repository

ROWS: Final = (*models.ROWS, *inference.ROWS, *repository.ROWS)
