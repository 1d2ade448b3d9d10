"""Reads the settings of a process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import (
    SettingsConfigDict,
)

from varserve_service.addresses import UNIX, shown

from .fields import Settings


def health_address(environment: Mapping[str, str]) -> str:
    """`HOST:PORT` where a service that has this environment answers health, as far as that says it.

    Reads those variables alone: beside flags, the others need not be whole. The port for health
    goes first, since it is in plaintext whatever the other one is.
    """
    host = environment.get("VARSERVE_HOST", "").strip("[]")
    health_port = environment.get("VARSERVE_HEALTH_PORT")
    if host in ("", "0.0.0.0", "::") or (host.startswith(UNIX) and health_port):
        host = "127.0.0.1"
    port = health_port or environment.get("VARSERVE_PORT") or Settings.model_fields["port"].default
    return shown(host, str(port))


def load_settings(flags: dict[str, Any], file: Path | None) -> Settings:
    """Settings from the flags that were given, the environment and a YAML file.

    Raises pydantic.ValidationError, which names every setting that is wrong, and OSError or
    yaml.YAMLError for a file that cannot be read.
    """
    if file is None:
        return Settings(**flags)
    file.open().close()  # a missing file is otherwise taken for an empty one

    class SettingsWithFile(Settings):
        model_config = SettingsConfigDict(yaml_file=file)

    return SettingsWithFile(**flags)
