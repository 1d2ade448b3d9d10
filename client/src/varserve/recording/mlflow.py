"""Commits as a run of MLflow: metrics of what they changed, and who made them and why.

Needs `pip install "varserve[mlflow]"`. The server is the one of MLFLOW_TRACKING_URI, the run that
of MLFLOW_RUN_ID, else a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from varserve import Event, Summary
from varserve.recording import statistics, told

_REFUSED = re.compile(r"[^\w./ -]")


class MlflowRecorder:
    """Writes into one run."""

    def __init__(self, model: str) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        self._run = mlflow.start_run(run_name=f"varserve {model}")

    def record(self, event: Event, summaries: Mapping[str, Summary]) -> None:
        """Write one commit: metrics by step, a tag of what it was, and the whole as a document."""
        for name, summary in summaries.items():
            numbers = {
                _REFUSED.sub("_", f"{name}/{kind}"): value
                for kind, value in statistics(summary).items()
            }
            self._mlflow.log_metrics(numbers, step=event.revision)
        self._mlflow.set_tags(
            {
                "varserve.model": event.model,
                "varserve.epoch": event.epoch,
                "varserve.revision": str(event.revision),
                f"varserve.commit.{event.revision}": told(event)[:5000],
            }
        )
        document = {
            "model": event.model,
            "version": event.version,
            "epoch": event.epoch,
            "revision": event.revision,
            "time": event.info.time.isoformat(),
            "kind": str(event.info.kind),
            "subject": event.info.subject,
            "message": event.info.message,
            "variables": {name: summary.content_hash for name, summary in summaries.items()},
        }
        self._mlflow.log_dict(document, f"commits/{event.revision}.json")

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()
