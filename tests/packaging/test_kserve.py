"""The runtime for KServe fits its schemas, and its arguments are those that the service takes."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from varserve_service.command_line import main
from varserve_service.flags import given
from varserve_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "kserve-schemas.json.gz").read_bytes())
)
FILES = ["serving-runtime.yaml", "inference-service.yaml"]


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / "kserve" / name).read_text())


def problems(found: Any) -> list[str]:
    """What the API server would refuse, unknown fields too."""
    schema = copy.deepcopy(SCHEMAS[f"{found['apiVersion']}/{found['kind']}"])
    schema["properties"]["metadata"] = {}
    closed(schema)
    validator = jsonschema.Draft7Validator(schema)
    return [f"{error.json_path}: {error.message}"[:300] for error in validator.iter_errors(found)]


def closed(schema: Any) -> None:
    """Let objects have no other properties than those that are named."""
    if isinstance(schema, list):
        for each in schema:
            closed(each)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema.pop("anyOf", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for each in schema.values():
        closed(each)


@pytest.mark.parametrize("name", FILES)
def test_what_is_there_fits_kserve(name: str) -> None:
    """Every field is known to KServe and of its type."""
    assert problems(document(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_a_field_that_is_not_there_is_found(name: str) -> None:
    """The schemas refuse what KServe does not know, so that the test above can fail."""
    wrong = document(name)
    wrong["spec"]["protocolVersionz"] = ["grpc-v2"]
    assert len(problems(wrong)) == 1


def test_the_service_takes_the_runtimes_arguments() -> None:
    """Its arguments are flags of `serve` with values that the settings take, on its own port."""
    (container,) = document("serving-runtime.yaml")["spec"]["containers"]
    command, *arguments = container["args"]
    arguments = [each.replace("{{.Name}}", "basic-pitch") for each in arguments]
    serve = main.commands[command]  # type: ignore[attr-defined]
    context = serve.make_context(command, arguments)
    flags = {key: value for key, value in context.params.items() if key in Settings.model_fields}
    settings = Settings(**given(flags))
    assert settings.models == {"basic-pitch": Path("/mnt/models")}
    assert settings.facade == ("oip", "tfs")
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("h2c", settings.port)
    annotations = document("serving-runtime.yaml")["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/port"] == str(settings.metrics_port)
    assert CliRunner().invoke(main, ["serve", "--help"]).exit_code == 0


def test_the_example_names_the_runtime_and_one_of_its_protocols() -> None:
    """The InferenceService is one that the runtime serves, with one replica."""
    runtime = document("serving-runtime.yaml")
    predictor = document("inference-service.yaml")["spec"]["predictor"]
    formats = [(each["name"], each["version"]) for each in runtime["spec"]["supportedModelFormats"]]
    model = predictor["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert predictor["maxReplicas"] == 1
