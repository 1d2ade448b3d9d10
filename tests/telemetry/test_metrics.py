"""What Prometheus is told, and what no client can make it be told."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel, Gate
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.wire import METHODS, connected
from tests.telemetry.scrape import Scrape, scrape
from tests.telemetry.watched import sources, watched
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.ports.observer import UNOBSERVED, Observer
from varserve_service.rpc import methods
from varserve_service.telemetry import Telemetry

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "monitoring" / "alerts.yaml"
SERVICE = "varserve.v1.ModelService"
FLOOD = 2_000


def model(observer: Observer) -> LiveModel:
    return counter(observer=observer)


def test_calls_are_counted_under_the_names_of_the_stock_dashboards() -> None:
    """Started, handled by code, seconds and messages of each method, in gRPC's own words."""
    with watched(model) as found, connected(found.address) as wire:
        for _ in range(3):
            wire.ask("ReadVariable", requests.read())
        wire.ask("ReadVariable", requests.read(variable="nope"))
        data = requests.V_BYTES
        wire.ask("AssignVariables", requests.manifest(), requests.chunk(0, data))
        metrics = found.scrape()
    read = {"grpc_service": SERVICE, "grpc_method": "ReadVariable", "grpc_type": "unary"}
    assert metrics.value("grpc_server_started_total", **read) == 4
    assert metrics.value("grpc_server_handled_total", **read, grpc_code="OK") == 3
    assert metrics.value("grpc_server_handled_total", **read, grpc_code="NotFound") == 1
    assert metrics.value("grpc_server_handling_seconds_count", **read) == 4
    assert metrics.value("grpc_server_handling_seconds_sum", **read) > 0
    assert metrics.value("grpc_server_msg_received_total", **read) == 4
    assert metrics.value("grpc_server_msg_sent_total", **read) == 3
    assign = {"grpc_method": "AssignVariables", "grpc_type": "client_stream"}
    assert metrics.value("grpc_server_msg_received_total", **assign) == 2
    refused = {"grpc_method": "ReadVariable", "reason": "VARIABLE_NOT_FOUND"}
    assert metrics.value("varserve_refused_calls_total", **refused) == 1


async def test_a_late_event_loop_is_seen() -> None:
    """What keeps the thread that takes every call shows as its delay."""
    telemetry = Telemetry(methods())
    address = telemetry.export("127.0.0.1", 0, keep_seconds=0.0)
    measuring = asyncio.create_task(telemetry.measure_delay())
    name = "varserve_event_loop_delay_seconds"
    try:

        async def measured(count: float) -> Scrape:
            async with asyncio.timeout(60):
                while True:
                    found = await asyncio.to_thread(scrape, address)
                    if found.value(f"{name}_count") >= count:
                        return found
                    await asyncio.sleep(0.02)

        before = await measured(1)
        time.sleep(0.6)
        after = await measured(before.value(f"{name}_count") + 1)
    finally:
        measuring.cancel()
        telemetry.close()
    assert after.value(f"{name}_sum") - before.value(f"{name}_sum") > 0.25


def test_every_method_begins_at_zero() -> None:
    """Rates can be taken from the first scrape on: no method is missing until it is called."""
    with watched(model) as found:
        metrics = found.scrape()
    for name in METHODS:
        assert metrics.value("grpc_server_started_total", grpc_method=name) == 0
        assert metrics.value("grpc_server_handled_total", grpc_method=name, grpc_code="OK") == 0
        assert metrics.value("grpc_server_handling_seconds_count", grpc_method=name) == 0


def test_what_an_alert_waits_for_begins_at_zero() -> None:
    """The first call that is refused for a reason that has an alert is an increase already."""
    reasons = re.findall(r'varserve_refused_calls_total\{reason="(\w+)"\}', ALERTS.read_text())
    assert len(reasons) >= 4
    with watched(model) as found:
        metrics = found.scrape()
    for name in METHODS:
        for reason in reasons:
            refused = {"grpc_method": name, "reason": reason}
            assert metrics.value("varserve_refused_calls_total", **refused) == 0


def test_a_model_tells_what_it_does_and_what_it_is() -> None:
    """Commits, bytes, pauses, waits, runs, revision, memory: as many as there were."""
    value = np.ones(3, np.float32)
    with watched(model) as found:
        before = found.scrape()
        with varserve.connect(found.address) as client:
            client.assign_variable("counter", "v", value)
            client.assign_variables("counter", {"v": value, "count": np.int64(1)})
            client.run_function("counter", "total", {"x": value})
            client.read_variable("counter", "v")
            client.read_variable("counter", "v")
            client.read_variables("counter", ["v", "count"])
        metrics = found.scrape()
    own = {"model": "counter", "version": "1"}
    assert before.value("varserve_model_revision", **own) == 0
    assert not before.find("varserve_last_write_timestamp_seconds")
    assert metrics.value("varserve_model_revision", **own) == 2
    assert metrics.value("varserve_last_write_timestamp_seconds", **own) > 1.5e9
    assert metrics.value("varserve_commits_total", **own) == 2
    assert metrics.value("varserve_written_bytes_total", **own) == 12 + 20
    assert metrics.value("varserve_read_bytes_total", **own) == 12 + 12 + 20
    assert metrics.value("varserve_commit_pause_seconds_count", **own) == 2
    assert metrics.value("varserve_lock_wait_seconds_count", **own, kind="exclusive") == 2
    assert metrics.value("varserve_lock_wait_seconds_count", **own, kind="shared") >= 3
    assert metrics.value("varserve_function_seconds_count", **own) == 1
    assert metrics.value("varserve_variable_bytes", **own, device="CPU:0") == 20
    assert metrics.value("varserve_model_info", **own, device="CPU:0", labels="stable") == 1
    assert metrics.value("varserve_model_versions", model="counter", state="ready") == 1


def test_names_that_clients_make_up_make_no_series() -> None:
    """2,000 names for models, variables, functions, inputs and methods: not one series more."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)

    def name() -> str:
        letters = [chr(choose.choice([*range(1, 256), 0x2028, 0x1F600])) for _ in range(20)]
        return "".join(letters)

    def ask(wire: Any, channel: grpc.Channel) -> None:
        match choose.randrange(6):
            case 0:
                wire.ask("ReadVariable", requests.read(model=name()))
            case 1:
                wire.ask("ReadVariable", requests.read(model=f"counter@{choose.randrange(10**9)}"))
            case 2:
                wire.ask("AssignVariable", requests.assign(variable=name(), request_id=name()))
            case 3:
                wire.ask("RunFunction", requests.run(function=name()))
            case 4:
                wire.ask("RunFunction", requests.run(inputs={name(): requests.tensor()}))
            case _:
                method = f"/{choose.randrange(10**9)}.Service/M{choose.randrange(10**9)}"
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(b"", timeout=30)

    with (
        watched(model) as found,
        connected(found.address) as wire,
        grpc.insecure_channel(found.address) as channel,
    ):
        for _ in range(200):
            ask(wire, channel)
        before = found.scrape()
        for _ in range(FLOOD):
            ask(wire, channel)
        after = found.scrape()
    assert set(after.values) == set(before.values)
    handled = after.value("grpc_server_handled_total") - before.value("grpc_server_handled_total")
    assert handled == FLOOD
    assert after.value("grpc_server_handled_total", grpc_code="Unimplemented") >= FLOOD / 20
    assert set(after.find("grpc_server_started_total", grpc_service="unknown"))


def test_calls_that_last_are_seen_while_they_last() -> None:
    """A running function and an open watch are in progress, and not any more when they end."""
    gate = Gate()

    def wait() -> dict[str, Any]:
        gate()
        return {}

    def make(observer: Observer) -> LiveModel:
        return counter(functions=(FakeFunction("wait", wait),), observer=observer)

    def open_calls() -> dict[str, float]:
        return {
            dict(series.labels)["grpc_method"]: value
            for series, value in found.scrape().find("varserve_calls_in_progress").items()
            if value
        }

    with watched(make) as found, varserve.connect(found.address) as client:
        client.assign_variable("counter", "v", np.zeros(3, np.float32))
        running = threading.Thread(target=client.run_function, args=("counter", "wait", {}))
        running.start()
        assert gate.reached.wait(30)
        watch = client.watch_variables("counter", after_revision=0)
        next(iter(watch))
        assert open_calls() == {"RunFunction": 1, "WatchVariables": 1}
        assert found.scrape().value("varserve_watches", model="counter") == 1
        gate.opened.set()
        running.join(30)
        assert open_calls() == {"WatchVariables": 1}


def test_the_series_of_a_model_go_with_it() -> None:
    """A version that is not served any more leaves no series behind; the others stay."""
    telemetry = Telemetry(methods())
    address = telemetry.export("127.0.0.1", 0, keep_seconds=0.0)
    kept = counter(observer=telemetry.model("counter", 1))
    models = Models([kept])
    telemetry.watch(sources(models))
    gone = LiveModel(FakeModel([], name="gone"), observer=telemetry.model("gone", 1))
    models.serve(gone)
    gone.describe()
    assert {"varserve_model_revision", "varserve_commits_total"} <= scrape(address).names_a_model(
        "gone"
    )
    models.withdraw("gone")
    # On its way out it is still told of: its calls may take a while.
    assert "varserve_commits_total" in scrape(address).names_a_model("gone")
    models.forget("gone", 1)
    left = scrape(address)
    assert left.names_a_model("gone") == set()
    assert "varserve_commits_total" in left.names_a_model("counter")
    # ... also when it does something after that.
    gone.describe()
    assert scrape(address).names_a_model("gone") == set()
    telemetry.close()


@pytest.mark.parametrize("scraped_while_it_loads", [False, True])
def test_a_version_that_comes_again_has_series_again(scraped_while_it_loads: bool) -> None:
    """A version that is loaded a second time counts from 0, whenever the first one dies.

    Whether somebody looks while it is loaded, warmed say, and not served yet, makes no difference.
    """
    telemetry = Telemetry(methods())
    address = telemetry.export("127.0.0.1", 0, keep_seconds=0.0)
    models = Models()
    telemetry.watch(sources(models))
    first = counter(observer=telemetry.model("counter", 1))
    models.serve(first)
    first.describe()
    scrape(address)
    models.withdraw("counter")
    models.forget("counter", 1)
    if not scraped_while_it_loads:
        scrape(address)
    second = counter(observer=telemetry.model("counter", 1))
    if scraped_while_it_loads:
        scrape(address)
    models.serve(second)
    second.describe()
    del first
    gc.collect()
    found = scrape(address)
    assert found.value("varserve_lock_wait_seconds_count", model="counter", kind="shared") == 1
    telemetry.close()


def test_a_version_that_was_never_served_leaves_no_series() -> None:
    """A load that fails late has had an observer; its series go with it."""
    telemetry = Telemetry(methods())
    address = telemetry.export("127.0.0.1", 0, keep_seconds=0.0)
    models = Models()
    telemetry.watch(sources(models))
    failed = counter(observer=telemetry.model("counter", 7))
    failed.describe()
    models.note("counter", 7, ModelState.FAILED, "it does not fit")
    assert "varserve_commits_total" in scrape(address).names_a_model("counter")
    del failed
    gc.collect()
    found = scrape(address)
    assert found.names_a_model("counter") == {"varserve_model_versions"}
    assert found.value("varserve_model_versions", model="counter", state="failed") == 1
    telemetry.close()


def test_without_a_port_nothing_is_counted() -> None:
    """Who does not ask for metrics does not pay for them."""
    telemetry = Telemetry(methods())
    assert list(telemetry.call_observers) == []
    assert telemetry.model("counter", 1) is UNOBSERVED
