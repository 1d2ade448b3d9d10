"""Logs a SavedModel to a real MLflow server, as version after version of a registered model.

mlflow_registry.py log SAVED_MODEL_FOLDER      prints {"run": ..., "version": ...}
mlflow_registry.py alias VERSION ALIAS
mlflow_registry.py recorded RUN_NAME   prints what `varserve watch --mlflow` wrote
"""

from __future__ import annotations

import json
import sys

import mlflow
import yaml
from mlflow import MlflowClient

NAME = "counter"


def log(folder: str) -> dict[str, str]:
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    mlflow.set_experiment("models")
    with mlflow.start_run() as run:
        mlflow.log_artifacts(folder, "model/tf2model")
        described = {"flavors": {"tensorflow": {"saved_model_dir": "tf2model"}}}
        mlflow.log_text(yaml.safe_dump(described), "model/MLmodel")
    version = client.create_model_version(NAME, f"runs:/{run.info.run_id}/model", run.info.run_id)
    return {"run": run.info.run_id, "version": version.version}


def recorded(name: str) -> dict[str, object]:
    client = MlflowClient()
    (run,) = client.search_runs(["0"], f"attributes.run_name = '{name}'")
    mean = client.get_metric_history(run.info.run_id, "v/mean")
    return {
        "mean": [[metric.step, metric.value] for metric in mean],
        "tags": run.data.tags,
        "document": mlflow.artifacts.load_dict(
            f"runs:/{run.info.run_id}/commits/{run.data.tags['varserve.revision']}.json"
        ),
    }


if __name__ == "__main__":
    if sys.argv[1] == "log":
        json.dump(log(sys.argv[2]), sys.stdout)
    elif sys.argv[1] == "recorded":
        json.dump(recorded(sys.argv[2]), sys.stdout)
    else:
        MlflowClient().set_registered_model_alias(NAME, sys.argv[3], sys.argv[2])
        json.dump({}, sys.stdout)
