"""Commands that wait: for commits, and for the service to be ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import varserve

from . import output, records
from .common import REVISION, command, header_of, model_argument, patterns_argument
from .exits import DIFFERENT, Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    import numpy as np

    from varserve import Change, Event, Model, Summary
    from varserve.recording import Recorder

    from . import values as parts
else:
    np = late("numpy")
    parts = late("varserve.cli.values")


@command("watch", follows=True)
@model_argument
@patterns_argument
@click.option(
    "--after-revision",
    type=REVISION,
    metavar="N",
    help="Begin with the first commit after this revision. [from now on]",
)
@click.option("--values", is_flag=True, help="The values that commits leave.")
@click.option(
    "--count", "-n", type=click.IntRange(min=1), metavar="N", help="End after so many commits."
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so long.",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write histograms and statistics of what changes as TensorBoard's event files.",
)
@click.option("--mlflow", is_flag=True, help="Write them into a run of MLflow, with who and why.")
def watch(
    session: Session,
    model: str,
    patterns: tuple[str, ...],
    after_revision: int | None,
    values: bool,
    count: int | None,
    seconds: float | None,
    tensorboard: Path | None,
    mlflow: bool,
) -> None:
    """Follow commits as they happen, until Ctrl-C. With --json, a document for each on a line."""
    with ExitStack() as stack:
        recorders = _recorders(model, tensorboard, mlflow)
        for recorder in recorders:
            stack.callback(recorder.close)
        _follow(session, model, patterns, after_revision, values, count, seconds, recorders)


def _follow(
    session: Session,
    model: str,
    patterns: tuple[str, ...],
    after_revision: int | None,
    values: bool,
    count: int | None,
    seconds: float | None,
    recorders: Sequence[Recorder],
) -> None:
    handle = session.client.model(model) if recorders else None
    with session.client.watch_variables(
        model, patterns, after_revision=after_revision, values=values, timeout=seconds
    ) as events:
        events.on_connection = lambda what, detail: output.warning(f"connection {what}: {detail}")
        for event in islice(events, count):
            if session.as_json:
                output.document(_event(event, values))
            else:
                _show(event, values)
            if handle is not None:
                _record(handle, event, recorders)


def _recorders(model: str, tensorboard: Path | None, mlflow: bool) -> list[Recorder]:
    from varserve.recording.mlflow import MlflowRecorder
    from varserve.recording.tensorboard import TensorBoardRecorder

    recorders: list[Recorder] = []
    if tensorboard is not None:
        _check_installed("tensorboardX", "--tensorboard", "tensorboard")
        recorders.append(TensorBoardRecorder(tensorboard))
    if mlflow:
        _check_installed("mlflow", "--mlflow", "mlflow")
        recorders.append(MlflowRecorder(model))
    return recorders


def _check_installed(package: str, option: str, extra: str) -> None:
    if find_spec(package) is None:
        raise Unusable(
            f'{option} needs {package}, not installed here: pip install "varserve[{extra}]"'
        )


def _record(model: Model, event: Event, recorders: Sequence[Recorder]) -> None:
    """Give a commit to the recorders, with summaries of its variables as it left them."""
    from varserve.recording import BINS

    names = list(dict.fromkeys(each.variable for each in event.changes))
    summaries: Mapping[str, Summary] = {}
    try:
        summaries = model.summaries(dict.fromkeys(names), bins=BINS, at_revision=event.revision)
    except (varserve.RevisionCompacted, varserve.AccessDenied) as error:
        output.warning(f"revision {event.revision} is recorded without values: {error}")
    for recorder in recorders:
        recorder.record(event, summaries)


def _event(event: Event, values: bool) -> dict[str, Any]:
    return {
        **header_of(event.header),
        **records.document(records.INFO, event.info),
        "changes": [
            {
                "variable": each.variable,
                "region": _region(each),
                "shape": list(each.shape),
                "bytes": each.nbytes,
                **(
                    {"value": None if each.value is None else output.jsonable(each.value)}
                    if values
                    else {}
                ),
            }
            for each in event.changes
        ],
    }


def _region(change: Change) -> str | None:
    if isinstance(change.region, np.ndarray):
        return f"[{','.join(str(each) for each in change.region.tolist())}]"
    return parts.part_text(change.region)


def _show(event: Event, values: bool) -> None:
    info = event.info
    who = f" {info.subject}" if info.subject else ""
    why = f": {info.message}" if info.message else ""
    output.line(f"{info.revision}  {output.time(info.time)}  {info.kind}{who}{why}")
    for each in event.changes:
        region = _region(each)
        part = "" if region is None else f"[{region}]"
        output.line(f"    {each.variable}{part}  {output.size(each.nbytes)}")
        if values and each.value is not None:
            for line in output.shown(each.value).split("\n"):
                output.line(f"        {line}")


@command("wait-ready")
@click.argument("model", default="")
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest to wait.",
)
def wait_ready(session: Session, model: str, seconds: float) -> None:
    """Wait until the service, or one model of it, is ready. Exit code 1: not ready in time."""
    try:
        session.client.wait_ready(model, timeout=seconds)
    except varserve.DeadlineExceeded as error:
        if session.as_json:
            output.document({"ready": False, "message": error.message})
        else:
            output.note(error.message)
        click.get_current_context().exit(DIFFERENT)
    if session.as_json:
        output.document({"ready": True})
    else:
        output.line("ready")


COMMANDS = (watch, wait_ready)
