"""What the command `varserve-service` can do, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc
import pydantic
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic_settings import SettingsError

from .bootstrap import serve as serve_settings
from .bootstrap import try_out
from .core.errors import JournalError, ModelLoadError, RequestError
from .flags import given, settings_options
from .repository import RepositoryError
from .settings import health_address, load_settings

EXIT_CANNOT_SERVE = 2


@click.group()
@click.version_option(package_name="varserve-service")
def main() -> None:
    """Opens the live state of TensorFlow SavedModels over gRPC."""


@main.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Load the models, say what they are, and end.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of these settings.")
@settings_options
def serve(folders: tuple[Path, ...], dry_run: bool, config: Path | None, **flags: Any) -> None:
    """Serve models until a signal says stop.

    FOLDER is a SavedModel, a folder of its versions, or a model repository (NAME/VERSION). To give
    a model another name than its folder's, use --model.

    Every option can also be set as VARSERVE_NAME in the environment (models as a JSON object) or
    as `name: value` in the file of --config. Sizes are in bytes, times in seconds.
    """
    try:
        settings = load_settings(given(flags, folders), config)
        check_process()
        (try_out if dry_run else serve_settings)(settings)
    except pydantic.ValidationError as error:
        for problem in error.errors():
            setting = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            found = _without_password(repr(problem["input"]))
            _complain(f"setting {setting}: {message}, found {found}")
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
        cause = error.__cause__ if isinstance(error, SettingsError) else None
        said = f"{error}: {cause}" if cause else str(error)
        _complain(said + _address_space() if "memory" in said else said)
        _give_up()
    except (ImportError, MemoryError, RuntimeError) as error:
        if not _is_want_of_memory(error):
            raise
        _complain(f"not enough memory: {str(error) or type(error).__name__}{_address_space()}")
        _give_up()


@main.command()
@click.option(
    "--address",
    default=lambda: health_address(os.environ),
    show_default="this machine, at $VARSERVE_HEALTH_PORT, else $VARSERVE_PORT, else 8500",
    help="HOST:PORT.",
)
@click.option("--service", default="", help="A model's name; the whole service if not given.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait.")
def health(address: str, service: str, timeout: float) -> None:
    """Exit with 0 when the service at an address is serving, else with 1. Asks in plaintext."""
    # A proxy that the environment names is for targets elsewhere.
    direct = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=direct) as channel:
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


@main.group()
def state() -> None:
    """Work on a state while no service uses it."""


@state.command("copy")
@click.argument("source")
@click.argument("target")
def state_copy(source: str, target: str) -> None:
    """Copy every model's state from SOURCE to TARGET, and compare the copy by hashes.

    Each of the two is a state directory, or the address of a database: postgresql://USER@HOST/NAME.
    Give its password in ~/.pgpass or $PGPASSWORD, not in the address. Stop all services first. The
    copy goes on in the same epoch: serve one of the two from then on. Leases are not copied, and
    what they wrote stays.
    """
    from .bootstrap.copying import copy_states

    try:
        for line in copy_states(source, target):
            click.echo(line)
    except (JournalError, RequestError, OSError) as error:
        _complain(str(error))
        sys.exit(EXIT_CANNOT_SERVE)


def check_process() -> None:
    """Raises OSError where the process cannot work, however it is configured."""
    if limit := _address_space():
        # TensorFlow ends the process where it gets no thread: it must be said before.
        _complain(f"warning{limit.replace(';', ':', 1)}")
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise OSError(
            "no folder for temporary files, which TensorFlow needs: make /tmp writable, or set "
            "TMPDIR to a folder that is"
        ) from None


def _is_want_of_memory(error: BaseException) -> bool:
    """As the loader of libraries, Python, and the maker of threads say it."""
    said = ("failed to map segment", "cannot allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in said)


def _address_space() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ""
    return (
        f"; the address space is limited to {limit} bytes (ulimit -v), and TensorFlow maps far "
        "more than it uses: limit memory by a control group or memory_limit"
    )


def _give_up() -> NoReturn:
    # At once: by now TensorFlow may be loaded, and taking it down in good order takes seconds.
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(EXIT_CANNOT_SERVE)


def _without_password(text: str) -> str:
    """The text, without what is before the host of a URL."""
    return re.sub(r"//[^/@]*@", "//...@", text)


def _complain(message: str) -> None:
    click.echo(f"varserve-service: {message}", err=True)
