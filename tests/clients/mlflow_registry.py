"""Logs a SavedModel to a real MLflow server, as version after version of a registered model.

mlflow_registry.py log SAVED_MODEL_FOLDER      prints {"run": ..., "version": ...}
mlflow_registry.py log-keras FILE.keras        the same, of a Keras 3 model
mlflow_registry.py alias VERSION ALIAS
mlflow_registry.py recorded RUN_NAME   prints what `varserve watch --mlflow` wrote
mlflow_registry.py deployed TARGET VERSION VERSION   prints what the plugin for deployments gives
mlflow_registry.py denied TARGET VERSION             prints the codes of what it refuses
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

NAME = "counter"


def log(folder: str) -> dict[str, str]:
    return _logged(folder, "tf2model", {"saved_model_dir": "tf2model"})


def log_keras(file: str) -> dict[str, str]:
    """As MLflow lays a model of Keras out."""
    return _logged(file, "data", {"data": "data", "model_type": "keras"})


def _logged(path: str, place: str, flavor: dict[str, str]) -> dict[str, str]:
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    mlflow.set_experiment("models")
    with mlflow.start_run() as run:
        if Path(path).is_dir():
            mlflow.log_artifacts(path, f"model/{place}")
        else:
            mlflow.log_artifact(path, f"model/{place}")
        described = {"flavors": {"tensorflow": flavor}}
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


def deployed(target: str, first: str, second: str) -> dict[str, object]:
    """Each call of a deployment client, in the order of a deployment's life."""
    client = get_deploy_client(target)
    found: dict[str, object] = {
        "created": client.create_deployment("served", f"models:/{NAME}/{first}"),
        "again": code_of(client.create_deployment, "served", f"models:/{NAME}/{first}"),
        "by name": client.predict("served", {"x": [1, 2]}),
        "frame": client.predict("served", pd.DataFrame({"x": [1, 2]})),
        "array": client.predict("served@stable", np.ones(1, np.float32)),
        "updated": client.update_deployment("served", f"models:/{NAME}/{second}"),
        "listed": client.list_deployments(),
        "got": client.get_deployment("served"),
        "back": client.update_deployment("served", config={"version": first}),
        "wrong": [
            code_of(client.get_deployment, "none"),
            code_of(client.update_deployment, "none", f"models:/{NAME}/{first}"),
            code_of(client.predict, "served", {"y": [1]}),
            code_of(client.predict, "served", {"x": [1]}, "endpoint"),
            code_of(client.create_deployment, "other", "models:/none@alias"),
            code_of(client.create_deployment, "other", f"models:/{NAME}/{first}", "sklearn"),
            code_of(client.update_deployment, "served", config={"replicas": 2}),
            code_of(get_deploy_client, "varserve:/nowhere"),
        ],
    }
    client.delete_deployment("served")
    client.delete_deployment("served")
    found["deleted"] = client.list_deployments()
    return found


def denied(target: str, version: str) -> list[str]:
    client = get_deploy_client(target)
    uri = f"models:/{NAME}/{version}"
    return [
        code_of(client.predict, "counter", {"x": [1]}),
        code_of(client.create_deployment, "other", uri),
        code_of(client.update_deployment, "counter", config={"version": version}),
        code_of(client.delete_deployment, "counter"),
        client.get_deployment("counter")["name"],
    ]


def code_of(call: Callable[..., object], *given: object, **more: object) -> str:
    """The code of the error that a call raises."""
    try:
        return f"gave {call(*given, **more)}"
    except MlflowException as error:
        return error.error_code


if __name__ == "__main__":
    if sys.argv[1] == "log":
        json.dump(log(sys.argv[2]), sys.stdout)
    elif sys.argv[1] == "log-keras":
        json.dump(log_keras(sys.argv[2]), sys.stdout)
    elif sys.argv[1] == "deployed":
        json.dump(deployed(*sys.argv[2:]), sys.stdout)
    elif sys.argv[1] == "denied":
        json.dump(denied(*sys.argv[2:]), sys.stdout)
    elif sys.argv[1] == "recorded":
        json.dump(recorded(sys.argv[2]), sys.stdout)
    else:
        MlflowClient().set_registered_model_alias(NAME, sys.argv[3], sys.argv[2])
        json.dump({}, sys.stdout)
