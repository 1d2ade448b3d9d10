"""Where settings are read: a YAML file and the environment, neither of which says a thing twice."""

from __future__ import annotations

import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import (
    EnvSettingsSource,
    YamlConfigSettingsSource,
)

from varserve_service.strict_yaml import load_yaml


class YamlFile(YamlConfigSettingsSource):
    """A file of settings that has no setting, and no model, twice."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        read = load_yaml(file_path.read_bytes())
        if read is not None and not isinstance(read, dict):
            raise yaml.YAMLError(f"expected `name: value` lines, found {read!r:.100}")
        return read or {}


class Environment(EnvSettingsSource):
    """The environment, where no JSON object has a name twice."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return json.loads(value, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return values
