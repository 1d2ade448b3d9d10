"""The command `varserve-service`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc
import pydantic
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .bootstrap import serve as serve_settings
from .core.errors import JournalError, ModelLoadError
from .repository import RepositoryError
from .settings import load_settings

EXIT_CANNOT_SERVE = 2


class NamedPath(click.ParamType):
    """NAME=PATH."""

    name = "NAME=PATH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Path]:
        """Split at the first equals sign."""
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            self.fail(f"expected NAME=PATH, found {value!r}", param, ctx)
        return name, Path(path)


@click.group()
@click.version_option(package_name="varserve-service")
def main() -> None:
    """Opens the live state of TensorFlow SavedModels over gRPC."""


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of these settings.")
@click.option("--model", "models", type=NamedPath(), multiple=True, help="A model; repeatable.")
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path),
    help="Folder of NAME/VERSION/saved_model.pb; the highest version is served.",
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8500]")
@click.option("--device", help="auto, cpu or gpu:N.  [default: auto]")
@click.option("--gpu-memory-limit", type=int, help="MiB of GPU memory to take at most.")
@click.option("--reflection/--no-reflection", default=None, help="Answer gRPC reflection.")
@click.option("--threads-per-model", type=int, help="Calls of one model that run at once.")
@click.option("--max-pending-calls", type=int, help="Calls of one model that run or wait.")
@click.option("--max-body-bytes", type=int, help="Largest body of one streaming request.")
@click.option("--max-staging-bytes", type=int, help="Bytes of all bodies arriving at once.")
@click.option(
    "--warm-up/--no-warm-up",
    default=None,
    help="Before ready, run every function that changes nothing on zeros.",
)
@click.option(
    "--warm-up-requests",
    type=click.Path(path_type=Path),
    help="Before ready, run a file's requests: one RunFunctionRequest a line, as JSON.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the state in this folder.")
@click.option(
    "--state-reset",
    is_flag=True,
    default=None,
    help="Move a kept state that is refused aside, and begin anew.",
)
@click.option("--history-commits", type=int, help="Commits of a model to keep.  [default: 10000]")
@click.option("--history-bytes", type=int, help="Bytes of a model's commits to keep.")
@click.option("--request-ids", type=int, help="Writes to remember by request_id.  [default: 10000]")
@click.option("--request-id-age", type=float, help="Seconds to remember them.  [default: 86400]")
@click.option("--grace", type=float, help="Seconds for calls in progress at shutdown.")
@click.option("--log-level", help="debug, info, warning or error.")
def serve(config: Path | None, models: tuple[tuple[str, Path], ...], **flags: Any) -> None:
    """Serve models until a signal says stop.

    Every option can also be set as VARSERVE_NAME in the environment (models as a JSON object) or
    as `name: value` in the file of --config.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if models:
        given["models"] = dict(models)
    try:
        serve_settings(load_settings(given, config))
    except pydantic.ValidationError as error:
        for problem in error.errors():
            setting = ".".join(str(part) for part in problem["loc"])
            _complain(f"setting {setting}: {problem['msg']}, found {problem['input']!r}")
        _give_up()
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        _complain(str(error))
        _give_up()
    except (
        JournalError,
        ModelLoadError,
        RepositoryError,
        OSError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        _complain(str(error))
        _give_up()


@main.command()
@click.option("--address", default="127.0.0.1:8500", show_default=True, help="HOST:PORT.")
@click.option("--service", default="", help="A model's name; the whole service if not given.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait.")
def health(address: str, service: str, timeout: float) -> None:
    """Exit with 0 when the service at an address is serving, else with 1."""
    with grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            _complain(f"{address}: {error.code().name}")
            sys.exit(1)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    click.echo(status)
    sys.exit(0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1)


def _give_up() -> NoReturn:
    # At once: by now TensorFlow may be loaded, and taking it down in good order takes seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CANNOT_SERVE)


def _complain(message: str) -> None:
    click.echo(f"varserve-service: {message}", err=True)


if __name__ == "__main__":
    main()
