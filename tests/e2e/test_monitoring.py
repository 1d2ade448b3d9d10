"""What is said of metrics in dashboards, alerts and the documentation is true of the service."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
import yaml

import varserve
from tests.conftest import Serve
from tests.postgres.server import running
from tests.serving import ServiceProcess
from tests.telemetry.scrape import Scrape, scrape
from varserve.reasons import STATUS_OF_REASON
from varserve.v1 import admin_service_pb2, admin_service_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PAGE = ROOT / "docs" / "observability.md"

FUNCTIONS = {
    "absent",
    "avg",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "max_over_time",
    "min",
    "rate",
    "sum",
    "time",
}
WORDS = {"by", "without", "and", "or", "unless", "on", "ignoring"}
CODES = {code.name.title().replace("_", "") for code in grpc.StatusCode} | {"OK"}
# What Prometheus adds to every series.
ADDED = {"instance", "job"}


def logged(process: ServiceProcess, event: str) -> dict[str, Any]:
    """The first line of the service's log that is of this event, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        # The last line may be half written.
        for line in process.log.read_text().split("\n")[:-1]:
            if line.startswith("{") and (found := json.loads(line))["event"] == event:
                assert isinstance(found, dict)
                return found
    raise AssertionError(f"the log has no {event!r}")


def metrics_address(process: ServiceProcess) -> str:
    return str(logged(process, "metrics")["address"])


@pytest.fixture(scope="module")
def found(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """A scrape of the real service after some traffic."""
    state = tmp_path_factory.mktemp("state")
    authority = trustme.CA()
    folder = tmp_path_factory.mktemp("tls")
    paths = [folder / name for name in ("cert.pem", "key.pem", "ca.pem")]
    leaf = authority.issue_cert("127.0.0.1")
    for path, pem in zip(paths, (leaf.cert_chain_pems[0], leaf.private_key_pem), strict=False):
        pem.write_to_path(path)
    authority.cert_pem.write_to_path(paths[2])
    arguments = ("--metrics-port", "0", "--state-dir", str(state))
    arguments += ("--tls-cert", str(paths[0]), "--tls-key", str(paths[1]))
    arguments += ("--lane-socket", str(folder / "lane"))
    with serve("counter", arguments=arguments) as process:
        tls = varserve.Tls(ca=paths[2])
        with varserve.connect(process.address, tls=tls) as client:
            model = client.model("counter")
            v = model.variables["v"]
            v.assign(v.numpy() + 1)
            model.read(["v"])
            model.functions["total"](np.ones(3, np.float32))
            with pytest.raises(varserve.VarserveError):
                client.read_variable("counter", "nope")
        context = ssl.create_default_context(cafile=paths[2])
        alone = scrape(metrics_address(process), context)
    # What only a state in a database has.
    with running() as server:
        shared = ("--metrics-port", "0", "--state", server.fresh("monitored"))
        with serve("counter", arguments=shared) as process:
            replica = scrape(metrics_address(process))
    only = [name for name in replica.families if name.startswith("varserve_replica_")]
    assert len(only) == 4
    alone.families |= {name: replica.families[name] for name in only}
    alone.values |= {s: value for s, value in replica.values.items() if s.name in only}
    return alone


def labels_of(scrape: Scrape) -> dict[str, set[str]]:
    """Labels by the name that a query uses; Prometheus makes `up` itself."""
    labels: dict[str, set[str]] = defaultdict(set, up=set())
    for series in scrape.values:
        labels[series.name] |= {name for name, _ in series.labels}
    return labels


def problems(query: str, labels: dict[str, set[str]]) -> list[str]:
    """What in a PromQL query no series of the service has."""
    wrong = []
    used: set[str] = set()
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    rest = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", query)
    matchers = re.compile(r"([A-Za-z_:][\w:]*)\s*\{([^}]*)\}")
    for name, inner in matchers.findall(rest):
        for label, value in re.findall(r"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"", inner):
            if label not in labels.get(name, set()) | ADDED:
                wrong.append(f"{name} has no label {label}")
            values = value.split("|")
            if label == "reason":
                wrong += [f"no reason {v}" for v in values if v not in STATUS_OF_REASON]
            if label == "grpc_code":
                wrong += [f"no code {v}" for v in values if v not in CODES]
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", rest)
    for word in re.findall(r"(?<![\w.])[A-Za-z_:][\w:]*", rest):
        if word in FUNCTIONS | WORDS:
            continue
        if word not in labels:
            wrong.append(f"no metric {word}")
        used |= labels.get(word, set())
    for group in grouped:
        for label in filter(None, (part.strip() for part in group.split(","))):
            if label not in used | ADDED:
                wrong.append(f"no label {label} to group by")
    return wrong


def rules(group: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    (found,) = (each["rules"] for each in groups if each["name"] == group)
    assert isinstance(found, list)
    return found


def alerts() -> list[dict[str, Any]]:
    return rules("varserve")


def with_recorded(labels: dict[str, set[str]]) -> dict[str, set[str]]:
    """The labels of what is recorded too: those that the expression groups by."""
    known = dict(labels)
    for rule in rules("varserve-recorded"):
        grouped = re.findall(r"by\s*\(([^)]*)\)", rule["expr"])
        known[rule["record"]] = {each.strip() for each in grouped[0].split(",")} - {"le"}
    return known


def dashboard() -> dict[str, Any]:
    found = json.loads((MONITORING / "dashboard.json").read_text())
    assert isinstance(found, dict)
    return found


def targets() -> list[tuple[str, dict[str, Any]]]:
    return [(p["title"], t) for p in dashboard()["panels"] for t in p.get("targets", [])]


def test_every_alert_asks_for_what_there_is(found: Scrape) -> None:
    """Each metric, label, code and reason of each alert exists in a scrape of the real service."""
    labels = with_recorded(labels_of(found))
    assert len(alerts()) >= 10
    for rule in alerts():
        assert problems(rule["expr"], labels) == [], rule["alert"]
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by\s*\(([^)]*)\)", rule["expr"]))))
        asked = {label for name in labels if name in rule["expr"] for label in labels[name]}
        assert named <= (grouped or asked | ADDED), rule["alert"]


def test_what_is_recorded_is_there(found: Scrape) -> None:
    """Each recording rule asks for what there is, under a name of Prometheus' form, and is used."""
    labels = with_recorded(labels_of(found))
    recorded = rules("varserve-recorded")
    page = PAGE.read_text()
    for rule in recorded:
        assert problems(rule["expr"], labels) == [], rule["record"]
        assert re.fullmatch(r"[a-z_]+:(grpc|varserve)_\w+:\w+", rule["record"])
        assert f"`{rule['record']}`" in page
    assert len({rule["record"] for rule in recorded}) == len(recorded) >= 5


def test_every_panel_asks_for_what_there_is(found: Scrape) -> None:
    """The same for each panel, its legend and its variables."""
    labels = labels_of(found)
    asked = targets()
    assert len(asked) >= 20
    for title, target in asked:
        assert problems(target["expr"], labels) == [], title
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        names = {name for name in labels if re.search(rf"\b{name}\b", target["expr"])}
        assert legend <= {label for name in names for label in labels[name]}, title
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert match, variable["name"]
            assert match[1] in labels
            assert match[2] in labels[match[1]] | ADDED


def test_what_is_not_there_would_be_found(found: Scrape) -> None:
    """The check fails for a metric, a label, a group, a code and a reason that do not exist."""
    labels = labels_of(found)
    for query in (
        "rate(varserve_nothing_total[5m])",
        'varserve_ready{model="x"}',
        "sum by (verb) (varserve_ready)",
        'rate(grpc_server_handled_total{grpc_code="NOT_FOUND"}[5m])',
        'rate(varserve_refused_calls_total{reason="NO_SUCH"}[5m])',
        "histogram_quantile(0.9, sum by (le) (rate(varserve_commit_pause_seconds[5m])))",
    ):
        assert problems(query, labels), query


def test_alerts_say_what_they_mean() -> None:
    """Each has a summary, a description and a severity, and is in the documentation's list."""
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        notes = rule["annotations"]
        # No link: there is no address that is right everywhere, and a relative one is none.
        assert set(notes) == {"summary", "description"}
        for text in notes.values():
            assert text.count("{{") == text.count("}}")
    listed = re.findall(r"^\| `(Varserve\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [rule["alert"] for rule in alerts()]


def test_a_panel_shows_what_an_alert_asks_of_a_replica() -> None:
    """So whoever is called by one sees how it came to that."""
    asked = {
        name for rule in alerts() for name in re.findall(r"varserve_replica_\w+", rule["expr"])
    }
    shown = {name for _, t in targets() for name in re.findall(r"varserve_replica_\w+", t["expr"])}
    assert len(asked) >= 3
    assert asked <= shown


def test_the_dashboard_is_whole() -> None:
    """Panels have ids of their own and do not overlap; each data source is the chosen one."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"


def test_every_metric_is_in_the_documentation_with_its_kind_and_labels(found: Scrape) -> None:
    """The tables of the page are what the registry has, no more and no less."""
    page = {}
    for line in PAGE.read_text().splitlines():
        row = re.fullmatch(r"\| `((?:grpc|varserve)_\w+)` \| (\w+) \| (.*?) ?\| .+ \|", line)
        if row:
            page[row[1]] = (row[2], frozenset(re.findall(r"`(\w+)`", row[3])))
    real = {}
    for name, family in found.families.items():
        if name.startswith(("grpc_", "varserve_")):
            shown = f"{name}_total" if family.type == "counter" else name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            if not family.samples and shown in page:  # there is nothing to tell now
                labels = set(page[shown][1])
            real[shown] = (family.type, frozenset(labels))
    assert page == real


def test_the_series_of_a_model_come_and_go_with_it(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """A model that is unloaded has no series, and new ones from 0 when it is back."""
    repository = tmp_path / "models"
    for name in ("kept", "passing"):
        shutil.copytree(model_folder("counter"), repository / name / "1")
    arguments = ("--metrics-port", "0", "--admin-port", "0", "--model-repository", str(repository))
    process = ServiceProcess(*arguments, log=tmp_path / "log")
    try:
        metrics, admin = metrics_address(process), logged(process, "ready")["admin"]
        with varserve.connect(process.address) as client:
            for name in ("kept", "passing"):
                v = client.model(name).variables["v"]
                v.assign(v.numpy() + 1)
        own = {"model": "passing", "version": "1"}
        assert scrape(metrics).value("varserve_commits_total", **own) == 1
        with grpc.insecure_channel(admin) as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            stub.UnloadModel(admin_service_pb2.UnloadModelRequest(model="passing"), timeout=60)
            deadline = time.monotonic() + 60
            while scrape(metrics).names_a_model("passing"):
                assert time.monotonic() < deadline, "its series are still there"
            assert scrape(metrics).value("varserve_commits_total", model="kept") == 1
            stub.LoadModel(admin_service_pb2.LoadModelRequest(model="passing"), timeout=120)
        deadline = time.monotonic() + 60
        again = scrape(metrics)
        while not again.names_a_model("passing"):
            assert time.monotonic() < deadline, "it has no series"
            again = scrape(metrics)
        assert again.value("varserve_commits_total", **own) == 0
        assert again.value("varserve_model_revision", **own) == 0
    finally:
        process.close()
