"""What tests of several rooms share: real SavedModels, built once, and the service over them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes  # noqa: F401  (as TensorFlow does: the service's fakes are without it)
import pytest
from hypothesis import HealthCheck, settings

from tests import saved_models
from tests.serving import ServiceProcess, service_process
from tests.turns import Turns
from varserve_service.logs import configure_logs

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
configure_logs("warning")
(_LOG,) = logging.getLogger().handlers
# How long an example takes says nothing on a machine that is busy with other things.
settings.register_profile(
    "varserve", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("varserve")

DEMO_MODEL = Path(__file__).resolve().parents[1] / ".models" / "basic_pitch" / "1"

# Folders whose files are short.
_SHORT = ("contract", "client", "cli", "core", "access", "benchmarks", "telemetry", "mutants")
_LATER = {folder: place for place, folder in enumerate(_SHORT, 1)}

Serve = Callable[..., AbstractContextManager[ServiceProcess]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with what was skipped: for each reason, how many tests of which files."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        skipped.setdefault(reason, []).append(report.nodeid.partition("::")[0])
    if not skipped:
        return
    terminalreporter.section("skipped")
    for reason, files in sorted(skipped.items()):
        terminalreporter.line(f"{len(files)}: {reason} ({', '.join(sorted(set(files)))})")


# ---- where workers share the tests: `make test` ----

_TURNS: pytest.StashKey[Turns] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Workers know where they take turns."""
    if hasattr(config, "workerinput"):
        config.stash[_TURNS] = turns = Turns(Path(config.workerinput["turns"]))
        config.add_cleanup(turns.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A folder for the turns of all workers, which is gone when they are."""
    if not hasattr(node.config, "turns"):
        node.config.turns = TemporaryDirectory(prefix="varserve-turns-")
        node.config.add_cleanup(node.config.turns.cleanup)
    node.workerinput["turns"] = node.config.turns.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files begin, so that none is left to end alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _LATER.get(item.path.parent.name, 0))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is marked `alone` has no other beside it."""
    turns = item.config.stash.get(_TURNS, None)
    alone = item.get_closest_marker("alone") is not None
    with nullcontext() if turns is None else turns.taken(alone=alone):
        return (yield)


# ---- fixtures ----


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns after microseconds, so that one stops in the middle of anything."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class _StandardError:
    """Whatever is standard error at this moment: what is captured is another file in each phase."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What the service has logged since the last look, from `info` on.

    The handler of all tests writes to what this test captures, while it runs.
    """
    usual = _LOG.setStream(_StandardError())
    levels = {name: logging.getLogger(name).level for name in ("varserve", "varserve_service")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.INFO)
    yield lambda: capsys.readouterr().err
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    _LOG.setStream(usual)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a SavedModel by its builder's name; built once, in this process."""
    root = tmp_path_factory.mktemp("models")
    return lambda name: saved_models.build(name, root)


@pytest.fixture(scope="session")
def serve(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`serve("counter", "slow", arguments=[...])`: the real service over SavedModels by name."""

    def start(
        *names: str, arguments: tuple[str, ...] = ()
    ) -> AbstractContextManager[ServiceProcess]:
        log = tmp_path_factory.mktemp("service") / "log"
        return service_process({name: model_folder(name) for name in names}, log, arguments)

    return start


@pytest.fixture(scope="session")
def demo_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service over basic-pitch, as `make serve` starts it."""
    if not DEMO_MODEL.is_dir():
        pytest.fail(f"{DEMO_MODEL} is not there: `make test` unpacks it")
    log = tmp_path_factory.mktemp("demo") / "log"
    with service_process({"basic_pitch": DEMO_MODEL}, log) as process:
        yield process
