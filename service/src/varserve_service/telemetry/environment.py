"""The signals that OpenTelemetry's own environment variables turn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be sent."""

    traces: bool
    logs: bool

    def __bool__(self) -> bool:
        return self.traces or self.logs


def wanted(environment: Mapping[str, str]) -> Wanted:
    """The signals that have an endpoint or the exporter `otlp`, and are not turned off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Wanted(False, False)

    def signal(name: str) -> bool:
        exporter = environment.get(f"OTEL_{name}_EXPORTER", "").strip().lower()
        if exporter:
            return exporter == "otlp"
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
        return any(environment.get(endpoint, "").strip() for endpoint in endpoints)

    return Wanted(signal("TRACES"), signal("LOGS"))
