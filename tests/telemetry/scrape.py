"""Metrics as Prometheus takes them: over HTTP, in its text format."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Series:
    """A name and its labels."""

    name: str
    labels: frozenset[tuple[str, str]]


class Scrape:
    """What a scrape has found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self.values = {
            Series(sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def find(self, name: str, **labels: str) -> Mapping[Series, float]:
        """The series of this name with at least these labels."""
        wanted = labels.items()
        return {
            series: value
            for series, value in self.values.items()
            if series.name == name and wanted <= dict(series.labels).items()
        }

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series of this name with at least these labels; there must be one."""
        found = self.find(name, **labels)
        assert found, f"no {name} with {labels}"
        return sum(found.values())

    def names_a_model(self, model: str) -> set[str]:
        """Names of the metrics that have a series of this model."""
        return {s.name for s in self.values if ("model", model) in s.labels}


def scrape(address: str, tls: ssl.SSLContext | None = None) -> Scrape:
    """Ask for the metrics at `HOST:PORT`."""
    scheme = "http" if tls is None else "https"
    url = f"{scheme}://{address}/metrics"
    with urllib.request.urlopen(url, timeout=60, context=tls) as response:
        return Scrape(response.read().decode())
