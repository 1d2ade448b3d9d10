"""SavedModels from where they are into a model repository: object stores, MLflow, folders.

Runs beside the service, never in it. Needs `pip install "varserve[fetch]"` for object stores and
`"varserve[mlflow]"` for MLflow.
"""

from varserve.fetching.placing import Fetched, FetchError, place, target_of
from varserve.fetching.sources import check_installed, newest_version, open_source

__all__ = [
    "FetchError",
    "Fetched",
    "check_installed",
    "newest_version",
    "open_source",
    "place",
    "target_of",
]
