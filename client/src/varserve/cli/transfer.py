"""Commands that move whole models: all variables to and from one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import varserve

from . import output, records
from .common import (
    at_revision_option,
    check_finite,
    command,
    committed,
    header_of,
    if_revision_option,
    message_option,
    model_argument,
    non_finite_option,
    pairs,
    patterns_argument,
    renames,
    renaming_options,
)
from .exits import DIFFERENT, Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve import Differences, Given, Model
    from varserve._client import stored as files
    from varserve._client.handles import file_operations
    from varserve._client.transport import bodies

    from . import values
else:
    bodies = late("varserve._client.transport.bodies")
    file_operations = late("varserve._client.handles.file_operations")
    files = late("varserve._client.stored")
    values = late("varserve.cli.values")


@contextmanager
def sending(session: Session) -> Iterator[None]:
    """Until all bytes that the block sends are gone, nothing is changed by it."""
    session.sent = False

    def report(done: int, total: int) -> None:
        session.sent = done == total
        session.progress.report(done, total)

    with bodies.reporting(report):
        yield


@command("pull")
@model_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@patterns_argument
@at_revision_option
def pull(
    session: Session,
    model: str,
    file: Path,
    patterns: tuple[str, ...],
    at_revision: int | None,
) -> None:
    """Write all variables, or those that fit a PATTERN, to FILE.safetensors, of one revision.

    The file is there whole or not at all. Dtypes that safetensors lacks are kept as bytes.
    """
    served = session.model(model)
    snapshot = served.save(file, patterns, at_revision=at_revision, timeout=session.timeout)
    header = header_of(snapshot.header)
    nbytes = file.stat().st_size
    if session.as_json:
        output.document({**header, "file": str(file), "variables": len(snapshot), "bytes": nbytes})
    else:
        output.line(
            f"{len(snapshot)} variables of revision {snapshot.revision} "
            f"written to {file} ({output.size(nbytes)})"
        )


@command("push", writes=True)
@model_argument
@click.argument("file", type=click.Path(path_type=Path, exists=False))
@patterns_argument
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would change, and change nothing. Exit code 1: something would.",
)
@click.option(
    "--ignore-unknown",
    is_flag=True,
    help="Leave out tensors of the file that the model has no variable for.",
)
@renaming_options
@click.option("--cast", is_flag=True, help="Make tensors of FILE of the variables' dtypes.")
@non_finite_option
@click.option(
    "--check",
    metavar="FUNCTION",
    help="Commit only if this function passes with the new values; see --check-input.",
)
@click.option(
    "--check-input", multiple=True, metavar="NAME=VALUE", help="An input of the check's function."
)
@if_revision_option
@message_option
def push(
    session: Session,
    model: str,
    file: Path,
    patterns: tuple[str, ...],
    dry_run: bool,
    ignore_unknown: bool,
    allow_non_finite: bool,
    if_revision: int | None,
    message: str,
    cast: bool,
    names: tuple[str, ...],
    strip_prefix: str,
    check: str | None,
    check_input: tuple[str, ...],
) -> None:
    """Set all variables that are in FILE, or those that fit a PATTERN, as one commit.

    FILE is .safetensors (as by `pull`), .npz, Keras' .keras, .weights.h5 or .h5, a SavedModel's
    folder or a checkpoint's prefix. Everything is checked before anything is sent.
    """
    session.sent = False  # what comes before the commit changes nothing
    served = session.model(model)
    variables = file_operations.variables_of(served._cache)
    stored = files.open_stored(file).renamed(renames(names), strip_prefix)
    chosen = files.choose(stored, variables, patterns, ignore_unknown=ignore_unknown)
    if dry_run:
        compared = served._diff_stored(stored, list(chosen), timeout=session.timeout)
        _warn_if_final(session, served, chosen)
        _show_plan(session, compared, file)
        return
    _warn_if_final(session, served, chosen)
    arrays = files.values_of(chosen, variables, cast=cast)
    for name, array in arrays.items():
        if array.dtype.kind != "O":
            check_finite(name, array, allow_non_finite)
    with (
        sending(session),
        served.transaction(
            if_revision_match=if_revision,
            check=_check(served, check, check_input),
            message=message,
            timeout=session.timeout,
        ) as transaction,
    ):
        for name, array in arrays.items():
            transaction.assign(name, array)
    assert transaction.commit is not None
    committed(session, transaction.commit, file=str(file), variables=len(arrays))


def _check(model: Model, function: str | None, inputs: tuple[str, ...]) -> Given | None:
    """What must pass before the commit is made."""
    if function is None:
        if inputs:
            raise Unusable("--check-input: expected --check FUNCTION with it")
        return None
    given = {name: values.read_value(text) for name, text in pairs("--check-input", inputs)}
    return model.functions[function].given(**given)


def _warn_if_final(session: Session, model: Model, names: Iterable[str]) -> None:
    """Say before a push that it cannot be undone, where the history keeps less than it replaces."""
    try:
        kept = session.client.list_commits(model.name, limit=1, timeout=session.timeout)
    except varserve.AccessDenied:
        return  # a caller without the right to the history cannot revert either
    replaced = sum(model.variables[name].nbytes for name in names)
    if replaced > kept.history_bytes:
        output.warning(
            f"this push cannot be undone: it replaces {output.size(replaced)}, and the service "
            f"keeps {output.size(kept.history_bytes)} of replaced values (its setting "
            "history_bytes). `varserve pull` keeps a copy of the values as they are"
        )


def _show_plan(session: Session, compared: Differences, file: Path) -> None:
    changes = compared.variables
    if session.as_json:
        output.document(
            {
                **header_of(compared.header),
                "file": str(file),
                "equal": compared.equal,
                "different": records.documents(records.DIFFERENCES, changes),
            }
        )
    else:
        records.table(records.DIFFERENCES, changes)
        output.line(
            f"{len(changes)} would change, {compared.equal} are the same "
            f"(at revision {compared.header.revision})"
        )
    if changes:
        click.get_current_context().exit(DIFFERENT)


COMMANDS = (pull, push)
